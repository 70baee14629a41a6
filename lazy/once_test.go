package lazy_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/lazy"
	"fractal-lazy/mark"
	"fractal-lazy/replica"
	"fractal-lazy/store/faulty"

	"golang.org/x/sys/unix"
)

// Directories are filled at once, so one can get its mark when the search has already passed it. It is not left behind for that.
func TestBring_ADirectoryThatIsMarkedBehindTheSearchIsBroughtToo(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	for _, d := range []string{"a", "b"} {
		check(t, os.Mkdir(filepath.Join(src, d), 0o755))
		check(t, os.WriteFile(filepath.Join(src, d, "f"), noise(1, 100_000), 0o644))
	}
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchAll})
	a := filepath.Join(dst, "a")
	if v.ino("a") >= v.ino("b") {
		t.Fatal("a was made after b")
	}
	value := make([]byte, 4096)
	n, err := unix.Lgetxattr(a, mark.DirName, value)
	check(t, err)
	check(t, unix.Lremovexattr(a, mark.DirName))
	hang := w.store.Inject(faulty.Rule{Fault: faulty.Hang()})

	type result struct {
		complete bool
		err      error
	}
	done := make(chan result, 1)
	go func() {
		complete, err := v.Bring(context.Background())
		done <- result{complete, err}
	}()
	eventually(t, "b is asked for", func() bool { return hang.Hits() > 0 })
	check(t, unix.Lsetxattr(a, mark.DirName, value[:n], 0))
	hang.Lift()
	if r := <-done; !r.complete || r.err != nil {
		t.Fatalf("complete %v, %v", r.complete, r.err)
	}
	if _, err := os.Stat(filepath.Join(a, "f")); err != nil {
		t.Fatal(err)
	}
}
