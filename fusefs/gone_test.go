package fusefs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func init() { children["hold-dir"] = holdDir }

// holdDir opens the directory args[0]/args[1] and removes it, says "ready", waits for the end of its input, and uses it again.
func holdDir(args []string) (err error) {
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	path := filepath.Join(args[0], args[1])
	if err := unix.Mkdir(path, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Setxattr(path, "user.x", []byte("1"), 0), unix.Rmdir(path)); err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink != 0 || st.Mode != unix.S_IFDIR|0o755 {
		return fmt.Errorf("attributes: mode %o, %d names: %v", st.Mode, st.Nlink, err)
	}
	if err := unix.Fchmod(fd, 0o700); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Mode != unix.S_IFDIR|0o700 {
		return fmt.Errorf("after chmod: mode %o: %v", st.Mode, err)
	}
	if err := unix.Fsync(fd); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	b := make([]byte, 8)
	if n, err := unix.Fgetxattr(fd, "user.x", b); err != nil || string(b[:n]) != "1" {
		return fmt.Errorf("xattr: %v", err)
	}
	if _, err := unix.Openat(fd, "new", unix.O_CREAT|unix.O_WRONLY, 0o600); err != unix.ENOENT {
		return fmt.Errorf("create in it: %v", err)
	}
	return nil
}

// A removed directory that somebody has open is there after the next process has come, too, and is let go of when it is closed.
func TestResume_RemovedDirectoriesThatAreOpenGoOn(t *testing.T) {
	k := keep(t)
	k.serve("")
	var next []func()
	var wait []func() error
	for i := range 3 {
		cmd, proceed := k.user("hold-dir", fmt.Sprintf("d%d", i))
		next = append(next, proceed)
		wait = append(wait, func() error {
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("%w: %s", err, cmd.Stderr)
			}
			return nil
		})
	}
	inos := map[string]bool{}
	for range 3 {
		ino, dir := k.removed()
		if dir == nil {
			t.Fatalf("directory %s is not held while it is open", ino)
		}
		inos[ino] = true
		k.held.Removed = append(k.held.Removed, dir)
	}
	for range 2 {
		k.kill()
		must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
		k.serve("")
	}
	for i := range next {
		next[i]()
		if err := wait[i](); err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		if ino, dir := k.removed(); dir != nil || !inos[ino] {
			t.Errorf("directory %s is held after its end", ino)
		}
	}
}
