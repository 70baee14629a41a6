package lazy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// nodesOf has nodes on this machine, and nothing else.
type nodesOf struct{ all snapshot.Getter }

func (n nodesOf) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c.Prefix().Codec != store.DagCBOR {
		return nil, store.ErrNotFound
	}
	return n.all.Get(ctx, c)
}

// source is the local snapshot that r was published from.
func (w *world) source(r replica.Result) lazy.Source {
	w.t.Helper()
	info, err := backing.Info(r.Base.Local)
	check(w.t, err)
	return lazy.Source{Path: r.Base.Local, Generation: info.Generation, Root: r.Base.Root}
}

// patches counts the windows of a snapshot's top directory that have a patch.
func (w *world) patches(root cid.Cid) (n int) {
	w.t.Helper()
	r := snapshot.NewReader(w.blocks, w.key.Sealer())
	top, err := r.Root(context.Background(), root)
	check(w.t, err)
	for e, err := range r.Dir(context.Background(), top.Dir) {
		check(w.t, err)
		if e.Content == nil {
			continue
		}
		for win, err := range r.Windows(context.Background(), e.Content, 0, 1<<62) {
			check(w.t, err)
			if win.Patch != nil {
				n++
			}
		}
	}
	return n
}

// contentBlocks lists the blocks of file content of a snapshot, with the files that they belong to.
func (w *world) contentBlocks(root cid.Cid) map[cid.Cid][]string {
	w.t.Helper()
	out := map[cid.Cid][]string{}
	r := snapshot.NewReader(w.blocks, w.key.Sealer())
	top, err := r.Root(context.Background(), root)
	check(w.t, err)
	var walk func(path string, ref wire.DirRef)
	walk = func(path string, ref wire.DirRef) {
		for e, err := range r.Dir(context.Background(), ref) {
			check(w.t, err)
			switch {
			case e.Dir != nil:
				walk(path+e.Name+"/", *e.Dir)
			case e.Content != nil:
				for win, err := range r.Windows(context.Background(), e.Content, 0, ^uint64(0)) {
					check(w.t, err)
					out[win.Block] = append(out[win.Block], path+e.Name)
					if win.Patch != nil {
						out[win.Patch.Block] = append(out[win.Patch.Block], path+e.Name)
					}
				}
			}
		}
	}
	walk("", top.Dir)
	return out
}

// fetched lists the blocks of file content that came from the store since the counts were was.
func (w *world) fetched(was map[cid.Cid]int) (list []cid.Cid) {
	for c, n := range w.store.GetCounts() {
		if c.Prefix().Codec == store.Raw && n > was[c] {
			list = append(list, c)
		}
	}
	return list
}

// makeOld makes files of every kind that a source is asked for.
func makeOld(t *testing.T, dir string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Join(dir, "sub/below"), 0o755))
	for i := range 30 {
		check(t, os.WriteFile(fmt.Sprintf("%s/sub/small%02d", dir, i), noise(uint64(i), 3000+i), 0o644))
	}
	check(t, os.WriteFile(dir+"/sub/below/large", noise(500, 3<<20+123), 0o644))
	check(t, os.WriteFile(dir+"/changed", noise(501, 2<<20), 0o644))
	check(t, os.WriteFile(dir+"/longer", noise(502, 600<<10+5), 0o644))
	check(t, os.WriteFile(dir+"/protected", noise(503, 300<<10), 0o4755))
	check(t, os.WriteFile(dir+"/rewritten", noise(504, 300<<10), 0o644))
	check(t, os.Link(dir+"/sub/below/large", dir+"/linked"))
	check(t, os.Symlink("sub", dir+"/link"))
	f, err := os.Create(dir + "/sparse")
	check(t, err)
	_, err = f.WriteAt(noise(505, 100<<10), 5<<20)
	check(t, err)
	check(t, f.Close())
	nocow, err := os.Create(dir + "/nocow")
	check(t, err)
	check(t, backing.SetFlags(int(nocow.Fd()), wire.FlagNoCOW))
	_, err = nocow.Write(noise(506, 400<<10))
	check(t, err)
	check(t, nocow.Close())
}

func makeNew(t *testing.T, dir string) {
	t.Helper()
	patch := func(name string, at int64, p []byte) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		check(t, err)
		_, err = f.WriteAt(p, at)
		check(t, err)
		check(t, f.Close())
	}
	patch("changed", 300<<10, noise(600, 10))
	patch("longer", 600<<10+5, noise(601, 500<<10))
	check(t, os.WriteFile(dir+"/rewritten", noise(602, 300<<10), 0o644))
	check(t, os.WriteFile(dir+"/new", noise(603, 300<<10), 0o644))
	check(t, os.WriteFile(dir+"/sub/small07", noise(604, 2000), 0o644))
	check(t, os.Remove(dir+"/sub/small08"))
	fd, err := unix.Open(dir+"/protected", unix.O_RDONLY, 0)
	check(t, err)
	check(t, backing.SetFlags(fd, wire.FlagImmutable))
	check(t, unix.Close(fd))
}

