package volume

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"fractal-lazy/hive"
	"fractal-lazy/replica"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// afterPin is a store that does something when it has pinned.
type afterPin struct {
	store.Store
	do func()
}

func (s afterPin) Pin(ctx context.Context, root cid.Cid) error {
	err := s.Store.Pin(ctx, root)
	if err == nil {
		s.do()
	}
	return err
}

func (s afterPin) PinUpdate(ctx context.Context, prev, next cid.Cid) error {
	err := s.Store.PinUpdate(ctx, prev, next)
	if err == nil {
		s.do()
	}
	return err
}

// oneRemote is a second place by the name nas.
type oneRemote struct{ replica.Place }

func (r oneRemote) Check(string) error { return nil }
func (r oneRemote) Open(context.Context, string) (*Remote, error) {
	return &Remote{Place: r.Place}, nil
}
func remoteOf(w *world, s store.Store) (r oneRemote) {
	return oneRemote{replica.Place{Store: s, Hive: w.hive}}
}
func (w *world) withRemote(r oneRemote) (change func(*Options, *Deps)) {
	return func(_ *Options, d *Deps) { d.Remotes = r }
}

// A replication that ends between its pin and its manifest, of a snapshot that is then removed here, leaves nothing pinned at the second place for ever.
func TestReplicate_WhatWasPinnedThereAndNeverPublished(t *testing.T) {
	for _, way := range []string{"the worker", "the next replication", "the removal of the volume"} {
		t.Run(way, func(t *testing.T) {
			w, far := newWorld(t), newWorld(t)
			killed, kill := context.WithCancel(ctx(t))
			a := w.machine("a", w.withRemote(remoteOf(far, afterPin{far.store, func() { far.down.Store(true); kill() }})))
			a.create("db")
			dir := a.mount("db", "1")
			write(t, filepath.Join(dir, "f"), "one")
			root, err := cid.Decode(a.flush("db").Root)
			must(t, err)
			if _, err := a.Replicate(killed, "db", "1", "nas", nil); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			a.vanish()
			pinned := func() bool {
				is, err := far.store.Pinned(context.Background(), root)
				must(t, err)
				return is
			}
			if !pinned() {
				t.Fatal("it was not pinned there")
			}
			a = w.machine("a", w.withRemote(remoteOf(far, far.store)))
			dir = a.mount("db", "2")
			write(t, filepath.Join(dir, "f"), "two")
			a.flush("db")
			_, err = a.RemoveSnapshot(ctx(t), "db", "1", true)
			must(t, err)
			far.down.Store(false)
			switch way {
			case "the worker":
				v, err := a.lookup("db")
				must(t, err)
				a.eventually("unpinned", func() bool {
					v.mutate(func() { v.remoteUnpinAt = a.now() }) // it may have met it before its time
					a.poke()
					return !pinned()
				})
				a.eventually("struck out", func() bool { return len(v.record().RemoteUnpin) == 0 })
			case "the next replication":
				_, err := a.Replicate(ctx(t), "db", "2", "nas", nil)
				must(t, err)
			case "the removal of the volume":
				a.unmount("db", "2")
				a.released("db")
				must(t, a.Remove(ctx(t), "db", false))
			}
			if pinned() {
				t.Error("it is pinned there, and no manifest names it")
			}
		})
	}
}

// What a manifest there names stays pinned, also where the machine was killed before it could strike it out.
func TestReplicate_KeepsThePinsOfWhatIsThere(t *testing.T) {
	w, far := newWorld(t), newWorld(t)
	a := w.machine("a", w.withRemote(remoteOf(far, far.store)))
	a.create("db")
	dir := a.mount("db", "1")
	var roots []cid.Cid
	for _, text := range []string{"one", "two", "three"} {
		write(t, filepath.Join(dir, "f"), text)
		root, err := cid.Decode(a.flush("db").Root)
		must(t, err)
		roots = append(roots, root)
	}
	_, err := a.Replicate(ctx(t), "db", "3", "nas", nil)
	must(t, err)
	v, err := a.lookup("db")
	must(t, err)
	if n := len(v.record().RemoteUnpin); n != 0 {
		t.Errorf("%d roots are to be unpinned after a replication", n)
	}
	for _, root := range roots {
		must(t, v.update(func(r *record) { r.unpinLater(rootAt{"nas", root.String()}) }))
	}
	must(t, a.unpinRemote(ctx(t), v))
	if n := len(v.record().RemoteUnpin); n != 0 {
		t.Errorf("%d roots were not struck out", n)
	}
	for n, root := range roots {
		if is, err := far.store.Pinned(ctx(t), root); err != nil || !is {
			t.Errorf("generation %d is not pinned there: %v", n+1, err)
		}
	}
}

