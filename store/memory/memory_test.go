package memory

import (
	"testing"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New() })
}

func TestGC_KeepsWhatAPinReaches(t *testing.T) {
	s := New()
	ctx := t.Context()
	shared, gone, kept := storetest.Block("shared", 10), storetest.Block("gone", 10), storetest.Block("kept", 10)
	oldRoot := storetest.Node("old", shared.CID, gone.CID)
	newRoot := storetest.Node("new", shared.CID, kept.CID)
	if err := s.PutMany(ctx, storetest.Seq(shared, gone, kept, oldRoot, newRoot)); err != nil {
		t.Fatal(err)
	}
	for _, root := range []store.Block{oldRoot, newRoot} {
		if err := s.Pin(ctx, root.CID); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.GC(); n != 0 {
		t.Fatalf("%d blocks removed while all are pinned", n)
	}
	if err := s.Unpin(ctx, oldRoot.CID); err != nil {
		t.Fatal(err)
	}
	if n := s.GC(); n != 2 {
		t.Fatalf("%d blocks removed, want the old root and its own leaf", n)
	}
	if n, bytes := s.Size(); n != 3 || bytes != int64(20+len(newRoot.Data)) {
		t.Fatalf("%d blocks, %d bytes left", n, bytes)
	}
}
