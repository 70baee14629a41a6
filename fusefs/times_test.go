package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { children["mapstore"] = mapStoreChild }

// clockStep is more than the step of the kernel's time stamps.
const clockStep = 30 * time.Millisecond

// mapStoreChild stores through a mapping of the file args[0] and wants new times. "closed" as args[1]: after the file is closed.
func mapStoreChild(args []string) error {
	var before, after unix.Stat_t
	// The kernel knows the attributes, and may keep them for long.
	if err := unix.Stat(args[0], &before); err != nil {
		return err
	}
	fd, err := unix.Open(args[0], unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if args[1] == "closed" {
		if err := unix.Close(fd); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond) // the file system hears of it later
		if err := unix.Stat(args[0], &before); err != nil {
			return err
		}
	}
	time.Sleep(clockStep)
	mem[7] = 'x'
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		return err
	}
	if err := unix.Stat(args[0], &after); err != nil {
		return err
	}
	if before.Mtim == after.Mtim || before.Ctim == after.Ctim {
		return fmt.Errorf("%s: mtime %v became %v, ctime %v became %v", args[1], before.Mtim, after.Mtim, before.Ctim, after.Ctim)
	}
	return unix.Munmap(mem)
}

func TestTimes_AfterAStoreThroughAMapping(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		for _, when := range []string{"open", "closed"} {
			for name, mtime := range map[string]time.Time{"old": time.Unix(1_000_000_000, 0), "new": time.Now()} {
				p := filepath.Join(dir, when+name)
				must(t, os.WriteFile(p, make([]byte, 4096), 0o644))
				must(t, os.Chtimes(p, mtime, mtime))
				runInChild(t, "mapstore", p, when)
			}
		}
	})
}

func TestTimes_SettingFlagsSetsTheCtime(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		var before, after unix.Stat_t
		must(t, unix.Stat(p, &before))
		time.Sleep(clockStep)
		run(t, "chattr", "+A", p)
		must(t, unix.Stat(p, &after))
		if before.Ctim == after.Ctim {
			t.Error("the ctime stayed")
		}
	})
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

func TestIoctl_Fsxattr(t *testing.T) {
	const nodump, noatime = 0x80, 0x40 // FS_XFLAG_NODUMP, FS_XFLAG_NOATIME
	call := func(f *os.File, cmd uintptr, a *fsxattr) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(a))); errno != 0 {
			return errno
		}
		return nil
	}
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		for _, p := range []string{p, dir} {
			f, err := os.Open(p)
			must(t, err)
			defer f.Close()
			must(t, call(f, fsSetXattr, &fsxattr{xflags: nodump | noatime}))
			var a fsxattr
			must(t, call(f, fsGetXattr, &a))
			if a.xflags != nodump|noatime {
				t.Errorf("%s: flags %#x", p, a.xflags)
			}
			if out := run(t, "lsattr", "-d", p); out[:len("------dA")] != "------dA" {
				t.Errorf("lsattr: %s", out)
			}
			wantErr(t, "a project", call(f, fsSetXattr, &fsxattr{projid: 5}), unix.EOPNOTSUPP)
			must(t, call(f, fsSetXattr, &fsxattr{}))
		}
		must(t, os.Chmod(p, 0o666))
		if out, err := as(exec.Command("chattr", "+d", p), 1000, 1000).CombinedOutput(); err == nil {
			t.Errorf("one who does not own the file set its flags: %s", out)
		}
		if out, err := as(exec.Command("chattr", "+i", p), 1000, 1000).CombinedOutput(); err == nil {
			t.Errorf("one without privileges made the file immutable: %s", out)
		}
	})
}

func TestStatfs_AsTheSubvolume(t *testing.T) {
	w := newWorld(t)
	var a, b unix.Statfs_t
	must(t, unix.Statfs(w.mnt, &a))
	must(t, unix.Statfs(w.src, &b))
	if a.Blocks != b.Blocks || a.Bsize != b.Bsize || a.Frsize != b.Frsize || a.Namelen != b.Namelen || a.Files != b.Files || a.Bavail == 0 {
		t.Errorf("mount %+v\nbtrfs %+v", a, b)
	}
}
