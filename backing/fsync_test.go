package backing

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// forgotten opens name of dir by number as the kernel does it when it has forgotten all names of the file.
func forgotten(t *testing.T, tree *Tree, path string) (fd int) {
	n := ino(t, path)
	for range 20 {
		must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
		fd, err := tree.Open(n, unix.O_RDWR)
		must(t, err)
		if !named(fd) {
			return fd
		}
		must(t, unix.Close(fd))
	}
	t.Fatalf("the kernel does not forget the name of %s", path)
	return -1
}

func TestTree_OpenNamedKnowsTheNameThatTheKernelForgot(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	tree := openTree(t, dir)
	must(t, os.Mkdir(dir+"/d", 0o755))
	write(t, dir+"/d/file", 10)
	n := ino(t, dir+"/d/file")
	must(t, unix.Close(forgotten(t, tree, dir+"/d/file")))
	must(t, os.Rename(dir+"/d", dir+"/e"))
	must(t, os.Mkdir(dir+"/d", 0o755))
	write(t, dir+"/d/file", 10) // another file has the name now
	must(t, unix.Close(forgotten(t, tree, dir+"/e/file")))
	fd, err := tree.OpenNamed(n, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	must(t, err)
	defer unix.Close(fd)
	path, err := os.Readlink(fdPath(fd))
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if path != dir+"/e/file" || st.Ino != n {
		t.Errorf("inode %d is open as %s, inode %d", n, path, st.Ino)
	}
	if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || fl&unix.O_ACCMODE != unix.O_RDWR {
		t.Errorf("it is open with %#x, %v", fl, err)
	}
}

func TestTree_FsyncOfWhatHasNoNameOrLostOne(t *testing.T) {
	dir := subvolume(t, pool(t)+"/vol")
	tree := openTree(t, dir)
	write(t, dir+"/gone", 10)
	write(t, dir+"/linked", 10)
	must(t, os.Link(dir+"/linked", dir+"/other"))
	write(t, dir+"/kept", 10)
	kept := forgotten(t, tree, dir+"/kept")
	var fds []int
	for _, name := range []string{"gone", "linked", "kept"} {
		fd, err := unix.Open(dir+"/"+name, unix.O_RDWR|unix.O_CLOEXEC, 0)
		must(t, err)
		fds = append(fds, fd)
	}
	must(t, os.Remove(dir+"/gone"))
	must(t, os.Remove(dir+"/linked"))
	for _, fd := range append(fds, kept, tree.RootFD()) {
		if err := tree.Anchor(fd); err != nil {
			t.Errorf("anchor: %v", err)
		}
		for _, dataOnly := range []bool{true, false} {
			if err := tree.Fsync(fd, dataOnly); err != nil {
				t.Errorf("fsync, data only %v: %v", dataOnly, err)
			}
		}
	}
	for _, fd := range append(fds, kept) {
		must(t, unix.Close(fd))
	}
}
