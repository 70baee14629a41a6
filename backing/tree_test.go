package backing

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTree_OpensEveryTypeOfInodeByNumber(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	tree := openTree(t, dir)
	write(t, dir+"/file", 10)
	must(t, os.Mkdir(dir+"/dir", 0o755))
	must(t, os.Symlink("nowhere", dir+"/link"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	must(t, unix.Mknod(dir+"/sock", unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(dir+"/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(dir+"/blk", unix.S_IFBLK|0o600, int(unix.Mkdev(240, 77))))

	for _, c := range []struct {
		name  string
		flags int
		err   error
	}{
		{"file", unix.O_RDONLY, nil},
		{"file", unix.O_RDWR, nil},
		{"file", unix.O_PATH, nil},
		{"dir", unix.O_RDONLY | unix.O_DIRECTORY, nil},
		{"dir", unix.O_RDWR, unix.EISDIR},
		{"dir", unix.O_PATH, nil},
		{"file", unix.O_RDONLY | unix.O_DIRECTORY, unix.ENOTDIR},
		{"link", unix.O_PATH | unix.O_NOFOLLOW, nil},
		{"link", unix.O_PATH, nil},
		{"link", unix.O_RDONLY, unix.ELOOP},
		{"fifo", unix.O_PATH, nil},
		{"fifo", unix.O_RDONLY | unix.O_NONBLOCK, nil},
		{"sock", unix.O_PATH, nil},
		{"sock", unix.O_RDONLY, unix.ENXIO},
		{"null", unix.O_PATH, nil},
		{"null", unix.O_RDONLY, unix.EACCES}, // the pool is mounted nodev
		{"blk", unix.O_PATH, nil},
		{"blk", unix.O_RDONLY, unix.EACCES},
	} {
		want := ino(t, dir+"/"+c.name)
		fd, err := tree.Open(want, c.flags)
		if !errors.Is(err, c.err) {
			t.Errorf("open %s with %#x: %v, want %v", c.name, c.flags, err, c.err)
		}
		if err != nil {
			continue
		}
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Ino != want {
			t.Errorf("open %s: inode %d, want %d", c.name, st.Ino, want)
		}
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("open %s: no close-on-exec: %#x, %v", c.name, fl, err)
		}
		must(t, unix.Close(fd))
	}
}

func TestTree_OpenSymlinkReadsTargetAndXattr(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	tree := openTree(t, dir)
	must(t, os.Symlink("nowhere", dir+"/link"))
	fd, err := tree.Open(ino(t, dir+"/link"), unix.O_PATH|unix.O_NOFOLLOW)
	must(t, err)
	defer unix.Close(fd)
	buf := make([]byte, 100)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil || string(buf[:n]) != "nowhere" {
		t.Errorf("readlinkat: %q, %v", buf[:n], err)
	}
	must(t, Setxattr(fd, "trusted.a", []byte("v"), 0))
	if v, err := Getxattr(fd, "trusted.a"); string(v) != "v" || err != nil {
		t.Errorf("xattr of the link: %q, %v", v, err)
	}
}

func TestTree_DeletedInodeOpensWhileItIsOpenThenStale(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	tree := openTree(t, dir)
	write(t, dir+"/file", 5000)
	n := ino(t, dir+"/file")
	fd, err := tree.Open(n, unix.O_RDWR)
	must(t, err)
	must(t, os.Remove(dir+"/file"))

	again, err := tree.Open(n, unix.O_RDWR)
	must(t, err)
	buf := make([]byte, 5000)
	if got, err := unix.Pread(again, buf, 0); got != 5000 || err != nil || buf[4999] != 7 {
		t.Errorf("read of deleted file: %d, %v", got, err)
	}
	must(t, unix.Close(fd))
	must(t, unix.Close(again))
	if fd, err := tree.Open(n, unix.O_RDWR); !errors.Is(err, unix.ESTALE) {
		t.Errorf("open after the last close: %d, %v, want ESTALE", fd, err)
	}
	must(t, SyncFS(dir))
	if _, err := tree.Open(n, unix.O_PATH); !errors.Is(err, unix.ESTALE) {
		t.Errorf("open after commit: %v, want ESTALE", err)
	}
}

func TestTree_UnknownNumbersAreStale(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	tree := openTree(t, dir)
	for _, n := range []uint64{0, 1, 2, 255, 9999, 1 << 40, ^uint64(0), ^uint64(0) - 1, ^uint64(0) - 255} {
		if fd, err := tree.Open(n, unix.O_PATH); !errors.Is(err, unix.ESTALE) {
			t.Errorf("open %d: %d, %v, want ESTALE", n, fd, err)
		}
	}
}

func TestTree_SeesOnlyItsOwnSubvolume(t *testing.T) {
	dir := pool(t)
	a, b := subvolume(t, dir+"/a"), subvolume(t, dir+"/b")
	write(t, a+"/x", 1)
	write(t, b+"/x", 2)
	if ino(t, a+"/x") != ino(t, b+"/x") {
		t.Fatal("the two files should have the same number")
	}
	for path, size := range map[string]int64{a: 1, b: 2} {
		fd, err := openTree(t, path).Open(ino(t, a+"/x"), unix.O_RDONLY)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		unix.Close(fd)
		if st.Size != size {
			t.Errorf("file of %s has %d bytes, want %d", path, st.Size, size)
		}
	}
}

func TestTree_SurvivesRenameOfTheSubvolume(t *testing.T) {
	dir := pool(t)
	vol := subvolume(t, dir+"/vol")
	tree := openTree(t, vol)
	write(t, vol+"/x", 1)
	n := ino(t, vol+"/x")
	must(t, os.Rename(vol, dir+"/other"))
	fd, err := tree.Open(n, unix.O_RDONLY)
	must(t, err)
	unix.Close(fd)
}

func TestOpenTree_RefusesWhatIsNoSubvolume(t *testing.T) {
	dir := pool(t)
	must(t, os.Mkdir(dir+"/plain", 0o755))
	vol := subvolume(t, dir+"/vol")
	must(t, os.Symlink(vol, dir+"/link"))
	if _, err := OpenTree(dir + "/plain"); !errors.Is(err, ErrNotSubvolume) {
		t.Errorf("plain folder: %v", err)
	}
	if _, err := OpenTree(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if _, err := OpenTree(dir + "/link"); !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		t.Errorf("symbolic link: %v", err)
	}
	if _, err := OpenTree(t.TempDir()); !errors.Is(err, ErrNotBtrfs) {
		t.Errorf("folder on another file system: %v", err)
	}
}

func BenchmarkTree_Open(b *testing.B) {
	dir := subvolume(b, pool(b)+"/vol")
	write(b, dir+"/file", 10)
	tree := openTree(b, dir)
	n := ino(b, dir+"/file")
	for _, c := range []struct {
		name  string
		flags int
	}{{"path", unix.O_PATH}, {"rdonly", unix.O_RDONLY}, {"rdwr", unix.O_RDWR}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fd, err := tree.Open(n, c.flags)
				if err != nil {
					b.Fatal(err)
				}
				unix.Close(fd)
			}
		})
	}
}
