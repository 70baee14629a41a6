package fusefs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	children["lock"] = lockChild
	children["poll"] = pollChild
}

// lockChild takes the lock args[1] on the file args[0], says so, and keeps it until its input ends.
func lockChild(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lock(f, args[1]); err != nil {
		return err
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// lock takes a lock on bytes 10 to 19 of f, or on all of it, without waiting.
func lock(f *os.File, kind string) error {
	if kind == "flock" {
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	cmd := unix.F_SETLK
	if kind == "description" {
		cmd = unix.F_OFD_SETLK
	}
	return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10})
}

func TestLocks_BetweenProcesses(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, make([]byte, 100), 0o644))
		for _, kind := range []string{"flock", "posix", "description"} {
			holder := child("lock", p, kind)
			in, err := holder.StdinPipe()
			must(t, err)
			out, err := holder.StdoutPipe()
			must(t, err)
			must(t, holder.Start())
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
				t.Fatalf("%s: the holder says %q, %v", kind, line, err)
			}
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			must(t, err)
			wantErr(t, kind+" held by another process", lock(f, kind), unix.EAGAIN)
			if kind == "posix" {
				l := unix.Flock_t{Type: unix.F_WRLCK}
				must(t, unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l))
				if l.Type != unix.F_WRLCK || l.Start != 10 || l.Len != 10 || int(l.Pid) != holder.Process.Pid {
					t.Errorf("F_GETLK: %+v, want process %d", l, holder.Process.Pid)
				}
			}
			must(t, in.Close())
			must(t, holder.Wait())
			must(t, lock(f, kind))
			must(t, f.Close())
		}
	})
}

// pollChild polls the file args[0].
func pollChild(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for range 2 {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN | unix.POLLOUT}}
		if n, err := unix.Poll(fds, 10_000); err != nil || n != 1 || fds[0].Revents != unix.POLLIN|unix.POLLOUT {
			return fmt.Errorf("poll: %d, %v, events %#x", n, err, fds[0].Revents)
		}
	}
	return nil
}

func TestPoll_FilesAreAlwaysReady(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		runInChild(t, "poll", p)
	})
}
