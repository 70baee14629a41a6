package lazy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/mark"
	"fractal-lazy/replica"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"golang.org/x/sys/unix"
)

// manyDirs makes a volume with n directories of one file each, and opens it
// with the root filled.
func manyDirs(t *testing.T, w *world, n int) (v *volume, inos []uint64) {
	t.Helper()
	src := w.subvolume()
	for i := range n {
		dir := filepath.Join(src, fmt.Sprintf("d%04d", i))
		check(t, os.Mkdir(dir, 0o755))
		check(t, os.WriteFile(filepath.Join(dir, "f"), []byte(fmt.Sprint("file", i)), 0o644))
	}
	v = w.open(w.lazy(w.publish(src, replica.Base{})), lazy.Options{})
	for i := range n {
		inos = append(inos, v.ino(fmt.Sprintf("d%04d", i)))
	}
	return v, inos
}

func TestFill_ReaderHurriesAFillingOfThePausedBackground(t *testing.T) {
	w := newWorld(t)
	v, inos := manyDirs(t, w, 320)
	v.Pause()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	defer func() { cancel(); <-done }()
	time.Sleep(2 * time.Second) // the first directories are filled in spite of it, the next wait
	for i, ino := range inos {
		if err := v.Fill(ctx, ino); err != nil {
			t.Fatalf("directory %d: %v", i, err)
		}
	}
}

func TestFill_ReaderWaitsLongerThanTheBackground(t *testing.T) {
	w := newWorld(t)
	v, inos := manyDirs(t, w, 320)
	rule := w.store.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrUnavailable)})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	defer func() { cancel(); <-done }()
	errs := make(chan error, len(inos))
	for _, ino := range inos {
		go func() { errs <- v.Fill(ctx, ino) }()
	}
	select {
	case err := <-errs:
		t.Fatalf("a reader did not wait: %v", err)
	case <-time.After(3 * time.Second):
	}
	rule.Lift()
	for range inos {
		check(t, <-errs)
	}
}

// TestFill_AgainTakesOverWhatIsThere fills a directory that an interrupted
// filling left in every state it can.
func TestFill_AgainTakesOverWhatIsThere(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	flags := map[string]uint32{"empty": backing.FlagImmutable, "sector": backing.FlagAppend, "a/b": backing.FlagImmutable, "many/f001": backing.FlagImmutable}
	setFlags := func(root string, clear bool) {
		for rel, f := range flags {
			fd, err := unix.Open(filepath.Join(root, rel), unix.O_RDONLY, 0)
			check(t, err)
			if clear {
				f = 0
			}
			check(t, backing.SetFlags(fd, f))
			check(t, unix.Close(fd))
		}
	}
	setFlags(src, false)
	r := w.publish(src, replica.Base{})
	dst := w.lazy(r)
	defer setFlags(src, true)
	root, err := mark.GetDir(dst)
	check(t, err)
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	v.ino("a/b")
	v.ino("many/f001")
	a, err := mark.GetDir(filepath.Join(dst, "a"))
	check(t, err)
	if a != nil {
		t.Fatal("a directory that was filled has a mark")
	}
	h := v.openFile("medium")
	_, err = h.read(0, 300<<10)
	check(t, err)
	h.close()
	v.close()

	// The crash: marks and flags as they were, some attributes never set, a
	// directory just made, a name not yet there.
	check(t, mark.Set(dst, root))
	setFlags(dst, true)
	check(t, os.Chmod(filepath.Join(dst, "many"), 0o700))
	check(t, os.RemoveAll(filepath.Join(dst, "a/b")))
	check(t, os.Mkdir(filepath.Join(dst, "a/b"), 0o700))
	check(t, os.Remove(filepath.Join(dst, "text")))
	check(t, os.Lchown(filepath.Join(dst, "link"), 0, 0))
	check(t, unix.Removexattr(filepath.Join(dst, "small"), mark.FileName))

	again := w.open(dst, lazy.Options{})
	again.hydrate()
	again.close()
	equal(t, src, dst)
	for rel, want := range flags {
		fd, err := unix.Open(filepath.Join(dst, rel), unix.O_RDONLY, 0)
		check(t, err)
		if got, err := backing.GetFlags(fd); err != nil || got&^backing.FlagCompress != want {
			t.Errorf("%s: flags %#x, %v, want %#x", rel, got, err, want)
		}
		check(t, unix.Close(fd))
	}
	setFlags(dst, true)
}
