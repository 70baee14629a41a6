package replica

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// pool is a BTRFS in a loop-mounted file that the tests of this package share.
var pool string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if file := os.Getenv(killEnv); file != "" { // the process that kill_test.go kills
		return publishAndExit(file)
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root: they mount a BTRFS")
		return 1
	}
	dir, err := os.MkdirTemp("", "replica-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "image")
	pool = filepath.Join(dir, "pool")
	must := func(name string, args ...string) bool {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s %v: %v: %s\n", name, args, err, out)
		}
		return err == nil
	}
	if os.Mkdir(pool, 0o700) != nil || !must("truncate", "-s", "8G", image) ||
		!must("mkfs.btrfs", "-q", image) || !must("mount", "-o", "loop", image, pool) {
		return 1
	}
	defer must("umount", pool)
	return m.Run()
}

// volume is a subvolume of a test.
type volume struct {
	t    testing.TB
	dir  string // of the test in the pool
	path string
	n    int
}

func newVolume(t testing.TB) *volume {
	t.Helper()
	dir, err := os.MkdirTemp(pool, "v")
	check(t, err)
	v := &volume{t: t, dir: dir, path: filepath.Join(dir, "data")}
	check(t, backing.CreateSubvolume(v.path))
	t.Cleanup(func() {
		subs, err := os.ReadDir(dir)
		check(t, err)
		for _, s := range subs {
			check(t, backing.DeleteSubvolume(filepath.Join(dir, s.Name())))
		}
		check(t, os.Remove(dir))
	})
	return v
}

// snapshot takes a read-only one and returns its path.
func (v *volume) snapshot() string {
	v.t.Helper()
	v.n++
	path := filepath.Join(v.dir, fmt.Sprintf("snapshot-%d", v.n))
	check(v.t, backing.SyncFS(v.path))
	check(v.t, backing.Snapshot(v.path, path, true))
	return path
}

func (v *volume) at(name string) string { return filepath.Join(v.path, name) }

func (v *volume) write(name string, data []byte) {
	v.t.Helper()
	check(v.t, os.MkdirAll(filepath.Dir(v.at(name)), 0o755))
	check(v.t, os.WriteFile(v.at(name), data, 0o644))
}

// writeAt changes part of a file.
func (v *volume) writeAt(name string, data []byte, off int64) {
	v.t.Helper()
	f, err := os.OpenFile(v.at(name), os.O_WRONLY, 0)
	check(v.t, err)
	_, err = f.WriteAt(data, off)
	check(v.t, err)
	check(v.t, f.Close())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func setFlags(t testing.TB, path string, flags uint32) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	check(t, backing.SetFlags(fd, flags))
}

func setMtime(t testing.TB, path string, at time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(at.UnixNano())
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}
