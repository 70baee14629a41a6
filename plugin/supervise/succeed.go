package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// After an upgrade the supervisor becomes the new program as well, by execve: the process, its children and its descriptors stay.
//
// Order: 1. a worker of the new program is ready, and says that its supervisor understands what this one hands over; 2. the new program, with the same
// arguments, reads what would be handed over, and says that it can (the rehearsal); 3. no more messages of the worker are taken: they wait in its socket;
// 4. everything is handed over. Whatever fails before the end of 4 leaves this program as it is, which goes on with the new worker. A worker that dies meanwhile
// is found dead by whoever is supervisor then.

const (
	envCarry     = "FRACTAL_SUPERVISOR_STATE"     // the descriptor of what is handed over
	envRehearsal = "FRACTAL_SUPERVISOR_REHEARSAL" // the descriptor on which to say that it can be read
)

// rehearsalLimit is how long the new program may take to say that it can.
const rehearsalLimit = 10 * time.Second

const rehearsed = "ok\n"

// errSignalled says that a signal came that this program has to act on.
var errSignalled = errors.New("a signal came meanwhile")

// stopping are the signals that must not meet a program without a handler for them.
var stopping = []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP}

// succeed is called when a worker of the program heir is ready that can take this supervisor's place.
func (s *supervisor) succeed(w *worker) {
	c, err := s.carry()
	var state *os.File
	if err == nil {
		state, err = c.write()
	}
	if err != nil {
		s.stay(err)
		return
	}
	path := s.heir
	go func() {
		defer state.Close()
		s.events <- event{w: w, rehearsed: true, err: rehearse(path, w.program, state)}
	}()
}

// stay ends what succeed began; nil where it is of no use any more.
func (s *supervisor) stay(err error) {
	s.heir = ""
	if err == nil {
		return
	}
	s.log.Warn().Err(err).Msg("the worker is the new program; the supervisor stays the one of before")
}

// rehearse has the program at path read state, as it will have to. The worker was started from that path, and runs theirs.
func rehearse(path string, theirs os.FileInfo, state *os.File) error {
	here, err := os.Stat(path)
	if err != nil {
		return err
	}
	if theirs == nil || !os.SameFile(theirs, here) {
		return fmt.Errorf("%s is another program again", path)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	var said strings.Builder
	cmd := exec.Command(path, os.Args[1:]...)
	cmd.Stderr = &said
	cmd.ExtraFiles = []*os.File{state, w}
	cmd.Env = append(os.Environ(), envCarry+"=3", envRehearsal+"=4")
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	late := time.AfterFunc(rehearsalLimit, func() { _ = cmd.Process.Kill() })
	b, err := io.ReadAll(io.LimitReader(r, 64))
	late.Stop()
	_ = cmd.Process.Kill() // it has said all that counts
	_ = cmd.Wait()         // reap may have been first
	if err == nil && string(b) != rehearsed {
		err = fmt.Errorf("the rehearsal failed: %q", strings.TrimSpace(said.String()))
	}
	return err
}

// park has listen take no more messages of w; it says so by an event.
func (w *worker) park() { unix.Close(w.parkW); w.parkW = -1 }

// become makes this process the program heir. It returns only where that fails, or where heir is by now another program than the worker's, which was rehearsed.
func (s *supervisor) become() error {
	c, err := s.carry()
	if err != nil {
		return err
	}
	state, err := c.write()
	if err != nil {
		return err
	}
	defer state.Close()
	n, err := number(state)
	if err != nil {
		return err
	}
	fds := append(c.descriptors(), n)
	defer outlive(fds, false)
	if err := outlive(fds, true); err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, envCarry+"=") || strings.HasPrefix(v, envRehearsal+"=")
	})
	// What comes from here on waits for the new program's handlers.
	if err := mask(unix.SIG_BLOCK); err != nil {
		return err
	}
	defer mask(unix.SIG_UNBLOCK)
	program, err := os.OpenFile(s.heir, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer program.Close()
	here, err := program.Stat()
	if err != nil {
		return err
	}
	if theirs := s.worker.program; theirs == nil || !os.SameFile(theirs, here) {
		return fmt.Errorf("%s is another program again", s.heir)
	}
	if s.signalled() {
		return errSignalled
	}
	err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), os.Args, append(env, envCarry+"="+strconv.Itoa(n)))
	runtime.KeepAlive(s.items)
	return err
}

