package faulty

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
	"fractal-lazy/store/memory"
	"fractal-lazy/store/storetest"
)

func TestStore_WithoutRulesIsTransparent(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(memory.New()) })
}

func newStore(t *testing.T, blocks ...store.Block) *Store {
	t.Helper()
	s := New(memory.New())
	if err := s.PutMany(t.Context(), storetest.Seq(blocks...)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGet_SpoiltBytesAreCorrupt(t *testing.T) {
	a, b := storetest.Block("a", 100), storetest.Block("b", 100)
	for _, f := range []Fault{FlipBit(0), FlipBit(12345), Truncate(0), Truncate(99), Truncate(1000), Extend([]byte{0}), Swap(b.CID), Replay()} {
		t.Run(f.name, func(t *testing.T) {
			s := newStore(t, a, b)
			if _, err := s.Get(t.Context(), b.CID); err != nil { // for Replay
				t.Fatal(err)
			}
			s.Inject(Rule{CID: a.CID, Times: 1, Fault: f})
			if _, err := s.Get(t.Context(), a.CID); !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("error is %v, want %v", err, store.ErrCorrupt)
			}
			data, err := s.Get(t.Context(), a.CID)
			if err != nil || !bytes.Equal(data, a.Data) {
				t.Fatalf("after the fault: %v", err)
			}
		})
	}
}

func TestGet_UnverifiedPassesBadBytes(t *testing.T) {
	a := storetest.Block("a", 100)
	s := newStore(t, a)
	s.Inject(Rule{Fault: FlipBit(8), Unverified: true})
	data, err := s.Get(t.Context(), a.CID)
	if err != nil || data[1] != a.Data[1]^1 {
		t.Fatalf("%v", err)
	}
}

func TestRule_AfterTimesAndCounts(t *testing.T) {
	a, b := storetest.Block("a", 100), storetest.Block("b", 100)
	s := newStore(t, a, b)
	s.Inject(Rule{CID: a.CID, After: 2, Times: 3, Fault: Fail(store.ErrUnavailable)})
	s.Inject(Rule{Name: "never", CID: storetest.Block("c", 1).CID, Fault: Fail(store.ErrDenied)})
	var failed []int
	for i := range 8 {
		if _, err := s.Get(t.Context(), a.CID); errors.Is(err, store.ErrUnavailable) {
			failed = append(failed, i)
		}
	}
	if !slices.Equal(failed, []int{2, 3, 4}) {
		t.Errorf("failed: %v", failed)
	}
	if _, err := s.Get(t.Context(), b.CID); err != nil {
		t.Error(err)
	}
	if s.Gets(a.CID) != 8 || s.Gets(b.CID) != 1 || s.TotalGets() != 9 {
		t.Errorf("gets: %v of %d", s.GetCounts(), s.TotalGets())
	}
	if u := s.Unhit(); !slices.Equal(u, []string{"never"}) {
		t.Errorf("unhit: %v", u)
	}
}

func TestHang_EndsWithContextOrLift(t *testing.T) {
	a := storetest.Block("a", 100)
	s := newStore(t, a)
	rule := s.Inject(Rule{Fault: Hang()})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, a.CID); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.Get(t.Context(), a.CID); err != nil {
				t.Error(err)
			}
		})
	}
	for rule.Hits() < 5 {
		time.Sleep(time.Millisecond)
	}
	rule.Lift()
	rule.Lift()
	wg.Wait()
}

func TestOps_FailByTheirRules(t *testing.T) {
	leaf := storetest.Block("leaf", 100)
	root, next := storetest.Node("root", leaf.CID), storetest.Node("next", leaf.CID)
	s := newStore(t, leaf, root, next)
	if err := s.Pin(t.Context(), root.CID); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for op, call := range map[Op]func() error{
		Get:       func() error { _, err := s.Get(ctx, next.CID); return err },
		Has:       func() error { _, err := s.Has(ctx, cidsOf(leaf, next)); return err },
		PutMany:   func() error { return s.PutMany(ctx, storetest.Seq(leaf, next)) },
		Pin:       func() error { return s.Pin(ctx, next.CID) },
		PinUpdate: func() error { return s.PinUpdate(ctx, root.CID, next.CID) },
		Pinned:    func() error { _, err := s.Pinned(ctx, next.CID); return err },
		Unpin:     func() error { return s.Unpin(ctx, next.CID) },
	} {
		rule := s.Inject(Rule{Op: op, CID: next.CID, Fault: Fail(store.ErrUnavailable)})
		if err := call(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: error is %v", op, err)
		}
		rule.Lift()
	}
	s.Inject(Rule{Op: PutMany, Fault: FlipBit(1)})
	if err := s.PutMany(ctx, storetest.Seq(leaf)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("put of a spoilt block: %v", err)
	}
	if u := s.Unhit(); len(u) > 0 {
		t.Errorf("unhit: %v", u)
	}
}

func cidsOf(blocks ...store.Block) []cid.Cid {
	var out []cid.Cid
	for _, b := range blocks {
		out = append(out, b.CID)
	}
	return out
}
