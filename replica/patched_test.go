package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// patchedWindows counts the windows of a file that have a patch.
func (w *world) patchedWindows(e wire.Entry) (patched int) {
	w.t.Helper()
	for win, err := range w.reader().Windows(context.Background(), e.Content, 0, 1<<62) {
		check(w.t, err)
		if win.Patch != nil {
			patched++
		}
	}
	return patched
}

// wantSound verifies a snapshot, sums included, and that its root says whether windows have patches. It returns how many have.
func (w *world) wantSound(r Result) (patched int) {
	w.t.Helper()
	rep, err := snapshot.Verify(context.Background(), w.store, w.key.Sealer(), r.Base.Root, snapshot.VerifyOptions{})
	check(w.t, err)
	if !rep.OK() {
		w.t.Fatalf("the snapshot is damaged: %+v", rep.Findings)
	}
	for _, e := range w.entries(r.Base.Root) {
		if e.Content != nil {
			patched += w.patchedWindows(e)
		}
	}
	top, err := w.reader().Root(context.Background(), r.Base.Root)
	check(w.t, err)
	if patched > 0 && top.Features&wire.FeaturePatches == 0 {
		w.t.Fatalf("%d windows have patches, and the root does not say so", patched)
	}
	return patched
}

// editor changes one large file at random, in small pieces for the most part.
type editor struct {
	f   *os.File
	rnd *rand.Rand
	n   uint64
}

func (e *editor) size() int64 {
	st, err := e.f.Stat()
	if err != nil {
		panic(err)
	}
	return st.Size()
}

func (e *editor) step(t *testing.T) string {
	r, size := e.rnd, max(e.size(), 1)
	e.n++
	off, n := r.Int64N(size), 1+r.IntN(6000)
	if r.IntN(2) == 0 {
		off, n = off&^4095, 4096*(1+r.IntN(2))
	}
	fd := int(e.f.Fd())
	write := func(off int64, n int) {
		_, err := e.f.WriteAt(noise(e.n, n), off)
		check(t, err)
	}
	what := "write"
	switch k := r.IntN(20); {
	case k < 10:
		write(off, n)
	case k < 13:
		what, off = "append", size
		write(off, n)
	case k == 13:
		what, n = "long write", r.IntN(200_000)
		write(off, n)
	case k == 14:
		what, off = "cut", size-1-r.Int64N(min(size, 20_000))
		check(t, e.f.Truncate(off))
	case k == 15:
		what, off = "grow", size+r.Int64N(20_000)
		check(t, e.f.Truncate(off))
	case k == 16:
		what = "punch"
		check(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(n)))
	case k == 17:
		what = "zero"
		check(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, int64(n)))
	case k == 18: // cut and grown again: what was there is a hole now
		what = "cut and grow"
		cut := max(size-int64(n), 0)
		check(t, e.f.Truncate(cut))
		check(t, e.f.Truncate(size))
	case k == 19: // the same bytes once more
		what = "rewrite"
		b := make([]byte, n)
		m, _ := e.f.ReadAt(b, off)
		_, err := e.f.WriteAt(b[:m], off)
		check(t, err)
	}
	return fmt.Sprintf("%s %d+%d of %d", what, off, n, size)
}

// TestPublish_RandomEditsOfLargeFilesReadBack edits large files over many generations, and reads each back as it is on the disk.
func TestPublish_RandomEditsOfLargeFilesReadBack(t *testing.T) {
	generations := 12
	if testing.Short() {
		generations = 4
	}
	for name, prepare := range map[string]func(t *testing.T, path string){
		"plain":   func(*testing.T, string) {},
		"no cow":  func(t *testing.T, path string) { setFlag(t, path, wire.FlagNoCOW) },
		"zstd":    func(t *testing.T, path string) { check(t, unix.Setxattr(path, "btrfs.compression", []byte("zstd"), 0)) },
		"off":     func(*testing.T, string) {},
		"64 KiB+": func(*testing.T, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			w, v := newWorld(t), newVolume(t)
			rnd := rand.New(rand.NewPCG(uint64(len(name)), 3))
			var editors []*editor
			for i, size := range []int{2<<20 + 777, 700 << 10} { // the second has its windows in its entry
				path := fmt.Sprintf("f%d", i)
				v.write(path, nil)
				prepare(t, v.at(path))
				data := noise(uint64(i), size)
				if name == "zstd" {
					data = []byte(strings.Repeat(string(noise(uint64(i), 64)), size/64))
				}
				v.writeAt(path, data, 0)
				f, err := os.OpenFile(v.at(path), os.O_RDWR, 0)
				check(t, err)
				defer f.Close()
				editors = append(editors, &editor{f: f, rnd: rnd})
			}
			job := func(path string, base Base) Job {
				j := w.job(path, base)
				j.NoPatches = name == "off"
				if name == "64 KiB+" {
					j.ChunkSize = 512 << 10
				}
				return j
			}
			base, most := Base{}, 0
			for range generations {
				var told []string
				for range 1 + rnd.IntN(12) {
					told = append(told, editors[rnd.IntN(len(editors))].step(t))
				}
				if rnd.IntN(4) == 0 {
					check(t, os.Rename(v.at("f0"), v.at("tmp")))
					check(t, os.Rename(v.at("f1"), v.at("f0")))
					check(t, os.Rename(v.at("tmp"), v.at("f1")))
					told = append(told, "exchange names")
				}
				s := v.snapshot()
				j := job(s, base)
				r, err := w.publisher().Publish(context.Background(), j)
				check(t, err)
				w.wantTree(r, s)
				n := w.wantSound(r)
				most = max(most, n)
				if base.Root.Defined() && r.Way != WayChanges {
					t.Errorf("the way was %q: what changed could not be used", r.Way)
				}
				if t.Failed() {
					t.Fatalf("after\n%s", strings.Join(told, "\n"))
				}
				if b, err := w.publisher().build(context.Background(), &j, &reporter{}); err != nil || b.root != r.Base.Root {
					t.Fatalf("built again it is %s, was %s; %v", b.root, r.Base.Root, err)
				}
				// By a walk the references of patched windows are kept where nothing changed, and what comes of it reads the same.
				p := w.publisher()
				p.walkOnly = true
				walked, err := p.build(context.Background(), &j, &reporter{})
				check(t, err)
				w.wantTree(Result{Base: Base{Root: walked.root}}, s)
				base = r.Base
			}
			if (most > 0) != (name != "off") {
				t.Errorf("at most %d windows had patches", most)
			}
		})
	}
}

