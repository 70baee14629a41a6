package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
)

// A write spoils the times and takes the capabilities away. What they were is known at any moment, to who makes a snapshot, and after a crash.

func TestFreeze_SeesNoFileInTheMiddleOfAFetch(t *testing.T) {
	spoilt(t, func(v *volume, _ int, look func(path string)) {
		check(t, v.Freeze(func() error {
			look(filepath.Join(v.path, "f"))
			_, err := unix.Getxattr(filepath.Join(v.path, "f"), "security.capability", nil)
			if err != nil {
				t.Errorf("capabilities: %v", err) // a reader of this moment asks the inode
			}
			return nil
		}))
	})
}

// A snapshot that waits for nobody is what a crash at that moment leaves.
func TestCrash_WhileFetchingKeepsTheAttributes(t *testing.T) {
	spoilt(t, func(v *volume, n int, look func(path string)) {
		image := fmt.Sprintf("%s-crash%d", v.path, n)
		check(t, backing.Snapshot(v.path, image, true))
		look(filepath.Join(image, "f"))
	})
}

// spoilt calls do again and again while a file that an application has changed is fetched. look looks at its attributes.
func spoilt(t *testing.T, do func(v *volume, n int, look func(path string))) {
	w := newWorld(t)
	src := w.subvolume()
	check(t, os.WriteFile(filepath.Join(src, "f"), noise(1, 24<<20), 0o644))
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h := v.openFile("f")
	defer h.close()
	path := filepath.Join(dst, "f")
	caps := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	old := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	check(t, h.with(func(f fileOps) error { // from now on the inode has the attributes, and no mark keeps them
		return f.Modify(context.Background(), func() error {
			check(t, unix.Setxattr(path, "security.capability", caps, 0))
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, old, 0)
		})
	}))
	done := make(chan error, 1)
	go func() {
		_, err := h.read(0, 24<<20)
		done <- err
	}()
	look := func(path string) {
		var st unix.Statx_t
		check(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st))
		check(t, v.Overlay(path, &st)) // as who makes a snapshot of it
		if st.Mtime.Sec != 1000 {
			t.Errorf("modified at %d", st.Mtime.Sec)
		}
		_, err := unix.Getxattr(path, "security.capability", nil)
		if errors.Is(err, unix.ENODATA) {
			kept, kerr := v.Caps(path)
			if err = kerr; string(kept) != string(caps) {
				t.Errorf("capabilities are kept as %x", kept)
			}
		}
		check(t, err)
	}
	for n := 0; ; n++ {
		do(v, n, look)
		select {
		case err := <-done:
			check(t, err)
			return
		default:
		}
		if t.Failed() {
			<-done
			return
		}
	}
}