func TestSource_WhatIsEqualIsNotFetched(t *testing.T) {
	w := newWorld(t)
	dir := w.subvolume()
	makeOld(t, dir)
	r1 := w.publish(dir, replica.Base{})
	makeNew(t, dir)
	r2 := w.publish(dir, r1.Base)
	defer func() {
		fd, err := unix.Open(dir+"/protected", unix.O_RDONLY, 0)
		check(t, err)
		check(t, backing.SetFlags(fd, 0))
		check(t, unix.Close(fd))
	}()
	old := w.contentBlocks(r1.Base.Root)
	for name, opt := range map[string]lazy.Options{
		"nodes here":             {Nodes: nodesOf{w.blocks}},
		"nodes of the store":     {},
		"a source that is gone":  {Sources: []lazy.Source{{Path: dir + "-gone", Root: r1.Base.Root}}},
		"an unknown source root": {Sources: []lazy.Source{{Path: r1.Base.Local, Generation: w.source(r1).Generation, Root: store.Sum(store.DagCBOR, []byte("?"))}}},
	} {
		t.Run(name, func(t *testing.T) {
			opt.Sources = append(opt.Sources, w.source(r1))
			was := w.store.GetCounts()
			v := w.open(w.lazy(r2), opt)
			v.hydrate()
			for _, c := range w.fetched(was) {
				for _, file := range w.contentBlocks(r2.Base.Root)[c] {
					if _, both := old[c]; both && file != "nocow" && len(old[c]) == 1 {
						t.Errorf("a block of %s was fetched, which is here", file)
					}
				}
			}
			s := v.Status()
			if s.BytesTaken < 5<<20 || s.BytesFetched > 4<<20 {
				t.Errorf("%d bytes taken, %d fetched", s.BytesTaken, s.BytesFetched)
			}
			equal(t, r2.Base.Local, v.path)
			v.close()
		})
	}
}

// A machine that failed over to another one, and back, has all of a database but what changed: of a window with a patch that is the patch.
func TestSource_OfAPatchedWindowOnlyThePatchIsFetched(t *testing.T) {
	w := newWorld(t)
	dir := w.subvolume()
	path := filepath.Join(dir, "db")
	check(t, os.WriteFile(path, noise(1, 8<<20), 0o644))
	write := func(seed uint64, at int64) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		check(t, err)
		_, err = f.WriteAt(noise(seed, 4096), at)
		check(t, err)
		check(t, f.Close())
	}
	r1 := w.publish(dir, replica.Base{})
	for i := range int64(10) {
		write(uint64(10+i), i*700_000)
	}
	r2 := w.publish(dir, r1.Base)
	for i := range int64(5) { // some of the windows that have patches, and others
		write(uint64(30+i), i*1_400_000+20_000)
		write(uint64(40+i), i*1_100_000+300_000)
	}
	r3 := w.publish(dir, r2.Base)
	if a, b := w.patches(r2.Base.Root), w.patches(r3.Base.Root); a < 8 || b <= a {
		t.Fatalf("%d, then %d windows have patches", a, b)
	}
	for name, old := range map[string]replica.Result{"before the patches": r1, "with earlier patches": r2} {
		t.Run(name, func(t *testing.T) {
			v := w.open(w.lazy(r3), lazy.Options{Nodes: nodesOf{w.blocks}, Sources: []lazy.Source{w.source(old)}})
			h := v.openFile("db")
			if _, err := h.read(1_400_000, 4096); err != nil { // by a reader, and the rest in the background
				t.Fatal(err)
			}
			v.hydrate2()
			h.close()
			equal(t, r3.Base.Local, v.path)
			if s := v.Status(); s.BytesTaken < 7<<20 {
				t.Errorf("%d bytes were taken from here", s.BytesTaken)
			}
			v.close()
		})
	}
	t.Run("all that is fetched are patches", func(t *testing.T) {
		patches := map[cid.Cid]bool{}
		was := w.store.GetCounts()
		v := w.open(w.lazy(r3), lazy.Options{Nodes: nodesOf{w.blocks}, Sources: []lazy.Source{w.source(r2)}})
		v.hydrate()
		v.close()
		r := snapshot.NewReader(w.blocks, w.key.Sealer())
		top, err := r.Root(context.Background(), r3.Base.Root)
		check(t, err)
		for e, err := range r.Dir(context.Background(), top.Dir) {
			check(t, err)
			for win, err := range r.Windows(context.Background(), e.Content, 0, 1<<62) {
				check(t, err)
				if win.Patch != nil {
					patches[win.Patch.Block] = true
				}
			}
		}
		fetched := 0
		for _, c := range w.fetched(was) {
			if c.Prefix().Codec == cid.Raw {
				if fetched++; !patches[c] {
					t.Errorf("%s was fetched, which is no patch", c)
				}
			}
		}
		if fetched == 0 {
			t.Error("nothing was fetched: the test does not see it")
		}
	})
}

