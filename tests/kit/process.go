package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// ProcessOptions say how to start a Process. Path and Log are needed.
type ProcessOptions struct {
	Path string   // of the program, or its name in $PATH
	Args []string // without the program's name
	Env  []string // added to this process's
	Dir  string
	Log  string // file that stdout and stderr are appended to
	// Credential is the user to run as; nil is this process's.
	Credential *syscall.Credential
}

// Process is a running program, the head of a process group of its own.
// Its methods may be called from many goroutines.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
	peak atomic.Int64
}

// Start starts a program.
func Start(o ProcessOptions) (*Process, error) {
	name := filepath.Base(o.Path)
	if o.Log == "" {
		return nil, fmt.Errorf("start %s: no log file given", name)
	}
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.Dir, log, log
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: o.Credential}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, log: o.Log, cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the process; every method that ends it waits for done
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is the process's number, also after its end.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// WaitHealthy asks healthy every 10 ms until it returns nil. It fails, with the end of
// the log, when the process ends or ctx does; healthy is given ctx.
func (p *Process) WaitHealthy(ctx context.Context, healthy func(context.Context) error) error {
	for {
		err := healthy(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was healthy: %v\n%s", p.name, p.err, p.LogTail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s is not healthy: %w: %w\n%s", p.name, ctx.Err(), err, p.LogTail(20))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Wait waits for the end; the error is that of a program that failed.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
	}
}

// Kill9 kills the whole process group with SIGKILL, then what the head had started, with the groups of their own that those have, and waits until
// all of them are gone: what ends with its parent ends a moment later, and holds mounts and files until then.
func (p *Process) Kill9() {
	p.samplePeak()
	family := p.family()
	p.signalGroup(syscall.SIGKILL)
	<-p.done
	// Members that the head has left behind.
	p.signalGroup(syscall.SIGKILL)
	for _, r := range family {
		r.kill()
	}
	awaitGone(family, familyPatience)
}

// familyPatience is how long killed processes may take to let go of their files.
const familyPatience = 10 * time.Second

// family returns what the process has started and is still there. While it is looked for the process makes no more of them.
func (p *Process) family() []relative {
	select {
	case <-p.done: // its number may be another's by now
		return nil
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	return descendantsOf(p.Pid())
}

// Term sends SIGTERM and waits. A process that is still there when ctx ends is
// killed, which is an error, as is one that ended with a failure. It is no concern of Term what the process leaves behind.
func (p *Process) Term(ctx context.Context) error { return p.Stop(ctx, syscall.SIGTERM) }

// Stop is Term with another signal.
func (p *Process) Stop(ctx context.Context, sig syscall.Signal) error {
	p.samplePeak()
	select {
	case <-p.done: // its number may be another's by now
	default:
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
	}
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s: %w\n%s", p.name, p.err, p.LogTail(20))
		}
		return nil
	case <-ctx.Done():
		p.Kill9()
		return fmt.Errorf("%s did not stop on %v and was killed: %w\n%s", p.name, sig, ctx.Err(), p.LogTail(20))
	}
}

// signalGroup signals all of the group; ESRCH is what is wanted in the end.
func (p *Process) signalGroup(sig syscall.Signal) { _ = syscall.Kill(-p.Pid(), sig) }

// PeakRSS returns the most memory that the process and what it had started held, each at its worst moment (the sum of VmHWM), in
// bytes. After its end it is what was seen at Kill9, Term, Stop, or the last
// call, or, where that is more, what the kernel noted of the largest of them at its end.
func (p *Process) PeakRSS() int64 {
	p.samplePeak()
	select {
	case <-p.done:
		if s := p.cmd.ProcessState; s != nil {
			if ru, ok := s.SysUsage().(*syscall.Rusage); ok {
				return max(p.peak.Load(), ru.Maxrss<<10)
			}
		}
	default:
	}
	return p.peak.Load()
}

func (p *Process) samplePeak() {
	select {
	case <-p.done: // its number may be another's by now
	default:
		p.peak.Store(max(p.peak.Load(), peakOf(p.Pid())))
	}
}

// LogTail returns the last lines of the log.
func (p *Process) LogTail(lines int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
