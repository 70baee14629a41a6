package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// onEach runs test on a plain BTRFS subvolume, which shows that the test is
// right, and on a mount with and without passthrough.
func onEach(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("btrfs", func(t *testing.T) { test(t, newSubvolume(t)) })
	t.Run("passthrough", func(t *testing.T) { test(t, newWorld(t).mnt) })
	t.Run("through us", func(t *testing.T) {
		test(t, mountTest(t, newSubvolume(t), complete{}, Options{NoPassthrough: true}).mnt)
	})
	t.Run("incomplete", func(t *testing.T) {
		src := newSubvolume(t)
		test(t, mountTest(t, src, newPartial(t, src), Options{}).mnt)
	})
}

func TestPosix_GoFuseSuite(t *testing.T) {
	for name, fn := range posixtest.All {
		// This one takes two POSIX locks in one process and wants a conflict, which no kernel-local lock gives: it fails on plain BTRFS.
		if name == "FcntlFlockLocksFile" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, dir string) { fn(t, dir) })
		})
	}
}

func TestMount_ServesFiles(t *testing.T) {
	w := newWorld(t)
	p := filepath.Join(w.mnt, "a", "b", "file")
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, []byte("hello"), 0o640))
	for _, root := range []string{w.mnt, w.src} {
		got, err := os.ReadFile(filepath.Join(root, "a", "b", "file"))
		must(t, err)
		if string(got) != "hello" {
			t.Errorf("%s holds %q", root, got)
		}
	}
	const form = "%P %y %s %i %m %u %g %n %T@ %b\n"
	if a, b := run(t, "find", w.mnt, "-printf", form), run(t, "find", w.src, "-printf", form); a != b {
		t.Errorf("listings differ:\n%s\n%s", a, b)
	}
}

func TestStatx_BirthTimeAndOneDevice(t *testing.T) {
	w := newWorld(t)
	must(t, os.WriteFile(filepath.Join(w.mnt, "f"), nil, 0o644))
	var a, b, root unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, filepath.Join(w.mnt, "f"), 0, unix.STATX_ALL, &a))
	must(t, unix.Statx(unix.AT_FDCWD, filepath.Join(w.src, "f"), 0, unix.STATX_ALL, &b))
	must(t, unix.Statx(unix.AT_FDCWD, w.mnt, 0, unix.STATX_ALL, &root))
	if a.Mask&unix.STATX_BTIME == 0 || a.Btime != b.Btime || a.Mtime != b.Mtime || a.Ino != b.Ino {
		t.Errorf("mount %+v\nbtrfs %+v", a, b)
	}
	if root.Ino != rootIno || root.Dev_minor != a.Dev_minor || root.Dev_major != a.Dev_major {
		t.Errorf("root is inode %d of another device", root.Ino)
	}
}

func TestRename_Flags(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		in := func(s string) string { return filepath.Join(dir, s) }
		rename := func(a, b string, flags uint) error {
			return unix.Renameat2(unix.AT_FDCWD, in(a), unix.AT_FDCWD, in(b), flags)
		}
		must(t, os.WriteFile(in("a"), []byte("a"), 0o644))
		must(t, os.Mkdir(in("d"), 0o755))
		must(t, os.WriteFile(in("d/x"), []byte("x"), 0o644))
		wantErr(t, "NOREPLACE over a name", rename("a", "d/x", unix.RENAME_NOREPLACE), unix.EEXIST)
		must(t, rename("a", "d", unix.RENAME_EXCHANGE))
		if b, err := os.ReadFile(in("a/x")); err != nil || string(b) != "x" {
			t.Errorf("after EXCHANGE a/x: %q, %v", b, err)
		}
		wantErr(t, "EXCHANGE with nothing", rename("a", "none", unix.RENAME_EXCHANGE), unix.ENOENT)
		must(t, rename("d", "w", unix.RENAME_WHITEOUT))
		var st unix.Stat_t
		must(t, unix.Lstat(in("d"), &st))
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("whiteout has mode %o, device %d", st.Mode, st.Rdev)
		}
		wantErr(t, "into itself", rename("a", "a/x/y", 0), unix.ENOTDIR)
		wantErr(t, "NOREPLACE with EXCHANGE", rename("a", "w", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE), unix.EINVAL)
		must(t, os.Mkdir(in("full"), 0o755))
		must(t, os.WriteFile(in("full/x"), nil, 0o644))
		wantErr(t, "over a full directory", rename("a", "full", 0), unix.ENOTEMPTY)
	})
}

