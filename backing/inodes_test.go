package backing_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// contents makes what extents can look like in the folder dir.
func contents(t *testing.T, dir string) {
	t.Helper()
	kit.Must(t, os.Mkdir(dir, 0o755))
	text := func(n int) []byte { return bytes.Repeat([]byte("abcdefg\n"), n/8+1)[:n] }
	write := func(name string, n int) string {
		path := filepath.Join(dir, name)
		kit.Must(t, os.WriteFile(path, text(n), 0o644))
		return path
	}
	change := func(path string, fn func(fd int) error) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		kit.Must(t, err)
		kit.Must(t, fn(int(f.Fd())))
		kit.Must(t, f.Sync())
		kit.Must(t, f.Close())
	}
	for _, n := range []int{0, 1, 7, 100, 2000, 2047, 2048, 2049, 4095, 4096, 4097, 60_000, 300_000} {
		write(fmt.Sprintf("size %d", n), n)
	}
	allocate := func(mode uint32, off, n int64) func(int) error {
		return func(fd int) error { return unix.Fallocate(fd, mode, off, n) }
	}
	change(write("preallocated", 0), allocate(0, 0, 100_000))
	change(write("preallocated behind the end", 0), allocate(unix.FALLOC_FL_KEEP_SIZE, 0, 100_000))
	change(write("inline and preallocated", 500), allocate(unix.FALLOC_FL_KEEP_SIZE, 0, 100_000))
	change(write("data and preallocated", 50_000), allocate(0, 40_000, 100_000))
	change(write("punched", 200_000), allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 65_536, 65_536))
	change(write("hole first", 200_000), allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 65_536))
	change(write("inline and longer", 100), func(fd int) error { return unix.Ftruncate(fd, 5000) })
	change(write("inline and much longer", 100), func(fd int) error { return unix.Ftruncate(fd, 5_000_000) })
	change(write("shorter", 100_000), func(fd int) error { return unix.Ftruncate(fd, 1000) })
	change(write("shorter and longer", 100_000), func(fd int) error {
		if err := unix.Ftruncate(fd, 1000); err != nil {
			return err
		}
		return unix.Ftruncate(fd, 90_000)
	})
	change(write("only a hole", 0), func(fd int) error { return unix.Ftruncate(fd, 1<<40) })
	change(write("many extents", 0), func(fd int) error {
		for i := range int64(8000) { // more than one search brings
			if _, err := unix.Pwrite(fd, []byte("x"), i*8192); err != nil {
				return err
			}
		}
		return nil
	})
	write("behind many extents", 300)
	for _, n := range []int{1000, 100_000} {
		for _, how := range []string{"zstd", "lzo", "zlib"} {
			path := write(fmt.Sprintf("%s %d", how, n), 0)
			kit.Must(t, unix.Setxattr(path, backing.XattrCompression, []byte(how), 0))
			kit.Must(t, os.WriteFile(path, text(n), 0o644))
		}
		from, to := filepath.Join(dir, fmt.Sprintf("size %d", map[int]int{1000: 100, 100_000: 300_000}[n])), write(fmt.Sprintf("clone %d", n), 0)
		src, err := os.Open(from)
		kit.Must(t, err)
		change(to, func(fd int) error { return unix.IoctlFileClone(fd, int(src.Fd())) })
		kit.Must(t, src.Close())
	}
	path := write("much to say", 10)
	for i := range 12 {
		kit.Must(t, unix.Setxattr(path, fmt.Sprintf("user.%d", i), text(12_000), 0))
	}
	kit.Must(t, os.Link(path, filepath.Join(dir, "second name")))
}

// TestTree_InodesSayWhatTheFileSystemSays compares each regular file of a tree with every kind of them.
func TestTree_InodesSayWhatTheFileSystemSays(t *testing.T) {
	pool := kit.Pool(t)
	data, snapshot := filepath.Join(pool, "data"), filepath.Join(pool, "snapshot")
	kit.Must(t, backing.CreateSubvolume(data))
	kit.Must(t, kit.Tree(filepath.Join(data, "tree"), kit.TreeOptions{Entries: 1000, Small: true}))
	contents(t, filepath.Join(data, "contents"))
	kit.Must(t, backing.SyncFS(data))
	kit.Must(t, backing.Snapshot(data, snapshot, true))
	tree, err := backing.OpenTree(snapshot)
	kit.Must(t, err)
	defer tree.Close()

	paths, inos := map[uint64]string{}, []uint64{1 << 40} // which is not there
	kit.Must(t, filepath.WalkDir(snapshot, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		inos = append(inos, st.Ino, st.Ino)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			paths[st.Ino] = path
		}
		return nil
	}))
	slices.Reverse(inos)
	found := map[uint64]*backing.Inode{}
	for list := range slices.Chunk(inos, 300) {
		part, err := tree.Inodes(list)
		kit.Must(t, err)
		for ino, n := range part {
			if paths[ino] == "" {
				t.Errorf("inode %d is no regular file", ino)
			}
			found[ino] = n
		}
	}
	layouts := map[backing.Layout]int{}
	for ino, path := range paths {
		n := found[ino]
		if n == nil {
			if !strings.HasSuffix(path, "/much to say") && !strings.HasSuffix(path, "/second name") {
				t.Errorf("%q was not found", path)
			}
			continue
		}
		layouts[n.Layout]++
		compareInode(t, tree, ino, path, n)
	}
	if layouts[backing.LayoutUnknown] < 10 || layouts[backing.LayoutInline] < 100 || layouts[backing.LayoutWhole] < 20 {
		t.Errorf("layouts: %v", layouts)
	}
}

func compareInode(t *testing.T, tree *backing.Tree, ino uint64, path string, n *backing.Inode) {
	t.Helper()
	fd, err := tree.Open(ino, unix.O_RDONLY)
	kit.Must(t, err)
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := backing.Statx(fd)
	kit.Must(t, err)
	want := unix.Statx_t{Ino: st.Ino, Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, Nlink: st.Nlink, Size: st.Size, Mtime: st.Mtime, Ctime: st.Ctime, Btime: st.Btime}
	if n.Stat != want {
		t.Errorf("%q:\n have %+v\n want %+v", path, n.Stat, want)
	}
	flags, err := backing.GetFlags(fd)
	kit.Must(t, err)
	if n.Flags != flags {
		t.Errorf("%q has flags %x, want %x", path, n.Flags, flags)
	}
	names, err := backing.Listxattr(fd)
	kit.Must(t, err)
	var have, say []string
	for _, x := range n.Xattrs {
		have = append(have, fmt.Sprintf("%s=%q", x.Name, x.Value))
	}
	for _, name := range names {
		value, err := backing.Getxattr(fd, name)
		kit.Must(t, err)
		say = append(say, fmt.Sprintf("%s=%q", name, value))
	}
	if !slices.Equal(have, say) {
		t.Errorf("%q has attributes\n %.300q, want\n %.300q", path, have, say)
	}
	switch n.Layout {
	case backing.LayoutInline:
		data := make([]byte, st.Size+1)
		if got, err := f.ReadAt(data, 0); uint64(got) != st.Size || !bytes.Equal(data[:got], n.Inline) {
			t.Errorf("%q has %d bytes, %v; the tree %d", path, got, err, len(n.Inline))
		}
	case backing.LayoutWhole:
		list, err := backing.DataRanges(fd, 0, st.Size)
		kit.Must(t, err)
		if !slices.Equal(list, []backing.Range{{Off: 0, Len: st.Size}}) {
			t.Errorf("%q of %d bytes has data in %v", path, st.Size, list)
		}
	}
}
