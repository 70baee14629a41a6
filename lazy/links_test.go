package lazy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/lazy"
	"fractal-lazy/replica"
)

// TestLinks_ChangeThroughOneNameIsInTheNextSnapshotUnderAll also those that
// are in directories that were not filled when it was taken.
func TestLinks_ChangeThroughOneNameIsInTheNextSnapshotUnderAll(t *testing.T) {
	for _, fetched := range []bool{false, true} {
		t.Run(fmt.Sprint("fetched ", fetched), func(t *testing.T) { changeThroughOneName(t, fetched) })
	}
}

func changeThroughOneName(t *testing.T, fetched bool) {
	w := newWorld(t)
	src := w.subvolume()
	for _, dir := range []string{"a", "b", "c"} {
		check(t, os.Mkdir(filepath.Join(src, dir), 0o755))
	}
	check(t, os.WriteFile(filepath.Join(src, "b/x"), []byte("old content"), 0o644))
	check(t, os.Link(filepath.Join(src, "b/x"), filepath.Join(src, "a/x")))
	check(t, os.Link(filepath.Join(src, "b/x"), filepath.Join(src, "c/x")))
	r := w.publish(src, replica.Base{})
	dst := w.lazy(r)
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h := v.openFile("b/x")
	if fetched {
		_, err := h.read(0, 100)
		check(t, err)
		time.Sleep(300 * time.Millisecond)
		if finished(t, filepath.Join(dst, "b/x")) {
			t.Error("the file is finished before its names are filled")
		}
	}
	check(t, h.write(0, []byte("new")))
	h.close()
	r2 := w.publish(dst, r.Base)
	v.hydrate2()
	if !finished(t, filepath.Join(dst, "b/x")) {
		t.Error("the file stays pending")
	}
	for _, first := range []string{"a/x", "b/x", "c/x"} {
		third := w.open(w.lazy(r2), lazy.Options{Prefetch: lazy.PrefetchNone})
		ino := third.ino(first)
		for _, name := range []string{"a/x", "b/x", "c/x"} {
			h := third.openFile(name)
			got, err := h.read(0, 100)
			check(t, err)
			if h.ino != ino || string(got) != "new content" {
				t.Errorf("%s first: %s reads %q, inode %d and %d", first, name, got, h.ino, ino)
			}
			h.close()
		}
	}
}
