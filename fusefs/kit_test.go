package fusefs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// The tests serve and use a mount in one process. A goroutine blocked in a page fault or in epoll_ctl on
// the mount holds a slot of the scheduler, so there have to be more of them than such goroutines, and what maps files does so in a child process.
func TestMain(m *testing.M) {
	if script := os.Getenv(childEnv); script != "" {
		if err := runChild(script, os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
	code := m.Run()
	if pool.dir != "" {
		unix.Unmount(pool.dir, 0)
		os.Remove(pool.dir)
		os.Remove(pool.image)
	}
	os.Exit(code)
}

const childEnv = "FUSEFS_TEST_CHILD"

// pool is a BTRFS in a file, mounted once for all tests.
var pool struct{ image, dir string }

func poolDir(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount file systems: run them as root")
	}
	if pool.dir != "" {
		return pool.dir
	}
	image, err := os.CreateTemp("", "fusefs-*.img")
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(4 << 30); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fusefs-pool-")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.btrfs", "-q", image.Name())
	run(t, "mount", "-o", "loop", image.Name(), dir)
	pool.image, pool.dir = image.Name(), dir
	return dir
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// handleTree opens inodes of one subvolume by number.
type handleTree struct {
	root   int
	rootID uint64
}

func openTree(t testing.TB, path string) *handleTree {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := treeOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return tree
}

func treeOf(fd int) (*handleTree, error) {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	return &handleTree{root: fd, rootID: binary.NativeEndian.Uint64(h.Bytes()[8:])}, nil
}

func (t *handleTree) RootFD() int { return t.root }

func (t *handleTree) Open(ino uint64, flags int) (int, error) {
	const withoutParent = 0x4d // FILEID_BTRFS_WITHOUT_PARENT
	var b [20]byte
	binary.NativeEndian.PutUint64(b[0:], ino)
	binary.NativeEndian.PutUint64(b[8:], t.rootID)
	return unix.OpenByHandleAt(t.root, unix.NewFileHandle(withoutParent, b[:]), flags|unix.O_CLOEXEC)
}

// No kernel is short of memory while these tests run, so what was opened by number has a name.
func (t *handleTree) OpenNamed(ino uint64, flags int) (int, error) { return t.Open(ino, flags) }

func (t *handleTree) Anchor(int) error { return nil }

func (t *handleTree) Fsync(fd int, dataOnly bool) error {
	if dataOnly {
		return unix.Fdatasync(fd)
	}
	return unix.Fsync(fd)
}

// complete is the Residency of a volume with nothing remote.
type complete struct{}

var errNotAsked = errors.New("a complete volume was asked for its residency")

func (complete) Complete() bool                                { return true }
func (complete) Fill(context.Context, uint64) error            { return errNotAsked }
func (complete) Look(uint64, func() error) error               { return errNotAsked }
func (complete) Overlay(string, *unix.Statx_t) error           { return errNotAsked }
func (complete) File(context.Context, uint64) (File, error)    { return nil, errNotAsked }
func (complete) Sync(context.Context, int, func() error) error { return errNotAsked }

// world is a subvolume and its mount.
type world struct {
	*FS
	src, mnt string
	log      *bytes.Buffer
}

// newSubvolume makes a subvolume that is deleted after the test.
func newSubvolume(t testing.TB) string {
	t.Helper()
	src := filepath.Join(poolDir(t), fmt.Sprintf("v%d", time.Now().UnixNano()))
	run(t, "btrfs", "-q", "subvolume", "create", src)
	t.Cleanup(func() { run(t, "btrfs", "-q", "subvolume", "delete", src) })
	if err := os.Chmod(src, 0o777); err != nil {
		t.Fatal(err)
	}
	return src
}

func mountTest(t testing.TB, src string, res Residency, opt Options) *world {
	t.Helper()
	w := &world{src: src, log: new(bytes.Buffer)}
	mnt, err := os.MkdirTemp("", "fusefs-mnt-")
	if err != nil {
		t.Fatal(err)
	}
	w.mnt = mnt
	opt.Log = zerolog.New(zerolog.SyncWriter(w.log))
	w.FS, err = Mount(openTree(t, src), res, mnt, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Unmount(); err != nil {
			t.Errorf("%v\n%s", err, run(t, "sh", "-c", "fuser -vm "+mnt+" 2>&1 || true"))
			w.Abort()
		}
		os.Remove(mnt)
		if t.Failed() && w.log.Len() > 0 {
			t.Logf("log of the file system:\n%s", w.log)
		}
	})
	pollOnce(t, mnt)
	return w
}

// pollOnce asks for FUSE_POLL once: the kernel learns that there is none. This process opens files of its own mount with epoll in play, and would
// wait for itself.
func pollOnce(t testing.TB, mnt string) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(mnt, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0) // the protocol library has it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB) *world { return mountTest(t, newSubvolume(t), complete{}, Options{}) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatal("waited in vain")
}
