package lazy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/mark"
	"fractal-lazy/replica"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// TestFile_WriteRightAfterFinishingIsSeenAsAChange lets writers wait for the
// lock under which a file's mark turns clean: the clock that stamps inodes is
// some milliseconds slow, and a write must not be taken for the marking.
func TestFile_WriteRightAfterFinishingIsSeenAsAChange(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	const files = 40
	for i := range files {
		check(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), noise(uint64(i), 9000), 0o644))
	}
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	var wg sync.WaitGroup
	for i := range files {
		h := v.openFile(fmt.Sprint(i))
		defer h.close()
		f, err := v.File(context.Background(), h.ino)
		check(t, err)
		defer f.Close()
		wg.Go(func() {
			if err := f.Read(context.Background(), 0, 9000); err != nil {
				t.Error(err)
				return
			}
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
				m, err := mark.GetFile(mark.FD(h.fd))
				if err != nil || time.Now().After(end) {
					t.Errorf("the file is not finished: %v", err)
					return
				}
				if m.State == mark.Clean {
					break
				}
			}
			var m *mark.File
			err := f.Write(context.Background(), 0, 1, func() (err error) {
				if m, err = mark.GetFile(mark.FD(h.fd)); err == nil {
					_, err = unix.Pwrite(h.fd, []byte{0}, 0)
				}
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
			st, err := backing.Statx(h.fd)
			if err != nil || m == nil || m.Unchanged(wire.Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec}) {
				t.Errorf("a write at %v to a file that was done at %v shows as no change, %v", st.Ctime, m.Done, err)
			}
		})
	}
	wg.Wait()
}