func TestUnlinked_OpenFileGoesOn(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		f, err := os.Create(p)
		must(t, err)
		defer f.Close()
		must(t, os.Remove(p))
		_, err = f.Write([]byte("still here"))
		must(t, err)
		must(t, f.Chmod(0o600))
		must(t, f.Chown(3, 4))
		must(t, f.Truncate(5))
		must(t, unix.Fsetxattr(int(f.Fd()), "user.x", []byte("y"), 0))
		must(t, f.Sync())
		must(t, unix.Fallocate(int(f.Fd()), 0, 0, 100))
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		if st.Nlink != 0 || st.Size != 100 || st.Uid != 3 || st.Mode&0o777 != 0o600 {
			t.Errorf("%+v", st)
		}
		g, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		must(t, err)
		defer g.Close()
		b := make([]byte, 5)
		_, err = g.ReadAt(b, 0)
		must(t, err)
		if string(b) != "still" {
			t.Errorf("read %q", b)
		}
		wantErr(t, "linkat of an unlinked file", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, p, unix.AT_SYMLINK_FOLLOW), unix.ENOENT)
	})
}

func TestTmpfile_GetsAName(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o777))
		fd, err := unix.Open(filepath.Join(dir, "d"), unix.O_TMPFILE|unix.O_RDWR, 0o640)
		must(t, err)
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("content"))
		must(t, err)
		self := fmt.Sprintf("/proc/self/fd/%d", fd)
		must(t, unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, filepath.Join(dir, "named"), unix.AT_SYMLINK_FOLLOW))
		b, err := os.ReadFile(filepath.Join(dir, "named"))
		must(t, err)
		if string(b) != "content" {
			t.Errorf("read %q", b)
		}
		ex, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
		must(t, err)
		defer unix.Close(ex)
		wantErr(t, "linkat of an exclusive one", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", ex), unix.AT_FDCWD, filepath.Join(dir, "n2"), unix.AT_SYMLINK_FOLLOW), unix.ENOENT)
	})
}

func TestXattr_AllKinds(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		link := filepath.Join(dir, "l")
		must(t, os.Symlink("nowhere", link))
		for _, name := range []string{"user.a", "trusted.a", "security.a"} {
			must(t, unix.Setxattr(p, name, []byte("value"), unix.XATTR_CREATE))
			wantErr(t, "create again", unix.Setxattr(p, name, nil, unix.XATTR_CREATE), unix.EEXIST)
			wantErr(t, "too small", func() error { _, err := unix.Getxattr(p, name, make([]byte, 2)); return err }(), unix.ERANGE)
			b := make([]byte, 10)
			n, err := unix.Getxattr(p, name, b)
			must(t, err)
			if string(b[:n]) != "value" {
				t.Errorf("%s is %q", name, b[:n])
			}
		}
		must(t, unix.Lsetxattr(link, "trusted.l", []byte("x"), 0))
		n, err := unix.Listxattr(p, nil)
		must(t, err)
		if n != len("user.a\x00trusted.a\x00security.a\x00") {
			t.Errorf("list has %d bytes", n)
		}
		must(t, unix.Removexattr(p, "user.a"))
		wantErr(t, "removed", unix.Removexattr(p, "user.a"), unix.ENODATA)
		wantErr(t, "too large", unix.Setxattr(p, "user.big", make([]byte, 65536), 0), unix.ENOSPC)
	})
}

