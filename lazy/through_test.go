package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
)

// TestFile_FullDiskServesFromMemory has a pool that what is remote does not fit into.
func TestFile_FullDiskServesFromMemory(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	want := noise(77, 64<<20)
	check(t, os.WriteFile(filepath.Join(src, "f"), want, 0o644))
	r := w.publish(src, replica.Base{})

	dir := t.TempDir()
	small := backing.LoopPool{File: filepath.Join(dir, "image"), Dir: filepath.Join(dir, "pool"), Size: 300 << 20}
	check(t, small.Create(context.Background()))
	t.Cleanup(func() {
		if out, err := exec.Command("umount", small.Dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dst := filepath.Join(small.Dir, "data")
	check(t, backing.CreateSubvolume(dst))
	_, err := lazy.Create(context.Background(), dst, w.store, w.key.Sealer(), r.Base.Root)
	check(t, err)
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h := v.openFile("f")
	defer h.close()

	// Fill the disk to the last sector.
	f, err := os.Create(filepath.Join(small.Dir, "filler"))
	check(t, err)
	for b := noise(1, 1<<20); err == nil; {
		_, err = f.Write(b)
	}
	_ = f.Sync() // it says again that the disk is full
	_ = f.Close()

	file, err := v.File(context.Background(), h.ino)
	check(t, err)
	defer file.Close()
	var off uint64
	for err = nil; err == nil && off < uint64(len(want)); off += 1 << 20 {
		err = file.Read(context.Background(), off, 1<<20) // a little may still fit
		if err == nil {
			err = v.Sync(context.Background(), h.fd, func() error { return backing.SyncFS(small.Dir) })
		}
	}
	if !errors.Is(err, fusefs.ErrNoSpace) {
		t.Fatalf("error %v after %d MiB, want that there is no space", err, off>>20)
	}
	got := make([]byte, 10<<20)
	from := uint64(len(want) - len(got) + 5)
	n, err := file.(fusefs.Through).ReadThrough(context.Background(), from, got)
	check(t, err)
	if n != len(got)-5 || !bytes.Equal(got[:n], want[from:]) {
		t.Fatalf("%d bytes from memory, first difference at %d", n, differs(got, want[from:]))
	}
	n, err = file.(fusefs.Through).ReadThrough(context.Background(), 0, got)
	check(t, err)
	if n != len(got) || !bytes.Equal(got, want[:n]) {
		t.Fatalf("%d bytes from disk and memory, first difference at %d", n, differs(got, want))
	}

	// With room again, it is kept.
	check(t, os.Remove(filepath.Join(small.Dir, "filler")))
	check(t, backing.SyncFS(small.Dir))
	v.hydrate2()
}
