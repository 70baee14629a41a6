package volume

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// pinned stores a block and pins it, as a publication does that goes no further.
func (w *world) pinned(text string) cid.Cid {
	w.t.Helper()
	b := store.Block{CID: store.Sum(store.Raw, []byte(text)), Data: []byte(text)}
	must(w.t, w.store.PutMany(ctx(w.t), func(yield func(store.Block, error) bool) { yield(b, nil) }))
	must(w.t, w.store.Pin(ctx(w.t), b.CID))
	return b.CID
}

// A publication that ended between its pin and its manifest, and that no other one took up, leaves no pin for ever: not on the machine that is still the
// writer, and not on the one that has lost the volume.
func TestUnpin_WhatWasPinnedAndNeverPublished(t *testing.T) {
	for _, fenced := range []bool{false, true} {
		w := newWorld(t)
		a := w.machine("a")
		a.create("db")
		dir := a.mount("db", "1")
		write(t, filepath.Join(dir, "f"), "one")
		a.flush("db")
		v, err := a.lookup("db")
		must(t, err)
		root := w.pinned("a root")
		end, err := v.beginPin(ctx(t), here(root.String()))
		must(t, err)
		if fenced {
			b := w.machine("b")
			b.create("db", "privkey="+a.key("db"), "takeover=always")
			write(t, filepath.Join(b.mount("db", "1"), "g"), "two")
			b.flush("db")
			write(t, filepath.Join(dir, "f"), "three")
			if _, err := a.Flush(ctx(t), "db", nil); !errors.Is(err, ErrFenced) {
				t.Fatal(err)
			}
		}
		must(t, v.enter(ctx(t), stepPurge))
		must(t, a.unpinByItself(ctx(t), v))
		v.leave()
		if is, err := w.store.Pinned(ctx(t), root); err != nil || !is {
			t.Fatalf("it was unpinned while it was being published: %v", err)
		}
		end()
		a.eventually("unpinned", func() bool {
			v.mutate(func() { v.unpinAt = a.now() }) // the worker may have met it before its time
			a.poke()
			is, err := w.store.Pinned(context.Background(), root)
			return err == nil && !is
		})
		a.eventually("struck out", func() bool { return len(v.record().Unpin) == 0 })
		all, err := a.manifests(ctx(t), v)
		must(t, err)
		for _, mf := range all {
			text, err := mf.Root()
			must(t, err)
			c, err := cid.Decode(text)
			must(t, err)
			if is, err := w.store.Pinned(ctx(t), c); err != nil || !is {
				t.Fatalf("generation %d is not pinned any more: %v", mf.Generation, err)
			}
		}
	}
}

func TestUnpin_KeepsWhatAManifestNames(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.flush("db")
	v, err := a.lookup("db")
	must(t, err)
	if n := len(v.record().Unpin); n != 0 {
		t.Fatalf("%d roots are still to be unpinned after a publication", n)
	}
	root, err := cid.Decode(v.record().Base.Root)
	must(t, err)
	end, err := v.beginPin(ctx(t), here(root.String()))
	must(t, err)
	end()
	must(t, v.enter(ctx(t), stepPurge))
	must(t, a.unpinByItself(ctx(t), v))
	v.leave()
	if is, err := w.store.Pinned(ctx(t), root); err != nil || !is || len(v.record().Unpin) != 0 {
		t.Fatalf("%v %v", is, err)
	}
}
