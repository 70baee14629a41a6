package fusefs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// modes returns how many handles of ino are cached, and passed through.
func (f *FS) modes(ino uint64) (cached, pass int) {
	n := f.held(ino)
	if n == nil {
		return 0, 0
	}
	defer f.drop(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cached, n.pass
}

// Who is passed through makes things durable without asking us (R6).
func TestFilling_NoWriterIsPassedThroughBeforeItIsCommitted(t *testing.T) {
	src := newSubvolume(t)
	must(t, os.WriteFile(filepath.Join(src, "old"), []byte("old"), 0o644))
	ino := inoOf(t, filepath.Join(src, "old"))
	res := newPartial(t, src)
	w := mountTest(t, src, res, Options{})
	if !w.magic {
		t.Skip("this kernel has no passthrough")
	}
	for _, flags := range []int{os.O_RDWR, os.O_RDWR | unix.O_DSYNC, os.O_WRONLY | os.O_CREATE | os.O_EXCL} {
		name, of := filepath.Join(w.mnt, "old"), ino
		if flags&os.O_CREATE != 0 {
			name = filepath.Join(w.mnt, "new")
		}
		res.filling.Store(true)
		f, err := os.OpenFile(name, flags, 0o644)
		must(t, err)
		if flags&os.O_CREATE != 0 {
			of = inoOf(t, filepath.Join(src, "new"))
		}
		if c, p := w.modes(of); c != 1 || p != 0 {
			t.Errorf("flags %#x, not committed: %d cached, %d passed through", flags, c, p)
		}
		must(t, f.Close())
		waitFor(t, func() bool { c, _ := w.modes(of); return c == 0 })
	}
	if n := res.syncs.Load(); n != 0 {
		t.Errorf("%d commits were waited for, should be none", n)
	}

	reader, err := os.Open(filepath.Join(w.mnt, "old"))
	must(t, err)
	defer reader.Close()
	if c, p := w.modes(ino); c != 0 || p != 1 {
		t.Errorf("a reader: %d cached, %d passed through", c, p)
	}
	writer, err := os.OpenFile(filepath.Join(w.mnt, "old"), os.O_RDWR, 0)
	must(t, err)
	defer writer.Close()
	if c, p := w.modes(ino); c != 0 || p != 2 {
		t.Errorf("a writer beside it: %d cached, %d passed through", c, p)
	}
	if n := res.syncs.Load(); n != 1 {
		t.Errorf("%d commits were waited for before a writer joined a reader, should be 1", n)
	}
}

// What is passed through must not get into a directory whose filling is not committed.
func TestFilling_NamesInOtherDirectoriesWaitForTheCommit(t *testing.T) {
	src := newSubvolume(t)
	must(t, os.Mkdir(filepath.Join(src, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o644))
	res := newPartial(t, src)
	w := mountTest(t, src, res, Options{})
	at := func(name string) string { return filepath.Join(w.mnt, name) }
	for _, c := range []struct {
		name    string
		do      func() error
		commits int64
	}{
		{"rename in a directory", func() error { return os.Rename(at("f"), at("g")) }, 0},
		{"rename to another one", func() error { return os.Rename(at("g"), at("d/g")) }, 1},
		{"mkdir", func() error { return os.Mkdir(at("e"), 0o755) }, 0},
		{"exchange with one in another directory", func() error {
			return unix.Renameat2(unix.AT_FDCWD, at("e"), unix.AT_FDCWD, at("d/g"), unix.RENAME_EXCHANGE)
		}, 1},
		{"link", func() error { return os.Link(at("e"), at("l")) }, 1},
		{"removal", func() error { return os.Remove(at("l")) }, 0},
	} {
		res.filling.Store(true)
		before := res.syncs.Load()
		must(t, c.do())
		if n := res.syncs.Load() - before; n != c.commits {
			t.Errorf("%s: %d commits were waited for, should be %d", c.name, n, c.commits)
		}
	}
}

// The flags of a protected directory are lifted while it is being filled.
func TestFilling_ProtectedDirectoriesKeepTheirNames(t *testing.T) {
	src := newSubvolume(t)
	must(t, os.Mkdir(filepath.Join(src, "protected"), 0o755))
	must(t, os.Mkdir(filepath.Join(src, "other"), 0o755))
	w := mountTest(t, src, newPartial(t, src), Options{})
	at := func(name string) string { return filepath.Join(w.mnt, name) }
	if err := os.Rename(at("protected"), at("new")); !errors.Is(err, unix.EPERM) {
		t.Errorf("rename: %v", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, at("other"), unix.AT_FDCWD, at("protected"), unix.RENAME_EXCHANGE); err != unix.EPERM {
		t.Errorf("exchange: %v", err)
	}
	must(t, os.Rename(at("other"), at("new")))
}

func inoOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ino
}
