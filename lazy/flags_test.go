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
	"fractal-lazy/replica"
)

const immutable = 0x10 // FS_IMMUTABLE_FL

// flagsOf returns the inode flags of the file at path.
func flagsOf(t testing.TB, path string) uint32 {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	flags, err := backing.GetFlags(int(f.Fd()))
	check(t, err)
	return flags
}

func setFlags(t testing.TB, path string, flags uint32) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	check(t, backing.SetFlags(int(f.Fd()), flags))
}

// TestFlags_LiftedByOneAtATime : fetching lifts the flags of a protected file, and so does a name of it that comes, or a hidden one that goes. They meet here, on
// files of which nothing is here, and one must not put the flags back while another one is at work.
func TestFlags_LiftedByOneAtATime(t *testing.T) {
	const files = 250
	w := newWorld(t)
	src := w.subvolume()
	for _, d := range []string{"a", "b"} {
		check(t, os.Mkdir(filepath.Join(src, d), 0o755))
	}
	for i := range files {
		name := fmt.Sprint(i)
		check(t, os.WriteFile(filepath.Join(src, "a", name), noise(uint64(i), 5000), 0o644))
		check(t, os.Link(filepath.Join(src, "a", name), filepath.Join(src, "b", name)))
		setFlags(t, filepath.Join(src, "a", name), immutable)
	}
	r := w.publish(src, replica.Base{})
	for range 2 {
		v := w.open(w.lazy(r), lazy.Options{Prefetch: lazy.PrefetchNone})
		var inos []uint64
		for i := range files {
			inos = append(inos, v.ino("a/"+fmt.Sprint(i)))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var readers sync.WaitGroup
		done := make(chan struct{})
		readers.Go(func() {
			v.Hydrate()
			if err := v.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
		for from := range 2 {
			readers.Go(func() {
				for i := from; i < files; i += 2 {
					f, err := v.File(ctx, inos[i])
					if err == nil && f != nil {
						err = f.Read(ctx, 0, 5000)
						f.Close()
					}
					if err != nil {
						t.Errorf("read %d: %v", i, err)
					}
				}
			})
		}
		go func() { readers.Wait(); close(done) }()
		for i, working := 0, true; working; i++ {
			select {
			case <-done:
				working = false
			default:
			}
			path := filepath.Join(v.path, "a", fmt.Sprint(i%files))
			check(t, v.Steady(func() error {
				if flagsOf(t, path)&immutable == 0 {
					t.Errorf("%s is not immutable", path)
				}
				return nil
			}))
		}
		for i := range files {
			path := filepath.Join(v.path, "a", fmt.Sprint(i))
			if flagsOf(t, path)&immutable == 0 {
				t.Errorf("%s is not immutable at the end", path)
			}
		}
		if t.Failed() {
			return
		}
	}
}
