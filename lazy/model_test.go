package lazy_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/lazy"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// model is what a file has to read as.
type model struct{ p []byte }

func (m *model) write(off uint64, p []byte) {
	if end := off + uint64(len(p)); end > uint64(len(m.p)) {
		m.p = append(m.p, make([]byte, end-uint64(len(m.p)))...)
	}
	copy(m.p[off:], p)
}

func (m *model) truncate(size uint64) {
	if size <= uint64(len(m.p)) {
		m.p = m.p[:size:size]
		return
	}
	m.p = append(m.p, make([]byte, size-uint64(len(m.p)))...)
}

func (m *model) zero(off, n uint64, keep bool) {
	if end := off + n; end > uint64(len(m.p)) && !keep {
		m.truncate(end)
	}
	for i := off; i < min(off+n, uint64(len(m.p))); i++ {
		m.p[i] = 0
	}
}

// offset draws one near an interesting boundary as often as not.
func offset(t *rapid.T, limit int) uint64 {
	at := rapid.IntRange(0, limit).Draw(t, "at")
	switch rapid.IntRange(0, 3).Draw(t, "align") {
	case 0:
		at &^= 4095
	case 1:
		at &^= 64<<10 - 1
	}
	return uint64(at)
}

// TestFile_RandomOperationsReadAsTheModel runs random operations on a file
// that is remote at first, closing and opening the tree between, hydrating at
// random moments, and compares with a plain slice of bytes.
func TestFile_RandomOperationsReadAsTheModel(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	const files = 6
	var content [files][]byte
	for i := range files {
		size := []int{0, 3, 5000, 70 << 10, 700 << 10, 2<<20 + 777}[i]
		p := noise(uint64(100+i), size)
		path := filepath.Join(src, fmt.Sprintf("f%d", i))
		check(t, os.WriteFile(path, p, 0o644))
		for off := 8192; off+4096*3 < size; off += 90_000 { // holes
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			check(t, err)
			check(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), 4096*3))
			check(t, f.Close())
			clear(p[off : off+4096*3])
		}
		content[i] = p
	}
	whole := w.publish(src, replica.Base{})
	for i := range content { // then in places, so that windows of the large files have patches
		p := bytes.Clone(content[i])
		f, err := os.OpenFile(filepath.Join(src, fmt.Sprintf("f%d", i)), os.O_RDWR, 0)
		check(t, err)
		write := func(off int, b []byte) {
			_, err := f.WriteAt(b, int64(off))
			check(t, err)
			p = append(p[:off], append(b, p[min(off+len(b), len(p)):]...)...)
		}
		for off := 50_000; off+3000 < len(p); off += 120_000 {
			write(off, noise(uint64(off), 3000))
		}
		write(len(p), noise(uint64(200+i), 1000*i))
		check(t, f.Close())
		content[i] = p
	}
	r := w.publish(src, whole.Base)
	if n := w.patches(r.Base.Root); n < 8 {
		t.Fatalf("%d windows have patches", n)
	}
	// rapid makes many of these; the volumes live in one world.
	rapid.Check(t, func(rt *rapid.T) {
		dst := w.lazy(r)
		i := rapid.IntRange(0, files-1).Draw(rt, "file")
		m := &model{p: bytes.Clone(content[i])}
		limit := len(m.p) + 100_000
		opt := lazy.Options{Prefetch: lazy.PrefetchNone}
		switch rapid.IntRange(0, 3).Draw(rt, "an old state is here") {
		case 0:
			opt.Nodes, opt.Sources = nodesOf{w.blocks}, []lazy.Source{w.source(r)}
		case 1: // without the patches
			opt.Nodes, opt.Sources = nodesOf{w.blocks}, []lazy.Source{w.source(whole)}
		}
		v := w.open(dst, opt)
		h := v.openFile(fmt.Sprintf("f%d", i))
		defer func() { h.close(); v.close() }()
		seed := uint64(0)
		steps := map[string]func(*rapid.T){
			"read": func(rt *rapid.T) {
				off, n := offset(rt, limit), uint64(rapid.IntRange(1, 300_000).Draw(rt, "n"))
				got, err := h.read(off, n)
				want := m.p[min(off, uint64(len(m.p))):min(off+n, uint64(len(m.p)))]
				if err != nil || !bytes.Equal(got, want) {
					rt.Fatalf("read %d bytes at %d: %v, first difference at %d", n, off, err, int(off)+differs(got, want))
				}
			},
			"write": func(rt *rapid.T) {
				off, n := offset(rt, limit), rapid.IntRange(1, 100_000).Draw(rt, "n")
				if rapid.Bool().Draw(rt, "short") {
					n = n%5000 + 1
				}
				seed++
				p := noise(seed, n)
				if err := h.write(off, p); err != nil {
					rt.Fatal(err)
				}
				m.write(off, p)
			},
			"truncate": func(rt *rapid.T) {
				size := offset(rt, limit)
				if err := h.truncate(size); err != nil {
					rt.Fatal(err)
				}
				m.truncate(size)
			},
			"punch": func(rt *rapid.T) {
				off, n := offset(rt, limit), uint64(rapid.IntRange(1, 200_000).Draw(rt, "n"))
				if err := h.punch(off, n, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE); err != nil {
					rt.Fatal(err)
				}
				m.zero(off, n, true)
			},
			"zero": func(rt *rapid.T) {
				off, n := offset(rt, limit), uint64(rapid.IntRange(1, 200_000).Draw(rt, "n"))
				keep := rapid.Bool().Draw(rt, "keep")
				mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
				if keep {
					mode |= unix.FALLOC_FL_KEEP_SIZE
				}
				if err := h.punch(off, n, mode); err != nil {
					rt.Fatal(err)
				}
				m.zero(off, n, keep)
			},
			"reopen": func(rt *rapid.T) {
				h.close()
				v.close()
				v = w.open(dst, opt)
				h = v.openFile(fmt.Sprintf("f%d", i))
			},
			"hydrate": func(rt *rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "rarely") > 0 {
					return
				}
				v.hydrate2()
			},
			"": func(rt *rapid.T) {
				var st unix.Stat_t
				if err := unix.Fstat(h.fd, &st); err != nil || st.Size != int64(len(m.p)) {
					rt.Fatalf("size %d, want %d: %v", st.Size, len(m.p), err)
				}
			},
		}
		rt.Repeat(steps)
		got, err := h.read(0, uint64(len(m.p))+1)
		if err != nil || !bytes.Equal(got, m.p) {
			rt.Fatalf("at the end: %v, %d bytes, want %d, first difference at %d", err, len(got), len(m.p), differs(got, m.p))
		}
		v.hydrate2()
		if got, err := h.read(0, uint64(len(m.p))+1); err != nil || !bytes.Equal(got, m.p) {
			rt.Fatalf("when complete: %v, first difference at %d", err, differs(got, m.p))
		}
	})
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestFile_ManyPunchesOverflowTheZeroList(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	p := noise(5, 32<<20)
	check(t, os.WriteFile(filepath.Join(src, "f"), p, 0o644))
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h := v.openFile("f")
	check(t, h.write(16<<20, make([]byte, 4096))) // not durable
	clear(p[16<<20 : 16<<20+4096])
	before := w.store.TotalGets()
	for i := range 1200 {
		off := i * 8192
		check(t, h.punch(uint64(off), 4096, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE))
		clear(p[off : off+4096])
	}
	// The list was full three times over, where there are 128 blocks. What lies
	// far from it is still remote.
	if n := w.store.TotalGets() - before; n > 60 {
		t.Errorf("%d blocks were fetched", n)
	}
	h.close()
	v.close()
	v = w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h = v.openFile("f")
	defer h.close()
	got, err := h.read(0, 32<<20)
	check(t, err)
	if !bytes.Equal(got, p) {
		t.Fatalf("first difference at %d", differs(got, p))
	}
	v.hydrate2()
}

