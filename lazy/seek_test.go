package lazy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/store/faulty"

	"golang.org/x/sys/unix"
)

// sparse makes a file of size bytes with data at each of the given ranges.
func sparse(t testing.TB, path string, size int64, data []backing.Range) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(size))
	for i, r := range data {
		_, err := f.WriteAt(noise(uint64(500+i), int(r.Len)), int64(r.Off))
		check(t, err)
	}
}

// dataBySeek lists the data of a file as programs that go by holes find it.
func dataBySeek(v *volume, ino, size uint64) ([]backing.Range, error) {
	var out []backing.Range
	for off := uint64(0); off < size; {
		f, err := v.File(context.Background(), ino)
		if err != nil {
			return nil, err
		}
		seek := func(off uint64, whence int) (uint64, error) { return f.Seek(context.Background(), off, whence) }
		if f == nil {
			fd, err := v.bt.Open(ino, unix.O_RDONLY)
			if err != nil {
				return nil, err
			}
			defer unix.Close(fd)
			seek = func(off uint64, whence int) (uint64, error) {
				n, err := unix.Seek(fd, int64(off), whence)
				return uint64(n), err
			}
		} else {
			defer f.Close()
		}
		data, err := seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, err
		}
		if off, err = seek(data, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		out = append(out, backing.Range{Off: data, Len: off - data})
	}
	return out, nil
}

var layout = []backing.Range{
	{Off: 0, Len: 4096}, {Off: 64 << 10, Len: 300 << 10}, {Off: 1 << 20, Len: 2 << 20}, {Off: 3<<20 + 8192, Len: 4096},
	{Off: 5<<20 - 4096, Len: 8192}, {Off: 6 << 20, Len: 1<<20 + 4096}, {Off: 9<<20 - 4096, Len: 4096},
}

func TestFile_SeekShowsTheTrueLayout(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	sparse(t, filepath.Join(src, "f"), 10<<20, layout)
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h := v.openFile("f")
	defer h.close()
	look := func(what string, want []backing.Range) {
		t.Helper()
		got, err := dataBySeek(v, h.ino, 10<<20)
		check(t, err)
		if len(got) != len(want) {
			t.Fatalf("%s: data at %v, want %v", what, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: data at %v, want %v", what, got[i], want[i])
			}
		}
	}
	look("remote", layout)
	_, err := h.read(1<<20, 300<<10)
	check(t, err)
	look("half fetched", layout)
	check(t, h.write(8<<20, noise(1, 4096)))
	check(t, h.punch(1<<20, 1<<20, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE))
	check(t, h.truncate(9<<20-8192))
	look("changed", []backing.Range{layout[0], layout[1], {Off: 2 << 20, Len: 1 << 20}, layout[3], layout[4], layout[5], {Off: 8 << 20, Len: 4096}})
}

// TestFile_SeekWhileHydratingMissesNoData: a range that arrives while somebody
// looks for it must not be taken for a hole, or copies of the file get zeros.
func TestFile_SeekWhileHydratingMissesNoData(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	sparse(t, filepath.Join(src, "f"), 10<<20, layout)
	r := w.publish(src, replica.Base{})
	w.store.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Delay(time.Millisecond)})
	for range 20 {
		v := w.open(w.lazy(r), lazy.Options{})
		ino := v.ino("f")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		for !v.Complete() && ctx.Err() == nil {
			got, err := dataBySeek(v, ino, 10<<20)
			check(t, err)
			if len(got) != len(layout) {
				t.Fatalf("data at %v, want %v", got, layout)
			}
			for i := range got {
				if got[i] != layout[i] {
					t.Fatalf("data at %v, want %v", got[i], layout[i])
				}
			}
		}
		check(t, <-done)
		cancel()
		v.close()
	}
}