// signalled reports whether one of the stopping signals has come that run has not seen yet; it stays to be seen. What a handler has taken is not handed over by execve: it
// would be lost. (One that comes between this and execve is kept by the kernel, unless another thread takes it within these microseconds.)
func (s *supervisor) signalled() bool {
	also := make(chan os.Signal, cap(s.signal))
	notify(also)          // so that there is a handler at any time
	signal.Stop(s.signal) // waits until what came before is in a channel
	notify(s.signal)
	signal.Stop(also)
	came := map[os.Signal]bool{} // one may be in both
	for _, c := range []chan os.Signal{s.signal, also} {
		for len(c) > 0 {
			came[<-c] = true
		}
	}
	for sig := range came {
		s.signal <- sig
	}
	return len(s.signal) > 0
}

func notify(c chan os.Signal) {
	for _, sig := range stopping {
		signal.Notify(c, sig)
	}
}

// mask blocks or lets through the stopping signals on this thread, and on those that it starts.
func mask(how int) error {
	var set unix.Sigset_t
	for _, sig := range stopping {
		bit := uint(sig) - 1
		set.Val[bit/64] |= 1 << (bit % 64)
	}
	return unix.PthreadSigmask(how, &set, nil)
}

// inherit returns what the program before this one handed over, nil where there was none. rehearsal: this is not yet its successor.
func inherit() (c *carried, rehearsal *os.File, err error) {
	number := func(name string) (*os.File, error) {
		v := os.Getenv(name)
		if v == "" {
			return nil, nil
		}
		os.Unsetenv(name) // not for children
		fd, err := strconv.Atoi(v)
		if err != nil || fd < 3 {
			return nil, fmt.Errorf("%s=%q names no descriptor", name, v)
		}
		unix.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), name), nil
	}
	state, err := number(envCarry)
	rehearsal, rerr := number(envRehearsal)
	if err = errors.Join(err, rerr); err != nil || state == nil {
		return nil, nil, err
	}
	defer state.Close()
	got, err := readCarried(state)
	if err != nil {
		return nil, rehearsal, err
	}
	return &got, rehearsal, nil
}

// takeOver goes on where the program before this one was.
func (s *supervisor) takeOver(c *carried) error {
	if err := outlive(c.descriptors(), false); err != nil {
		return err
	}
	s.path, s.exe, s.linked = c.Path, c.Path, c.Linked
	if c.Link > 0 {
		s.link = &link{fd: c.Link}
	}
	for _, i := range c.Items {
		item := Item{Key: i.Key, Data: i.Data, Blocks: i.Blocks}
		for _, fd := range i.FDs {
			item.Files = append(item.Files, os.NewFile(uintptr(fd), "kept"))
		}
		s.items[i.Key] = item
	}
	w := &worker{pid: c.Worker.Pid, fd: c.Worker.FD, started: time.Now(), ready: true, ended: make(chan syscall.WaitStatus, 1)}
	s.worker, s.served, s.alone = w, true, time.Time{}
	if err := w.unpark(); err != nil {
		return err
	}
	go func() { w.ended <- reap(w.pid) }()
	go s.listen(w)
	s.log.Info().Int("worker", w.pid).Int("items", len(s.items)).Msg("the supervisor is the new program")
	return nil
}

// unpark has listen take messages again.
func (w *worker) unpark() error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	w.parkR, w.parkW = p[0], p[1]
	return nil
}

// readable waits until there is something to receive. It returns false where w is parked.
func (w *worker) readable() bool {
	for {
		p := []unix.PollFd{{Fd: int32(w.parkR)}, {Fd: int32(w.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, -1)
		switch {
		case err == unix.EINTR:
		case n > 0 && p[0].Revents != 0:
			return false
		default:
			return true // or receive says what is wrong
		}
	}
}