// TestFile_ReadersAndWritersWhileHydrating lets readers, writers and the
// hydrator meet on one file; each writer has its own sectors.
func TestFile_ReadersAndWritersWhileHydrating(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	p := noise(6, 16<<20)
	check(t, os.WriteFile(filepath.Join(src, "f"), p, 0o644))
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{})
	h := v.openFile("f")
	defer h.close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	errs := make(chan error, 8)
	want := bytes.Clone(p)
	for k := range 4 {
		go func() { // sectors whose number is k modulo 8
			r := rand.New(rand.NewPCG(uint64(k), 1))
			for i := range 300 {
				s := uint64(r.IntN(len(p)/4096/8)*8 + k)
				b := noise(uint64(1000+k*1000+i), 1000)
				off := s*4096 + uint64(r.IntN(3096))
				if err := h.write(off, b); err != nil {
					errs <- err
					return
				}
				copy(want[off:], b)
				if got, err := h.read(off, 1000); err != nil || !bytes.Equal(got, b) {
					errs <- fmt.Errorf("read back at %d: %v", off, err)
					return
				}
			}
			errs <- nil
		}()
		go func() { // sectors that nobody writes
			r := rand.New(rand.NewPCG(uint64(k), 2))
			for range 300 {
				off := uint64(r.IntN(len(p)/4096/8)*8+5) * 4096
				if got, err := h.read(off, 8192); err != nil || !bytes.Equal(got, p[off:off+8192]) {
					errs <- fmt.Errorf("read at %d: %v", off, err)
					return
				}
			}
			errs <- nil
		}()
	}
	check(t, v.Run(ctx))
	for range 8 {
		check(t, <-errs)
	}
	got, err := h.read(0, 16<<20)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Fatalf("first difference at %d", differs(got, want))
	}
}
