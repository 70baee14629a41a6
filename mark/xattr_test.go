package mark

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// pool is a loop-mounted BTRFS.
var pool string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "these tests mount a BTRFS, as root:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "mark-test-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return fail(err)
	}
	if err := os.Truncate(image, 512<<20); err != nil {
		return fail(err)
	}
	pool = filepath.Join(dir, "pool")
	if err := os.Mkdir(pool, 0o700); err != nil {
		return fail(err)
	}
	for _, args := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, pool}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fail(fmt.Errorf("%s: %w: %s", args[0], err, out))
		}
	}
	defer func() {
		if out, err := exec.Command("umount", pool).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "umount: %v: %s\n", err, out)
		}
	}()
	return m.Run()
}

// folder makes an empty one in the pool.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(pool, "t")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// kinds makes an inode of each type that may carry a mark, and returns their names.
func kinds(t testing.TB, dir string) []string {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	check(t, os.WriteFile(at("regular"), []byte("x"), 0o600))
	check(t, os.Mkdir(at("directory"), 0o700))
	check(t, os.Symlink("regular", at("symlink")))
	check(t, os.Symlink("nowhere", at("dangling")))
	check(t, unix.Mkfifo(at("fifo"), 0o600))
	check(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0))
	check(t, unix.Mknod(at("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	check(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(250, 9))))
	return []string{"regular", "directory", "symlink", "dangling", "fifo", "socket", "null", "disk"}
}

func TestXattr_MarksOfEveryTypeOfInode(t *testing.T) {
	dir := folder(t)
	dirfd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	for i, name := range kinds(t, dir) {
		want := &Link{ID: uint64(i + 1), Pending: 2, Hidden: true}
		byName := At(dirfd, name)
		byFD := FD(open(t, filepath.Join(dir, name), unix.O_PATH|unix.O_NOFOLLOW))
		for what, paths := range map[string][2]string{"name": {byName, byFD}, "descriptor": {byFD, byName}} {
			if m, err := GetLink(paths[0]); m != nil || err != nil {
				t.Errorf("%s: a mark before it was set: %+v, %v", name, m, err)
			}
			if err := Set(paths[0], want); err != nil {
				t.Errorf("%s, by %s: %v", name, what, err)
				continue
			}
			for _, path := range paths {
				if m, err := GetLink(path); err != nil || !reflect.DeepEqual(m, want) {
					t.Errorf("%s at %s: %+v, %v", name, path, m, err)
				}
			}
			check(t, Remove(paths[1], LinkName))
			check(t, Remove(paths[1], LinkName)) // gone is gone
			if m, err := GetLink(paths[0]); m != nil || err != nil {
				t.Errorf("%s: a mark after it was removed: %+v, %v", name, m, err)
			}
		}
	}
}

func TestXattr_SymlinkIsNotFollowed(t *testing.T) {
	dir := folder(t)
	kinds(t, dir)
	dirfd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	check(t, Set(At(dirfd, "symlink"), &Link{ID: 7}))
	if m, err := GetLink(At(dirfd, "regular")); m != nil || err != nil {
		t.Errorf("the mark is on what the link leads to: %+v, %v", m, err)
	}
	check(t, Set(At(dirfd, "regular"), &Link{ID: 8}))
	check(t, Remove(At(dirfd, "symlink"), LinkName))
	if m, err := GetLink(At(dirfd, "regular")); err != nil || m == nil || m.ID != 8 {
		t.Errorf("removed through the link: %+v, %v", m, err)
	}
}

// A name may look like the path of a descriptor's magic link.
func TestXattr_NameOfDigitsIsAName(t *testing.T) {
	dir := folder(t)
	check(t, os.Symlink("5", filepath.Join(dir, "3")))
	check(t, os.WriteFile(filepath.Join(dir, "5"), nil, 0o600))
	dirfd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	check(t, Set(At(dirfd, "3"), &Link{ID: 9}))
	if m, err := GetLink(At(dirfd, "5")); m != nil || err != nil {
		t.Errorf("a name of digits was followed: %+v, %v", m, err)
	}
}

func TestXattr_EachMarkHasItsOwnName(t *testing.T) {
	dir := folder(t)
	path := FD(open(t, dir, unix.O_PATH))
	all := marks(t)
	for _, name := range []string{"file-pending", "dir", "link", "tree"} {
		check(t, Set(path, all[name]))
	}
	file, err := GetFile(path)
	check(t, err)
	d, err := GetDir(path)
	check(t, err)
	link, err := GetLink(path)
	check(t, err)
	tree, err := GetTree(path)
	check(t, err)
	if !reflect.DeepEqual([]any{file, d, link, tree}, []any{all["file-pending"], all["dir"], all["link"], all["tree"]}) {
		t.Error("a mark came back as another one")
	}
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(path, TreeName, buf)
	if err != nil || !bytes.Equal(buf[:n], golden(t, "tree")) {
		t.Errorf("%x, %v on the disk", buf[:max(n, 0)], err)
	}
}

func TestXattr_DamagedMarkIsAnErrorAndNeverNone(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "f")
	check(t, os.WriteFile(path, nil, 0o600))
	for what, value := range map[string][]byte{
		"empty": {}, "garbage": []byte("garbage"), "of another kind": golden(t, "dir"),
		"of a later version": append([]byte{0x8b, 2}, golden(t, "file-pending")[2:]...),
		"longer than any":    make([]byte, MaxSize+1), "far longer": make([]byte, 16_000),
	} {
		check(t, os.Remove(path))
		check(t, os.WriteFile(path, nil, 0o600))
		check(t, unix.Setxattr(path, FileName, value, 0))
		if m, err := GetFile(path); !errors.Is(err, ErrFormat) || m != nil {
			t.Errorf("%s: %+v, %v, want ErrFormat", what, m, err)
		}
	}
	if _, err := GetFile(filepath.Join(dir, "none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no inode: %v, want ENOENT", err)
	}
}

// A mark grows one zero range after the other, beside other attributes, on
// inodes whose neighbours in the tree are full of them too. BTRFS must have
// room for each, whatever the mark was before.
func TestXattr_MarkGrowsToItsLongest(t *testing.T) {
	dir := folder(t)
	const files = 4
	var paths [files]string
	for i := range paths {
		paths[i] = FD(open(t, filepath.Join(dir, fmt.Sprint(i)), unix.O_RDWR|unix.O_CREAT))
		check(t, unix.Setxattr(paths[i], "user.large", make([]byte, 3000+3000*i), 0))
		check(t, Set(paths[i], &Link{ID: 1}))
	}
	f := &File{State: Pending, Content: widest(t), Valid: 1 << 60}
	longest := 0
	for i := uint64(0); ; i++ {
		// Long offsets and long lengths: MaxSize is met before MaxZero.
		f.Zero = append(f.Zero, wire.Range{Off: i << 50, Len: 1 << 49})
		b, err := f.Encode()
		if errors.Is(err, ErrFull) {
			break
		}
		check(t, err)
		longest = len(b)
		for _, path := range paths {
			if err := Set(path, f); err != nil {
				t.Fatalf("a mark of %d bytes: %v", len(b), err)
			}
		}
	}
	if longest < MaxSize-20 {
		t.Errorf("the longest mark had %d bytes", longest)
	}
	if err := Set(paths[0], f); !errors.Is(err, ErrFull) {
		t.Errorf("a mark that is too long: %v, want ErrFull", err)
	}
	// And from a short one at once, and back.
	short := &File{State: Pending, Content: small(), Valid: 5000}
	f.Zero = f.Zero[:len(f.Zero)-1]
	for range 3 {
		for _, path := range paths {
			check(t, Set(path, short))
			check(t, Set(path, f))
			got, err := GetFile(path)
			check(t, err)
			if !reflect.DeepEqual(got, f) {
				t.Fatal("the longest mark comes back changed")
			}
		}
	}
}
