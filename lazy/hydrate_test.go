package lazy_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/lazy"
	"fractal-lazy/mark"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
)

// eventually waits until is.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// finished reports whether the file at path has no pending mark.
func finished(t testing.TB, path string) bool {
	t.Helper()
	m, err := mark.GetFile(path)
	check(t, err)
	return m == nil || m.State == mark.Clean
}

func TestFile_DataThatDidNotReachTheDiskIsFetchedAgain(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	want := noise(3, 200_000)
	check(t, os.WriteFile(filepath.Join(src, "f"), want, 0o644))
	check(t, os.WriteFile(filepath.Join(src, "g"), want[:100_000], 0o644))
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h, g := v.openFile("f"), v.openFile("g")
	defer h.close()
	defer g.close()
	// Held, so that what is known of it in memory is not forgotten.
	f, err := v.File(context.Background(), h.ino)
	check(t, err)
	defer f.Close()
	_, err = h.read(0, 200_000)
	check(t, err)
	_, err = g.read(0, 100_000)
	check(t, err)
	// The disk fails to write some of it, and says so to somebody else.
	check(t, unix.Fallocate(h.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 40960, 8192))
	eventually(t, "the other file of the batch is finished", func() bool { return finished(t, filepath.Join(dst, "g")) })
	if finished(t, filepath.Join(dst, "f")) {
		t.Fatal("a file with a hole in it is finished")
	}
	got, err := h.read(0, 200_000)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("first difference at %d", differs(got, want))
	}
	eventually(t, "the file is finished", func() bool { return finished(t, filepath.Join(dst, "f")) })
}

func TestRun_OneBadFileKeepsNoOtherFromComing(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	names := []string{"a-large", "b-small", "c-large", "d-small", "e-small"}
	for i, name := range names {
		size := 20_000
		if i%2 == 0 {
			size = 3 << 20
		}
		check(t, os.WriteFile(filepath.Join(src, name), noise(uint64(i), size), 0o644))
	}
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{})
	v.ino(names[0])
	good, err := mark.GetFile(filepath.Join(dst, "a-large"))
	check(t, err)
	bad := *good
	tree, err := mark.GetTree(dst)
	check(t, err)
	bad.Content.Index = tree.Root // not a node of a file
	check(t, mark.Set(filepath.Join(dst, "a-large"), &bad))
	was := make([]byte, 1000)
	n, err := unix.Getxattr(filepath.Join(dst, "b-small"), mark.FileName, was)
	check(t, err)
	check(t, unix.Setxattr(filepath.Join(dst, "b-small"), mark.FileName, []byte("damaged"), 0))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	for _, name := range names[2:] {
		eventually(t, name, func() bool { return finished(t, filepath.Join(dst, name)) })
	}
	select {
	case err := <-done:
		t.Fatalf("Run ended with two files missing: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if v.Complete() {
		t.Fatal("complete with two files missing")
	}
	// Mended, they come without anybody asking.
	check(t, mark.Set(filepath.Join(dst, "a-large"), good))
	check(t, unix.Setxattr(filepath.Join(dst, "b-small"), mark.FileName, was[:n], 0))
	check(t, <-done)
	v.close()
	equal(t, src, dst)
}

func TestRun_FilesWithoutANameAreNoHindrance(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	want := noise(9, 2<<20)
	for _, name := range []string{"open", "gone", "stays"} {
		check(t, os.WriteFile(filepath.Join(src, name), want, 0o644))
	}
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{})
	h := v.openFile("open")
	defer h.close()
	gone := v.openFile("gone")
	check(t, unix.Unlink(filepath.Join(dst, "open")))
	check(t, unix.Unlink(filepath.Join(dst, "gone")))
	got, err := h.read(1<<20, 1000)
	check(t, err)
	if !bytes.Equal(got, want[1<<20:1<<20+1000]) {
		t.Error("an open file without a name reads wrong")
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		gone.close() // while it is fetched
	}()
	v.hydrate()
	got, err = h.read(0, 3<<20)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("first difference at %d", differs(got, want))
	}
}
