package backing

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// pool makes a BTRFS in a file and returns the folder it is mounted on.
func pool(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests mount file systems: run them as root")
	}
	base := t.TempDir()
	p := LoopPool{File: filepath.Join(base, "pool.img"), Dir: filepath.Join(base, "pool"), Size: 2 << 30}
	if err := p.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, p.Dir) })
	return p.Dir
}

func unmount(t testing.TB, dir string) {
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("unmount %s: %v", dir, err)
		out, _ := exec.Command("fuser", "-vm", dir).CombinedOutput()
		t.Logf("%s", out)
		unix.Unmount(dir, unix.MNT_DETACH)
	}
}

func subvolume(t testing.TB, path string) string {
	t.Helper()
	if err := CreateSubvolume(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func openTree(t testing.TB, path string) *Tree {
	t.Helper()
	tree, err := OpenTree(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ino(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ino
}

func write(t testing.TB, path string, n int) {
	t.Helper()
	must(t, os.WriteFile(path, bytes.Repeat([]byte{7}, n), 0o644))
}

func openFile(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(fmt.Errorf("open %s: %w", path, err))
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
