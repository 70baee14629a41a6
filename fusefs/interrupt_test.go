package fusefs

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { children["blockedread"] = blockedRead }

// blockedRead reads args[0] past the page cache (a read through it waits for a request of the kernel's own, which no
// signal interrupts) with a handler for SIGUSR1 that does not restart system calls. It tells
// the id of the reading thread, then what the read returned.
func blockedRead(args []string) error {
	signal.Notify(make(chan os.Signal, 1), unix.SIGUSR1)
	// struct sigaction of the kernel: handler, flags, restorer, mask.
	var act [4]uint64
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGUSR1), 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0); e != 0 {
		return e
	}
	const saRestart = 0x10000000
	act[1] &^= saRestart
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGUSR1), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); e != 0 {
		return e
	}
	runtime.LockOSThread()
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	fmt.Println(unix.Gettid())
	buf := make([]byte, sector)
	n, err := unix.Pread(fd, buf, 0)
	fmt.Println(n, err)
	return nil
}

// stalled is a mount with one file whose fetch waits, and a child that reads it.
func stalled(t *testing.T) (res *partial, cmd *exec.Cmd, out *bufio.Scanner, tid int) {
	src := newSubvolume(t)
	res = newPartial(t, src)
	res.stall = make(chan struct{})
	res.add(t, filepath.Join(src, "f"), pattern(4, sector))
	w := mountTest(t, src, res, Options{})
	cmd = child("blockedread", filepath.Join(w.mnt, "f"))
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	out = bufio.NewScanner(pipe)
	if !out.Scan() {
		t.Fatal("the child said nothing")
	}
	tid, err = strconv.Atoi(out.Text())
	must(t, err)
	time.Sleep(100 * time.Millisecond) // into the read
	return res, cmd, out, tid
}

func TestInterrupt_SignalDoesNotFailARead(t *testing.T) {
	res, cmd, out, tid := stalled(t)
	for range 20 {
		must(t, unix.Tgkill(cmd.Process.Pid, tid, unix.SIGUSR1))
		must(t, unix.Tgkill(cmd.Process.Pid, tid, unix.SIGURG))
		time.Sleep(20 * time.Millisecond)
	}
	if n := res.ended.Load(); n != 0 {
		t.Errorf("%d waits ended by a signal", n)
	}
	close(res.stall)
	out.Scan()
	if got := out.Text(); got != "4096 <nil>" {
		t.Errorf("the read returned %s", got)
	}
	must(t, cmd.Wait())
}

func TestInterrupt_KillEndsARead(t *testing.T) {
	res, cmd, _, tid := stalled(t)
	must(t, unix.Tgkill(cmd.Process.Pid, tid, unix.SIGUSR1)) // the one INTERRUPT that a request gets
	time.Sleep(50 * time.Millisecond)
	start := time.Now()
	must(t, cmd.Process.Kill())
	cmd.Wait()
	if took := time.Since(start); took > time.Second {
		t.Errorf("dying took %v", took)
	}
	if n := res.ended.Load(); n != 1 {
		t.Errorf("%d waits ended, want 1", n)
	}
}

func TestInterrupt_AbortEndsWaits(t *testing.T) {
	src := newSubvolume(t)
	res := newPartial(t, src)
	res.stall = make(chan struct{})
	res.add(t, filepath.Join(src, "f"), pattern(4, sector))
	w := mountTest(t, src, res, Options{})
	cmd := child("blockedread", filepath.Join(w.mnt, "f"))
	var out bytes.Buffer
	cmd.Stdout = &out
	must(t, cmd.Start())
	waitFor(t, func() bool { return res.opened.Load() > 0 })
	time.Sleep(100 * time.Millisecond)
	must(t, w.Abort())
	must(t, cmd.Wait())
	if got := out.String(); !strings.Contains(got, unix.EINTR.Error()) {
		t.Errorf("the read returned %s", got)
	}
	w.Wait()
}
