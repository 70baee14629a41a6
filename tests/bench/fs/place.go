package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// place is one of the things compared: a folder to work in, on a subvolume of its own of the one pool.
type place struct {
	name string
	data string // the subvolume
	dir  string // where it is worked on: data itself, or a mount of it

	kind string // of the child: "ours", "loopback"; "bind": the mount of -o mount=direct; "": data itself
	off  string // settings switched off
	cmd  *exec.Cmd
	runs int
	b    *bench
}

// newPlace makes the subvolume and mounts what kind says over it.
func (b *bench) newPlace(name, kind, off string) (*place, error) {
	id := fmt.Sprintf("p%d", len(b.all))
	p := &place{name: name, kind: kind, off: off, data: filepath.Join(b.pool, id), b: b}
	p.dir = p.data
	if err := backing.CreateSubvolume(p.data); err != nil {
		return nil, err
	}
	if err := os.Chmod(p.data, 0o755); err != nil {
		return nil, err
	}
	if kind != "" {
		p.dir = filepath.Join(b.dir, id)
		if err := os.Mkdir(p.dir, 0o755); err != nil {
			return nil, err
		}
	}
	b.all = append(b.all, p)
	return p, p.mount()
}

// mount starts to show data at dir.
func (p *place) mount() error {
	switch p.kind {
	case "":
		return nil
	case "bind":
		return volume.BindSubvolume(p.data, p.dir, false)
	}
	profile := ""
	if p.b.profile != "" {
		p.runs++
		profile = filepath.Join(p.b.profile, fmt.Sprintf("%s-%d.pprof", p.name, p.runs))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(self, "-child", p.kind, "-data", p.data, "-mountpoint", p.dir, "-off", p.off, "-cpuprofile", profile)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		p.cmd.Process.Kill()
		err = errors.Join(fmt.Errorf("%s was not mounted: %w", p.name, err), p.cmd.Wait())
		p.cmd = nil
		return err
	}
	return nil
}

// unmount ends what mount began.
func (p *place) unmount() error {
	switch {
	case p.kind == "":
		return nil
	case p.kind == "bind":
		err := unix.Unmount(p.dir, 0)
		if err == unix.EINVAL {
			return nil // not mounted
		}
		return err
	case p.cmd == nil:
		return nil
	}
	cmd := p.cmd
	p.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	dead := time.AfterFunc(20*time.Second, func() {
		unix.Unmount(p.dir, unix.MNT_DETACH)
		cmd.Process.Kill()
	})
	defer dead.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// remount makes everything that the kernel remembers of the mount go. BTRFS below stays warm, and plain BTRFS is left alone, so
// that the comparison is with its best.
func (p *place) remount() error {
	if err := p.unmount(); err != nil {
		return err
	}
	return p.mount()
}

// sh runs a command line in dir and returns what it printed and how long it took.
func sh(ctx context.Context, dir, line string) (string, time.Duration, error) {
	cmd := exec.CommandContext(ctx, "bash", "-ec", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent", "GIT_OPTIONAL_LOCKS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return string(out), took, fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return string(out), took, nil
}