// A snapshot that somebody wrote to is not what was published any more, read-only again or not.
func TestSource_ThatWasChangedIsNotUsed(t *testing.T) {
	w := newWorld(t)
	dir := w.subvolume()
	makeOld(t, dir)
	r := w.publish(dir, replica.Base{})
	src := w.source(r)
	evil := filepath.Join(w.dir, "evil")
	check(t, backing.Snapshot(r.Base.Local, evil, true))
	check(t, backing.SyncFS(evil))
	info, err := backing.Info(evil)
	check(t, err)
	src.Path, src.Generation = evil, info.Generation

	v := w.open(w.lazy(r), lazy.Options{Nodes: nodesOf{w.blocks}, Sources: []lazy.Source{src}})
	v.hydrate()
	if s := v.Status(); s.BytesTaken == 0 {
		t.Fatalf("nothing is taken from a snapshot of the snapshot: %+v", s)
	}
	check(t, backing.SetReadonly(evil, false))
	f, err := os.OpenFile(evil+"/changed", os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt([]byte("never published"), 5000)
	check(t, err)
	check(t, f.Close())
	for _, readonly := range []bool{false, true} {
		check(t, backing.SetReadonly(evil, readonly))
		check(t, backing.SyncFS(evil))
		v := w.open(w.lazy(r), lazy.Options{Nodes: nodesOf{w.blocks}, Sources: []lazy.Source{src}})
		v.hydrate()
		if s := v.Status(); s.BytesTaken != 0 {
			t.Errorf("read-only %v: %d bytes taken", readonly, s.BytesTaken)
		}
		equal(t, r.Base.Local, v.path)
		v.close()
	}
}

// What the old state had not fetched itself is fetched; what it had is not.
func TestSource_ThatIsHalfFetchedGivesWhatItHas(t *testing.T) {
	w := newWorld(t)
	dir := w.subvolume()
	makeOld(t, dir)
	r1 := w.publish(dir, replica.Base{})
	half := w.open(w.lazy(r1), lazy.Options{Prefetch: lazy.PrefetchNone})
	h := half.openFile("sub/below/large")
	_, err := h.read(1<<20, 1<<20)
	check(t, err)
	h.close()
	check(t, backing.SyncFS(half.path))
	snap := filepath.Join(w.dir, "half")
	check(t, backing.Snapshot(half.path, snap, true))
	info, err := backing.Info(snap)
	check(t, err)
	half.close()

	v := w.open(w.lazy(r1), lazy.Options{Sources: []lazy.Source{{Path: snap, Generation: info.Generation, Root: r1.Base.Root}}})
	v.hydrate()
	if s := v.Status(); s.BytesTaken < 1<<20 || s.BytesTaken > 2<<20 {
		t.Errorf("%d bytes taken", s.BytesTaken)
	}
	equal(t, r1.Base.Local, v.path)
}

// A reader is served from the old state with the network gone, and shares its blocks on the disk.
func TestSource_ServesReadersWithoutTheNetwork(t *testing.T) {
	w := newWorld(t)
	dir := w.subvolume()
	makeOld(t, dir)
	r := w.publish(dir, replica.Base{})
	path := w.lazy(r)
	w.store.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(errCut)})
	v := w.open(path, lazy.Options{Prefetch: lazy.PrefetchNone, Nodes: nodesOf{w.blocks}, Sources: []lazy.Source{w.source(r)}})
	for name, size := range map[string]int{"sub/below/large": 3<<20 + 123, "sub/small03": 3003, "longer": 600<<10 + 5} {
		h := v.openFile(name)
		got, err := h.read(0, 4<<20)
		check(t, err)
		want, err := os.ReadFile(filepath.Join(dir, name))
		check(t, err)
		if len(got) != size || string(got) != string(want) {
			t.Errorf("%s reads wrong", name)
		}
		h.close()
	}
	if s := v.Status(); s.BytesFetched != 0 {
		t.Errorf("%d bytes fetched", s.BytesFetched)
	}
}
