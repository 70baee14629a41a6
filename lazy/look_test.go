package lazy_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
)

// TestLook_NoFetchChangesWhatIsRead also while the file is opened, for the
// first time, in the middle of it.
func TestLook_NoFetchChangesWhatIsRead(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	path := filepath.Join(dst, "capable")
	ino := v.ino("capable")
	inside := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-inside
		f, err := v.File(context.Background(), ino)
		if err == nil {
			err = f.Read(context.Background(), 0, 5000)
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	check(t, v.Look(ino, func() error {
		before, err := statx(path)
		check(t, err)
		close(inside)
		time.Sleep(200 * time.Millisecond)
		after, err := statx(path)
		check(t, err)
		if before.Mtime != after.Mtime || before.Ctime != after.Ctime {
			t.Errorf("a fetch changed the times from %v to %v", before.Mtime, after.Mtime)
		}
		return nil
	}))
	wg.Wait()
}

func statx(path string) (st unix.Statx_t, err error) {
	f, err := os.Open(path)
	if err != nil {
		return st, err
	}
	defer f.Close()
	return backing.Statx(int(f.Fd()))
}