func TestMarks_AreInvisible(t *testing.T) {
	src := newSubvolume(t)
	must(t, os.Mkdir(filepath.Join(src, HiddenName), 0o700))
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o644))
	mark := HiddenXattr + "file"
	must(t, unix.Setxattr(filepath.Join(src, "f"), mark, []byte("m"), 0))
	w := mountTest(t, src, complete{}, Options{})
	p, h := filepath.Join(w.mnt, "f"), filepath.Join(w.mnt, HiddenName)
	_, err := unix.Getxattr(p, mark, make([]byte, 10))
	wantErr(t, "get", err, unix.ENODATA)
	wantErr(t, "set", unix.Setxattr(p, mark, []byte("n"), 0), unix.EPERM)
	wantErr(t, "remove", unix.Removexattr(p, mark), unix.ENODATA)
	if n, err := unix.Listxattr(p, nil); n != 0 || err != nil {
		t.Errorf("list has %d bytes, %v", n, err)
	}
	_, err = os.Lstat(h)
	wantErr(t, "lookup", err, unix.ENOENT)
	wantErr(t, "mkdir", unix.Mkdir(h, 0o755), unix.EPERM)
	wantErr(t, "rename to", unix.Rename(p, h), unix.EPERM)
	wantErr(t, "link", unix.Link(p, h), unix.EPERM)
	wantErr(t, "symlink", unix.Symlink("x", h), unix.EPERM)
	_, err = os.Create(h)
	wantErr(t, "create", err, unix.EPERM)
	wantErr(t, "rmdir", unix.Rmdir(h), unix.ENOENT)
	list, err := os.ReadDir(w.mnt)
	must(t, err)
	if len(list) != 1 {
		t.Errorf("%d names listed", len(list))
	}
	must(t, os.Mkdir(filepath.Join(w.mnt, "d"), 0o755))
	must(t, os.Mkdir(filepath.Join(w.mnt, "d", HiddenName), 0o755)) // elsewhere it is a name as any other
}

func TestSubvolume_NestedIsRefused(t *testing.T) {
	src := newSubvolume(t)
	run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(src, "inner"))
	t.Cleanup(func() { run(t, "btrfs", "-q", "subvolume", "delete", filepath.Join(src, "inner")) })
	w := mountTest(t, src, complete{}, Options{})
	_, err := os.Stat(filepath.Join(w.mnt, "inner"))
	wantErr(t, "stat", err, unix.EXDEV)
	_, err = os.ReadDir(filepath.Join(w.mnt, "inner"))
	wantErr(t, "readdir", err, unix.EXDEV)
}

func TestCopyFileRange_AndHoles(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		want := pattern(9, 300_000)
		must(t, os.WriteFile(filepath.Join(dir, "a"), want, 0o644))
		a, err := os.Open(filepath.Join(dir, "a"))
		must(t, err)
		defer a.Close()
		b, err := os.OpenFile(filepath.Join(dir, "b"), os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		defer b.Close()
		n, err := unix.CopyFileRange(int(a.Fd()), nil, int(b.Fd()), nil, 1<<30, 0)
		must(t, err)
		if n != len(want) {
			t.Errorf("copied %d", n)
		}
		must(t, unix.Fallocate(int(b.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, 8192))
		clear(want[8192:16384])
		got, err := os.ReadFile(filepath.Join(dir, "b"))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("content differs")
		}
		for _, s := range []struct {
			off    int64
			whence int
			want   int64
		}{{0, unix.SEEK_HOLE, 8192}, {8192, unix.SEEK_DATA, 16384}, {20000, unix.SEEK_HOLE, 300_000}} {
			if off, err := unix.Seek(int(b.Fd()), s.off, s.whence); err != nil || off != s.want {
				t.Errorf("seek %d from %d: %d, %v", s.whence, s.off, off, err)
			}
		}
		wantErr(t, "collapse", unix.Fallocate(int(b.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), unix.EOPNOTSUPP)
		must(t, unix.Fallocate(int(b.Fd()), unix.FALLOC_FL_ZERO_RANGE, 0, 400_000))
		must(t, unix.Fallocate(int(b.Fd()), unix.FALLOC_FL_KEEP_SIZE, 400_000, 100))
		if st, _ := b.Stat(); st.Size() != 400_000 {
			t.Errorf("size %d", st.Size())
		}
	})
}

