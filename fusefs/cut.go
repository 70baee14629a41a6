package fusefs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A mount that is gone from our name space lives on where another one has a copy of it: in a container that sees the
// whole machine, or in a service with mounts of its own. Nobody can take it away there, but the connection can be ended.

// heldWait is how long Unmount waits for those who hold copies of the mount, and then for each step that ends it.
const heldWait = 5 * time.Second

// connection is the number of the FUSE connection mounted at path, the one on top; 0: none.
func connection(path string) int {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	escape := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`)
	conn := 0
	for line := range strings.Lines(string(b)) {
		head, tail, _ := strings.Cut(line, " - ")
		f := strings.Fields(head)
		if len(f) < 6 || f[4] != escape.Replace(path) || !strings.HasPrefix(tail, fuseType+" ") {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		conn, _ = strconv.Atoi(minor)
	}
	return conn
}

// endHeld waits for the end of a connection that has no mount in our name space any more, and then makes an end.
//
// Order: 1 those who hold it have a while to let go; 2 the kernel writes what was stored through mappings: all else is written
// already; 3 what waits for the Residency ends; 4 the connection ends, and every later operation with ENOTCONN or ECONNABORTED.
func (f *FS) endHeld(conn int) error {
	if f.endsWithin(heldWait) {
		return nil
	}
	f.opt.Log.Warn().Str("mountpoint", f.mountpoint).Msg("another mount name space still holds the mount: what is open there ends")
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		f.flushAllMapped()
	}()
	select {
	case <-flushed:
	case <-f.done:
		return nil
	case <-time.After(heldWait):
	}
	f.cancel()
	if err := abortConnection(conn); err != nil {
		return fmt.Errorf("%s is unmounted, but another mount name space holds it: %w", f.mountpoint, err)
	}
	f.Wait()
	return nil
}

func (f *FS) endsWithin(d time.Duration) bool {
	select {
	case <-f.done:
		return true
	case <-time.After(d):
		return false
	}
}

// flushAllMapped has the kernel write all of its pages that were stored to.
func (f *FS) flushAllMapped() {
	f.nodes.mu.Lock()
	all := make([]*node, 0, len(f.nodes.byIno))
	for _, n := range f.nodes.byIno {
		all = append(all, n)
	}
	f.nodes.mu.Unlock()
	for _, n := range all {
		f.flushMapped(n)
	}
}

// abortConnection ends a FUSE connection by the kernel's control file system, which needs no mount for that.
func abortConnection(conn int) error {
	if conn == 0 {
		return unix.ENOENT
	}
	ctl, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open fusectl: %w", err)
	}
	defer unix.Close(ctl)
	if err := unix.FsconfigCreate(ctl); err != nil {
		return fmt.Errorf("open fusectl: %w", err)
	}
	root, err := unix.Fsmount(ctl, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open fusectl: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, strconv.Itoa(conn)+"/abort", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("abort FUSE connection %d: %w", conn, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("1")); err != nil {
		return fmt.Errorf("abort FUSE connection %d: %w", conn, err)
	}
	return nil
}
