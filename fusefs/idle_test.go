package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// soonIdle has mounts that are made from now on be idle after d.
func soonIdle(t *testing.T, d time.Duration) {
	before := idleAfter
	idleAfter = d
	t.Cleanup(func() { idleAfter = before })
}

// burst makes parallel requests, so that several readers wait after them.
func burst(dir string) error {
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			name := filepath.Join(dir, fmt.Sprint("burst", i))
			want := bytes.Repeat([]byte{byte('a' + i)}, 300_000)
			for range 20 {
				err := os.WriteFile(name, want, 0o644)
				got, rerr := os.ReadFile(name)
				if errs[i] = errors.Join(err, rerr); errs[i] == nil && !bytes.Equal(got, want) {
					errs[i] = fmt.Errorf("%s has other bytes", name)
				}
				if errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func TestIdle_AMountThatNobodyUsesHasOneReaderAndNoRoom(t *testing.T) {
	soonIdle(t, 50*time.Millisecond)
	w := mountTest(t, newSubvolume(t), complete{}, Options{NoPassthrough: true})
	idle := func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return w.server.readers == 1 && w.server.asleep.Load()
	}
	for range 3 {
		must(t, burst(w.mnt))
		f, err := os.Create(filepath.Join(w.mnt, "open")) // or the kernel may have forgotten it
		must(t, err)
		defer f.Close()
		waitFor(t, idle)
		rooms.mu.Lock()
		free := len(rooms.free)
		rooms.mu.Unlock()
		if free == 0 {
			t.Error("the room was not given back")
		}
		for range 3 { // as one that a process before this one has left
			must(t, w.server.wake())
		}
		waitFor(t, idle)
	}
}

// Requests come while readers fall asleep and wake, all the time.
func TestIdle_NoRequestIsLost(t *testing.T) {
	soonIdle(t, time.Millisecond)
	w := mountTest(t, newSubvolume(t), complete{}, Options{NoPassthrough: true})
	var users sync.WaitGroup
	for i := range 3 {
		users.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			dir := filepath.Join(w.mnt, fmt.Sprint("d", i))
			for n := range 300 {
				err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), make([]byte, r.IntN(200_000)), 0o644), os.RemoveAll(dir))
				if err != nil {
					t.Errorf("%d: %v", n, err)
					return
				}
				time.Sleep(time.Duration(r.IntN(4000)) * time.Microsecond)
			}
		})
	}
	users.Wait()
}

func TestIdle_MountsThatNobodyUsesTakeLittleMemory(t *testing.T) {
	soonIdle(t, 50*time.Millisecond)
	const mounts = keptRooms + 24
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	src := newSubvolume(t)
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("content"), 0o644))
	var all []*world
	for range mounts {
		w := mountTest(t, src, complete{}, Options{})
		f, err := os.Open(filepath.Join(w.mnt, "f")) // or the kernel may have forgotten it
		must(t, err)
		defer f.Close()
		all = append(all, w)
	}
	for _, w := range all {
		waitFor(t, w.server.asleep.Load)
	}
	if more := heap() - before; more > (keptRooms+12)<<20 {
		t.Errorf("%d mounts that nobody uses take %d KiB", mounts, more>>10)
	}
}
