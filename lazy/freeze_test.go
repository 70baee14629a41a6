package lazy_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/lazy"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
)

// TestFreeze_SeesNoFileInTheMiddleOfAFetch : a write spoils the times and takes the capabilities away, until they are put back.
func TestFreeze_SeesNoFileInTheMiddleOfAFetch(t *testing.T) {
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
	for {
		check(t, v.Freeze(func() error {
			var st unix.Stat_t
			check(t, unix.Stat(path, &st))
			_, err := unix.Getxattr(path, "security.capability", nil)
			if st.Mtim.Sec != 1000 || err != nil {
				t.Errorf("modified at %d, capabilities: %v", st.Mtim.Sec, err)
			}
			return nil
		}))
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