func setFlag(t *testing.T, path string, flag uint32) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	check(t, backing.SetFlags(int(f.Fd()), flag))
}

func TestPublish_RandomWritesCostWhatChanged(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("db", noise(1, 32<<20))
	first := w.publish(v.snapshot(), Base{})
	for i := range 80 {
		v.writeAt("db", noise(uint64(100+i), 4096), int64(i*97%8192)*4096)
	}
	s := v.snapshot()
	off := w.job(s, first.Base)
	off.NoPatches = true
	whole, err := w.publisher().build(context.Background(), &off, &reporter{})
	check(t, err)
	r := w.publish(s, first.Base)
	w.wantTree(r, s)
	if n := w.wantSound(r); n < 40 {
		t.Errorf("%d windows have patches", n)
	}
	if r.Stats.Bytes > 80*4096+64<<10 || whole.stats.Bytes < 30*r.Stats.Bytes {
		t.Errorf("80 pages cost %d bytes, %d without patches", r.Stats.Bytes, whole.stats.Bytes)
	}
	// Without patches the root is what a version before them would have made.
	top, err := w.reader().Root(context.Background(), whole.root)
	check(t, err)
	if top.Features != 0 {
		t.Errorf("features %#x", top.Features)
	}
}

// A log grows at its end: its last window is patched, not written again.
func TestPublish_AppendsCostWhatWasAppended(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("log", noise(1, 1<<20+200_001))
	base := w.publish(v.snapshot(), Base{}).Base
	for i := range 5 {
		f, err := os.OpenFile(v.at("log"), os.O_WRONLY|os.O_APPEND, 0)
		check(t, err)
		_, err = f.Write(noise(uint64(i+2), 3000))
		check(t, err)
		check(t, f.Close())
		s := v.snapshot()
		r := w.publish(s, base)
		w.wantTree(r, s)
		if n := w.wantSound(r); n != 1 || r.Stats.Bytes > 40<<10 {
			t.Errorf("%d windows have patches, %d bytes were put", n, r.Stats.Bytes)
		}
		base = r.Base
	}
}

// After a failover the old state is not here: which windows changed is found out by reading, and those that did not keep their references.
func TestPublish_PatchedWindowsAreKnownByTheirSumsInAWalk(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("large", noise(1, 4<<20))
	v.write("inline", noise(2, 600<<10))
	first := w.publish(v.snapshot(), Base{})
	for i := range int64(6) {
		v.writeAt("large", noise(uint64(i), 4096), i*600_000)
	}
	v.writeAt("inline", []byte("changed"), 300<<10)
	second := w.publish(v.snapshot(), first.Base)
	if n := w.wantSound(second); n != 7 {
		t.Fatalf("%d windows have patches", n)
	}
	v.writeAt("large", []byte("once more"), 2*600_000)
	s := v.snapshot()
	base := second.Base
	base.Local = ""
	third := w.publish(s, base)
	w.wantTree(third, s)
	if n := w.wantSound(third); third.Way != WayWalk || n != 6 || third.Stats.Bytes > 300<<10 {
		t.Errorf("by %s: %d windows have patches, %d bytes were put", third.Way, n, third.Stats.Bytes)
	}
}

// What a patch is put on is checked: blocks that are sound by themselves and do not belong together are not content.
func TestRemote_RefusesAPatchOfAnotherBase(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("f", noise(1, 1<<20))
	first := w.publish(v.snapshot(), Base{})
	v.writeAt("f", noise(2, 4096), 8192)
	r := w.publish(v.snapshot(), first.Base)
	e := w.entries(r.Base.Root)["/f"]
	c := *e.Content
	c.Windows = append([]wire.Window(nil), c.Windows...)
	for name, change := range map[string]func(p *wire.Window){
		"another base":   func(p *wire.Window) { p.Block = c.Windows[1].Block },
		"another patch":  func(p *wire.Window) { p.Patch.Block = c.Windows[1].Block },
		"another place":  func(p *wire.Window) { p.Patch.Data = []wire.Range{{Off: 12288, Len: 4096}} },
		"another offset": func(p *wire.Window) { p.Patch.Block, p.Patch.Off = c.Windows[1].Block, 4096 },
		"another sum":    func(p *wire.Window) { p.Patch.Sum[3] ^= 1 },
	} {
		bad := c
		bad.Windows = append([]wire.Window(nil), c.Windows...)
		patch := *c.Windows[0].Patch
		bad.Windows[0].Patch = &patch
		change(&bad.Windows[0])
		check(t, bad.Check())
		err := newRemote(w.reader(), &bad).read(context.Background(), make([]byte, c.Size), 0)
		wantError(t, err, snapshot.ErrDamaged)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}
