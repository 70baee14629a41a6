package storetest

import (
	"context"
	"fmt"
	"sync"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// tree puts two leaves, two nodes and a root; it returns the root and a leaf.
func (t *script) tree(seed string) (root, leaf store.Block) {
	t.Helper()
	a, b := t.block(seed+"a", 300), t.block(seed+"b", 300)
	left, right := t.node(seed+"left", a, b), t.node(seed+"right", b)
	root = t.node(seed+"root", left, right)
	t.put(a, b, left, right, root)
	return root, a
}

func pinAndUnpin(t *script) {
	root, _ := t.tree("")
	t.wantPinned(false, root)
	t.pin(root)
	t.wantPinned(true, root)
	t.must(t.s.Unpin(t.ctx, root.CID))
	t.wantPinned(false, root)
	t.wantGet(root)
}

func pinTwice(t *script) {
	root, _ := t.tree("")
	t.pin(root)
	t.pin(root)
	t.must(t.s.Unpin(t.ctx, root.CID))
	t.wantPinned(false, root) // pins are not counted
}

func pinOfRaw(t *script) {
	b := t.block("leaf", 100)
	t.put(b)
	t.pin(b)
	t.wantPinned(true, b)
}

func pinMissingRoot(t *script) {
	root := t.node("root")
	t.mustBe(t.s.Pin(t.ctx, root.CID), store.ErrNotFound)
	t.wantPinned(false, root)
}

func pinMissingBelow(t *script) {
	here, missing := t.block("here", 100), t.block("missing", 100)
	middle := t.node("middle", here, missing)
	root := t.node("root", here, middle)
	t.put(here, middle, root)
	t.mustBe(t.s.Pin(t.ctx, root.CID), store.ErrNotFound)
	t.wantPinned(false, root)
	// What was missing comes, and all is well.
	t.put(missing)
	t.pin(root)
	t.wantPinned(true, root)
}

func pinOnlyRoot(t *script) {
	root, leaf := t.tree("")
	t.pin(root)
	t.wantPinned(false, leaf)
}

func pinUpdate(t *script) {
	prev, leaf := t.tree("")
	t.pin(prev)
	fresh := t.block("fresh", 300)
	left := t.node("left 2", leaf, fresh)
	next := t.node("next", left)
	t.put(fresh, left, next)
	t.must(t.s.PinUpdate(t.ctx, prev.CID, next.CID))
	t.wantPinned(true, prev)
	t.wantPinned(true, next)
	t.must(t.s.Unpin(t.ctx, prev.CID))
	t.wantPinned(false, prev)
	t.wantPinned(true, next)
}

func pinUpdateTwice(t *script) {
	prev, leaf := t.tree("")
	next := t.node("next", leaf)
	t.put(next)
	t.pin(prev)
	t.must(t.s.PinUpdate(t.ctx, prev.CID, next.CID))
	t.must(t.s.PinUpdate(t.ctx, prev.CID, next.CID))
	t.must(t.s.PinUpdate(t.ctx, prev.CID, prev.CID))
	t.wantPinned(true, prev)
	t.wantPinned(true, next)
}

func pinUpdateMissing(t *script) {
	prev, leaf := t.tree("")
	t.pin(prev)
	missing := t.block("missing", 100)
	left := t.node("left 2", leaf, missing)
	next := t.node("next", left)
	t.put(left, next)
	t.mustBe(t.s.PinUpdate(t.ctx, prev.CID, next.CID), store.ErrNotFound)
	t.wantPinned(false, next)
	t.wantPinned(true, prev)
}

func pinUpdateFromUnpinned(t *script) {
	prev, leaf := t.tree("")
	next := t.node("next", leaf)
	t.put(next)
	t.mustBe(t.s.PinUpdate(t.ctx, prev.CID, next.CID), store.ErrNotPinned)
	t.wantPinned(false, next)
}

func unpinOfUnpinned(t *script) {
	root, leaf := t.tree("")
	t.must(t.s.Unpin(t.ctx, root.CID))
	t.must(t.s.Unpin(t.ctx, t.block("never put", 10).CID))
	// Pinned through the root above it is not pinned itself.
	t.pin(root)
	t.must(t.s.Unpin(t.ctx, leaf.CID))
	t.wantPinned(true, root)
}

func cancelledCalls(t *script) {
	root, leaf := t.tree("")
	t.pin(root)
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	_, err := t.s.Get(ctx, leaf.CID)
	t.mustBe(err, context.Canceled)
	_, err = t.s.Has(ctx, []cid.Cid{leaf.CID})
	t.mustBe(err, context.Canceled)
	_, err = t.s.Pinned(ctx, root.CID)
	t.mustBe(err, context.Canceled)
	t.mustBe(t.s.PutMany(ctx, Seq(leaf)), context.Canceled)
	t.mustBe(t.s.Pin(ctx, root.CID), context.Canceled)
	t.mustBe(t.s.PinUpdate(ctx, root.CID, leaf.CID), context.Canceled)
	t.mustBe(t.s.Unpin(ctx, root.CID), context.Canceled)
	t.wantPinned(true, root)
}

// Eight goroutines put blocks of which half are everybody's, read them back
// and move pins; all of it is there at the end.
func concurrentCalls(t *script) {
	const workers, each = 8, 20
	leaf := func(w, i int) store.Block {
		if i%2 == 0 {
			w = 0
		}
		return t.block(fmt.Sprint(w, "/", i), 2000)
	}
	work := func(w int) error {
		var below []store.Block
		var prev cid.Cid
		for i := range each {
			below = append(below, leaf(w, i))
			root := t.node(fmt.Sprint("root", w, "/", i), below...)
			if err := t.s.PutMany(t.ctx, Seq(below[i], root)); err != nil {
				return err
			}
			var err error
			if prev.Defined() {
				err = t.s.PinUpdate(t.ctx, prev, root.CID)
			} else {
				err = t.s.Pin(t.ctx, root.CID)
			}
			if err != nil {
				return err
			}
			if prev.Defined() {
				if err := t.s.Unpin(t.ctx, prev); err != nil {
					return err
				}
			}
			prev = root.CID
			if _, err := t.s.Get(t.ctx, leaf(w, i/2).CID); err != nil {
				return err
			}
		}
		pinned, err := t.s.Pinned(t.ctx, prev)
		if err == nil && !pinned {
			err = fmt.Errorf("root %s of worker %d is not pinned", prev, w)
		}
		return err
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			if err := work(w); err != nil {
				t.Errorf("worker %d: %v", w, err)
			}
		})
	}
	wg.Wait()
	for w := range workers {
		for i := range each {
			t.wantGet(leaf(w, i))
		}
	}
}