func TestIoctl_FlagsOnly(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, nil, 0o644))
		run(t, "chattr", "+i", p)
		_, err := os.OpenFile(p, os.O_WRONLY, 0)
		wantErr(t, "write an immutable file", err, unix.EPERM)
		wantErr(t, "remove it", os.Remove(p), unix.EPERM)
		run(t, "chattr", "-i", "+a", p)
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("end")
			f.Close()
		}
		if err != nil {
			t.Errorf("append to an append-only file: %v", err)
		}
		// A handle that is there goes on; it does not help others to open the file.
		run(t, "chattr", "-a", p)
		f, err = os.OpenFile(p, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		for _, flag := range []string{"i", "a"} {
			run(t, "chattr", "+"+flag, p)
			_, err = os.OpenFile(p, os.O_RDWR, 0)
			wantErr(t, "write a file that became +"+flag, err, unix.EPERM)
			_, err = os.OpenFile(p, os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0)
			wantErr(t, "truncate a file that became +"+flag, err, unix.EPERM)
			_, err = f.WriteAt([]byte("x"), 0)
			must(t, err)
			run(t, "chattr", "-"+flag, p)
		}
		run(t, "chattr", "+C", dir)
		if out := run(t, "lsattr", "-d", dir); !bytes.Contains([]byte(out), []byte("C")) {
			t.Errorf("lsattr: %s", out)
		}
	})
	// BTRFS_IOC_TREE_SEARCH as root's deputy would show anybody everything.
	w := newWorld(t)
	f, err := os.Open(w.mnt)
	must(t, err)
	defer f.Close()
	if _, err := unix.IoctlGetInt(int(f.Fd()), 0xd0009411); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("tree search: %v", err)
	}
}

func TestFtruncate_ToTheSameSizeSetsTheTimes(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, []byte("content"), 0o644))
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		for name, c := range map[string]struct {
			do    func() error
			moves bool
		}{
			"ftruncate": {func() error { return f.Truncate(7) }, true},
			"truncate":  {func() error { return os.Truncate(p, 7) }, false},
		} {
			old := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, old, 0))
			must(t, c.do())
			var st unix.Stat_t
			must(t, unix.Stat(p, &st))
			if moved := st.Mtim.Sec != 1000; moved != c.moves {
				t.Errorf("%s moves the time: %v", name, moved)
			}
		}
	})
}

// TestImmutable_OpenForWritingIsRefused also while somebody writes who opened the file before.
func TestImmutable_OpenForWritingIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		f, err := os.Create(p)
		must(t, err)
		defer f.Close()
		for _, c := range []struct {
			set, flags int
			want       error
		}{
			{flImmutable, unix.O_RDWR, unix.EPERM}, {flAppend, unix.O_WRONLY, unix.EPERM}, {flAppend, unix.O_WRONLY | unix.O_APPEND | unix.O_TRUNC, unix.EPERM},
			{flAppend, unix.O_WRONLY | unix.O_APPEND, nil}, {flImmutable, unix.O_RDONLY, nil}, {0, unix.O_RDWR, nil},
		} {
			must(t, unix.IoctlSetPointerInt(int(f.Fd()), fsSetFlags, c.set))
			fd, err := unix.Open(p, c.flags, 0)
			if err == nil {
				unix.Close(fd)
			}
			if err != c.want {
				t.Errorf("flags %#x, open with %#x: %v, want %v", c.set, c.flags, err, c.want)
			}
		}
		_, err = f.Write([]byte("x"))
		must(t, err)
	})
}

// TestSetuid_KeptByRootBesideAReader : the reader would have been passed through, and the writer with it.
func TestSetuid_KeptByRootBesideAReader(t *testing.T) {
	onEach(t, func(t *testing.T, dir string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, []byte("content"), 0o644))
		must(t, unix.Chmod(p, 0o4755))
		r, err := os.Open(p)
		must(t, err)
		defer r.Close()
		must(t, os.WriteFile(p, []byte("other content"), 0))
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		if st.Mode&0o7777 != 0o4755 {
			t.Errorf("mode %o", st.Mode)
		}
	})
}