// A second place that is away keeps the root noted, and nothing else waiting.
func TestReplicate_ASecondPlaceThatIsAway(t *testing.T) {
	w, far := newWorld(t), newWorld(t)
	a := w.machine("a", w.withRemote(remoteOf(far, far.store)))
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	s := a.flush("db")
	v, err := a.lookup("db")
	must(t, err)
	far.down.Store(true)
	must(t, v.update(func(r *record) { r.unpinLater(rootAt{"nas", s.Root}) }))
	if err := a.unpinRemote(ctx(t), v); !errors.Is(err, hive.ErrUnavailable) {
		t.Error(err)
	}
	if len(v.record().RemoteUnpin) != 1 {
		t.Error("it was struck out")
	}
}

// An import that was killed between its pin and its manifest left a note of its root. The worker must not unpin it while the same import, done again, is about to name it.
func TestImport_WhatIsPinnedAlreadyIsNotUnpinnedMeanwhile(t *testing.T) {
	w := newWorld(t)
	a, one, _ := exported(t, w)
	key := a.key("db")
	other := newWorld(t)
	var unpin func()
	b := other.machine("b", func(_ *Options, d *Deps) { d.Store = afterPin{other.store, func() { unpin() }} })
	b.create("db", "privkey="+key)
	v, err := b.lookup("db")
	must(t, err)
	stop := errors.New("killed")
	unpin = func() { panic(stop) } // before its manifest
	func() {
		defer func() {
			if r := recover(); r != stop {
				t.Fatal(r)
			}
		}()
		b.imports("db", one)
	}()
	v.mutate(func() { v.pinning = nil }) // which goes with a process
	hits := 0
	unpin = func() {
		if hits++; hits > 1 {
			return
		}
		must(t, v.enter(ctx(t), stepPurge))
		must(t, b.unpinByItself(ctx(t), v))
		v.leave()
	}
	i := b.imports("db", one)
	root, err := cid.Decode(i.Root)
	must(t, err)
	if is, err := other.store.Pinned(ctx(t), root); err != nil || !is || hits == 0 {
		t.Errorf("generation %d is not pinned: %v, %d", i.Generation, err, hits)
	}
}

// beforePost does something before each manifest.
type beforePost struct{ do func() }

func (b beforePost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		b.do()
	}
	return http.DefaultTransport.RoundTrip(r)
}

// Another machine gives up a root, which it had pinned for a manifest of its own that never came, just before this one names it.
func TestUnpin_AnotherMachineGivesUpWhatIsBeingPublished(t *testing.T) {
	w, far := newWorld(t), newWorld(t)
	unpin := func() {}
	client := func(of *world) *hive.Client {
		c, err := hive.NewClient(of.url, of.token, &http.Client{Transport: beforePost{func() { unpin() }}})
		must(t, err)
		return c
	}
	a := w.machine("a", w.withRemote(oneRemote{replica.Place{Store: far.store, Hive: client(far)}}), func(_ *Options, d *Deps) { d.Hive = client(w) })
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	at, hits := w, 0
	unpin = func() { // all of it, as the root is not known yet
		for _, c := range at.store.CIDs() {
			if is, err := at.store.Pinned(ctx(t), c); err != nil || !is {
				continue
			}
			hits++
			must(t, at.store.Unpin(ctx(t), c))
		}
	}
	root, err := cid.Decode(a.flush("db").Root)
	must(t, err)
	if is, err := w.store.Pinned(ctx(t), root); err != nil || !is || hits == 0 {
		t.Errorf("it is not pinned after a publication: %v, %d", err, hits)
	}
	at, hits = far, 0
	_, err = a.Replicate(ctx(t), "db", "1", "nas", nil)
	must(t, err)
	if is, err := far.store.Pinned(ctx(t), root); err != nil || !is || hits == 0 {
		t.Errorf("it is not pinned after a replication: %v, %d", err, hits)
	}
}
