package fusefs

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
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

func init() { children["storeandsee"] = storeAndSeeChild }

// storeAndSeeChild stores through a mapping of the file args[0], whose attributes it has just looked at, and wants new times at once.
func storeAndSeeChild(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	old := unix.Timespec{Sec: 1_000_000_000}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, args[0], []unix.Timespec{old, old}, 0); err != nil {
		return err
	}
	var before, after unix.Stat_t
	if err := unix.Stat(args[0], &before); err != nil {
		return err
	}
	mem[7] = 'x'
	if err := unix.Stat(args[0], &after); err != nil {
		return err
	}
	if before.Mtim != old || after.Mtim == old {
		return fmt.Errorf("mtime %v became %v", before.Mtim, after.Mtim)
	}
	return nil
}

func TestTimes_OfAStoreThroughAMappingAreSeenAtOnce(t *testing.T) {
	w := newWorld(t)
	p := filepath.Join(w.mnt, "f")
	for range 10 {
		must(t, os.WriteFile(p, make([]byte, 4096), 0o644))
		runInChild(t, "storeandsee", p)
		must(t, os.Remove(p))
	}
}

// A database asks for the end of its files in each query.
func TestTimes_TheEndOfAFileIsNotAskedForEachTime(t *testing.T) {
	var asked atomic.Int64
	w := mountTest(t, newSubvolume(t), complete{}, Options{Observe: func(op string, _ time.Duration) {
		if op == "getattr" {
			asked.Add(1)
		}
	}})
	f, err := os.Create(filepath.Join(w.mnt, "f"))
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 5000))
	must(t, err)
	before := asked.Load()
	const seeks = 2000
	for range seeks {
		if end, err := f.Seek(0, io.SeekEnd); end != 5000 || err != nil {
			t.Fatalf("the end is at %d, should be 5000: %v", end, err)
		}
	}
	if n := asked.Load() - before; n > seeks/2 {
		t.Errorf("%d requests for %d times the end of a file", n, seeks)
	}
}
