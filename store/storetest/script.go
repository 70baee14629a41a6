package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// script is a test in the words of a store: each method does one operation
// and ends the test where its outcome is not the one expected.
type script struct {
	*testing.T
	ctx  context.Context
	s    store.Store
	salt string
}

func (t *script) block(seed string, size int) store.Block { return Block(t.salt+seed, size) }

func (t *script) node(seed string, below ...store.Block) store.Block {
	links := make([]cid.Cid, len(below))
	for i, b := range below {
		links[i] = b.CID
	}
	return Node(t.salt+seed, links...)
}

func (t *script) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *script) mustBe(err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func (t *script) put(blocks ...store.Block) {
	t.Helper()
	t.must(t.s.PutMany(t.ctx, Seq(blocks...)))
}

func (t *script) pin(root store.Block) {
	t.Helper()
	t.must(t.s.Pin(t.ctx, root.CID))
}

func (t *script) wantGet(b store.Block) []byte {
	t.Helper()
	data, err := t.s.Get(t.ctx, b.CID)
	t.must(err)
	if !bytes.Equal(data, b.Data) {
		t.Fatalf("get %s: %d bytes that differ from the %d put", b.CID, len(data), len(b.Data))
	}
	return data
}

func (t *script) wantHas(want []bool, blocks ...store.Block) {
	t.Helper()
	cids := make([]cid.Cid, len(blocks))
	for i, b := range blocks {
		cids[i] = b.CID
	}
	has, err := t.s.Has(t.ctx, cids)
	t.must(err)
	if !slices.Equal(has, want) {
		t.Fatalf("has: %v, want %v", has, want)
	}
}

func (t *script) wantPinned(want bool, root store.Block) {
	t.Helper()
	pinned, err := t.s.Pinned(t.ctx, root.CID)
	t.must(err)
	if pinned != want {
		t.Fatalf("pinned %s: %v, want %v", root.CID, pinned, want)
	}
}
