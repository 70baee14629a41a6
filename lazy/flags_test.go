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

const protectedFiles = 250

// protected publishes two directories with names of immutable files.
func protected(w *world) replica.Result {
	t := w.t
	src := w.subvolume()
	for _, d := range []string{"a", "b"} {
		check(t, os.Mkdir(filepath.Join(src, d), 0o755))
	}
	for i := range protectedFiles {
		name := fmt.Sprint(i)
		check(t, os.WriteFile(filepath.Join(src, "a", name), noise(uint64(i), 5000), 0o644))
		check(t, os.Link(filepath.Join(src, "a", name), filepath.Join(src, "b", name)))
		setFlags(t, filepath.Join(src, "a", name), immutable)
	}
	return w.publish(src, replica.Base{})
}

// TestFlags_LiftedByOneAtATime : fetching lifts the flags of a protected file, and so does a name of it that comes, or a hidden one that goes. They meet here, on
// files of which nothing is here, and one must not put the flags back while another one is at work.
func TestFlags_LiftedByOneAtATime(t *testing.T) {
	const files = protectedFiles
	w := newWorld(t)
	r := protected(w)
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

// TestCrash_WhileFlagsAreLifted : a snapshot that waits for nobody is what a crash at that moment leaves.
func TestCrash_WhileFlagsAreLifted(t *testing.T) {
	w := newWorld(t)
	v := w.open(w.lazy(protected(w)), lazy.Options{})
	for _, d := range []string{"a/0", "b/0"} {
		v.ino(d)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	for n, working := 0, true; working; n++ {
		select {
		case err := <-done:
			check(t, err)
			working = false
		default:
		}
		image := fmt.Sprintf("%s-crash%d", v.path, n)
		check(t, backing.Snapshot(v.path, image, false))
		w.open(image, lazy.Options{Prefetch: lazy.PrefetchNone}).close()
		for i := range protectedFiles {
			if flagsOf(t, filepath.Join(image, "a", fmt.Sprint(i)))&immutable == 0 {
				t.Fatalf("%d is not immutable in image %d", i, n)
			}
		}
	}
}

// The mark that a process which died leaves.
func TestLifted_IsPutBack(t *testing.T) {
	w := newWorld(t)
	path := w.lazy(protected(w))
	v := w.open(path, lazy.Options{Prefetch: lazy.PrefetchNone})
	ino := v.ino("a/7")
	v.close()
	name := filepath.Join(path, "a/7")
	setFlags(t, name, 0)
	for _, ino := range []uint64{ino, 1 << 40} { // which is gone
		check(t, mark.Set(path, &mark.Lifted{Ino: ino, Flags: immutable}))
		w.open(path, lazy.Options{Prefetch: lazy.PrefetchNone}).close()
		if flagsOf(t, name)&immutable == 0 {
			t.Error("not immutable")
		}
		if l, err := mark.GetLifted(path); l != nil || err != nil {
			t.Errorf("the mark is still there: %v, %v", l, err)
		}
	}
}

func TestLifted_IsNotInASnapshot(t *testing.T) {
	w := newWorld(t)
	r := protected(w)
	v := w.open(w.lazy(r), lazy.Options{})
	v.hydrate() // or else the file's own mark has the flags, too
	ino := v.ino("a/7")
	setFlags(t, filepath.Join(v.path, "a/7"), 0)
	check(t, mark.Set(v.path, &mark.Lifted{Ino: ino, Flags: immutable}))
	r.Base.Local = "" // was another subvolume
	again := w.open(w.lazy(w.publish(v.path, r.Base)), lazy.Options{Prefetch: lazy.PrefetchNone})
	again.ino("a/7")
	if flagsOf(t, filepath.Join(again.path, "a/7"))&immutable == 0 {
		t.Error("not immutable")
	}
	if l, err := mark.GetLifted(again.path); l != nil || err != nil {
		t.Errorf("the mark is there: %v, %v", l, err)
	}
}

// TestFlags_OfADirectoryThatIsBeingFilled : either its flags say that it is immutable, or its mark does.
func TestFlags_OfADirectoryThatIsBeingFilled(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	check(t, os.Mkdir(filepath.Join(src, "a"), 0o755))
	for i := range 2000 {
		check(t, os.WriteFile(filepath.Join(src, "a", fmt.Sprint(i)), nil, 0o644))
	}
	setFlags(t, filepath.Join(src, "a"), immutable)
	v := w.open(w.lazy(w.publish(src, replica.Base{})), lazy.Options{Prefetch: lazy.PrefetchNone})
	dir := filepath.Join(v.path, "a")
	ino := v.ino("a")
	done := make(chan error, 1)
	go func() { done <- v.Fill(context.Background(), ino) }()
	lifted := 0
	for filled := false; !filled; {
		select {
		case err := <-done:
			check(t, err)
			filled = true
		default:
		}
		check(t, v.Steady(func() error {
			byMark, err := v.Protected(dir)
			byFlag := flagsOf(t, dir)&immutable != 0
			if !byFlag {
				lifted++
			}
			if !byMark && !byFlag {
				t.Error("it is not protected for a moment")
			}
			return err
		}))
	}
	if is, err := v.Protected(dir); is || err != nil {
		t.Errorf("when it is filled its mark says so still: %t, %v", is, err)
	}
	if lifted == 0 {
		t.Error("its flags were never seen lifted: nothing was tested")
	}
}
