package ipfs

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

const testToken = "8c0b6b0e-4f0b-4f0e-9d0e-5d1c5a2f6f11"

func withToken(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+testToken }

// openNode serves a node in dir, which the test's end closes.
func openNode(t testing.TB, dir string) (*Node, *httptest.Server) {
	t.Helper()
	n, err := OpenNode(NodeOptions{Dir: dir, Authorized: withToken})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(n.Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, srv
}

func openClient(t testing.TB, opt Options) store.Store {
	t.Helper()
	if opt.Token == "" {
		opt.Token = testToken
	}
	if opt.PinStall == 0 {
		opt.PinStall = 5 * time.Second
	}
	s, err := NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.(*client).http.CloseIdleConnections)
	return s
}

func TestNode_Store(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	storetest.Run(t, func(t *testing.T) store.Store { return openClient(t, Options{RPC: srv.URL}) })
}

func cidsOf(blocks ...store.Block) []cid.Cid {
	out := make([]cid.Cid, len(blocks))
	for i, b := range blocks {
		out[i] = b.CID
	}
	return out
}

func TestNode_RefusesWrongToken(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	wantDenied(t, openClient(t, Options{RPC: srv.URL, Token: "another"}))
}

func TestNode_OpensOnce(t *testing.T) {
	dir := t.TempDir()
	n, _ := openNode(t, dir)
	if other, err := OpenNode(NodeOptions{Dir: dir}); err == nil {
		other.Close()
		t.Fatal("opened twice")
	}
	if n.id == "" {
		t.Error("no identity")
	}
}

func TestNode_KeepsEverythingWhenReopened(t *testing.T) {
	dir := t.TempDir()
	leaf := storetest.Block("leaf", 1000)
	root := storetest.Node("root", leaf.CID)
	ids := map[string]bool{}
	for i := range 3 {
		n, err := OpenNode(NodeOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		ids[n.id] = true
		srv := httptest.NewServer(n.Handler())
		s := openClient(t, Options{RPC: srv.URL})
		if i == 0 {
			if err := s.PutMany(t.Context(), storetest.Seq(leaf, root)); err != nil {
				t.Fatal(err)
			}
			if err := s.Pin(t.Context(), root.CID); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Get(t.Context(), leaf.CID); err != nil {
			t.Error(err)
		}
		if pinned, err := s.Pinned(t.Context(), root.CID); err != nil || !pinned {
			t.Errorf("pinned: %v, %v", pinned, err)
		}
		srv.Close()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != 1 {
		t.Errorf("the node's id changed: %v", ids)
	}
}

// A folder whose making was cut off at any step opens.
func TestNode_OpensWhereMakingWasCutOff(t *testing.T) {
	dir := t.TempDir()
	half := filepath.Join(dir, "blocks.new")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "SHARDING"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.new"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	openNode(t, dir)
}

// A pin reads the nodes and looks the raw blocks up: it is right about a
// block that is missing and does not mind one that cannot be read.
func TestNode_PinUpdateVisitsTheDifferenceOnly(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	ctx := t.Context()
	shared, own, fresh := storetest.Block("shared", 10), storetest.Block("own", 10), storetest.Block("fresh", 10)
	same, old, changed := storetest.Node("same", shared.CID), storetest.Node("old", own.CID), storetest.Node("changed", fresh.CID)
	prev, next := storetest.Node("prev", same.CID, old.CID), storetest.Node("next", same.CID, changed.CID)
	if err := s.PutMany(ctx, storetest.Seq(shared, own, fresh, same, old, changed, prev, next)); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(ctx, prev.CID); err != nil {
		t.Fatal(err)
	}
	// Whoever visited the shared subtree would now fail.
	if err := os.Remove(n.blocks.path(keyOf(same.CID))); err != nil {
		t.Fatal(err)
	}
	if err := s.PinUpdate(ctx, prev.CID, next.CID); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin(ctx, next.CID); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(ctx, next.CID); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error is %v", err)
	}
}

// A block that was damaged on the disk is written again when it is put again,
// where its length shows it.
func TestNode_PutHealsATruncatedBlock(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	b := storetest.Block("b", 1000)
	if err := s.PutMany(t.Context(), storetest.Seq(b)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(n.blocks.path(keyOf(b.CID)), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), b.CID); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("error is %v", err)
	}
	if err := s.PutMany(t.Context(), storetest.Seq(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), b.CID); err != nil {
		t.Fatal(err)
	}
}

// A client that dies in the middle of a stream does not send again what had arrived.
func TestNode_KeepsWhatArrivedBeforeTheStreamWasCutOff(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	var blocks []store.Block
	for i := range 4 { // larger than the buffer before the network, so that all but the last have been sent
		blocks = append(blocks, storetest.Block(fmt.Sprint("cut", i), 1<<20))
	}
	died := errors.New("died")
	err := s.PutMany(t.Context(), func(yield func(store.Block, error) bool) {
		for _, b := range blocks {
			if !yield(b, nil) {
				return
			}
		}
		yield(store.Block{}, died)
	})
	if !errors.Is(err, died) {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		has, err := s.Has(t.Context(), cidsOf(blocks[:3]...))
		if err != nil {
			t.Fatal(err)
		}
		if has[0] && has[1] && has[2] {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("what arrived is not there: %v", has)
		}
	}
}

func TestNode_WhatMayNotBeDurableIsNotSaidToBeThere(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	b := storetest.Block("b", 1000)
	if err := s.PutMany(t.Context(), storetest.Seq(b)); err != nil {
		t.Fatal(err)
	}
	for _, batches := range []int{1, 0} { // that have it, and are not through
		n.blocks.mu.Lock()
		n.blocks.unsynced[keyOf(b.CID)] = batches
		n.blocks.mu.Unlock()
		if has, err := s.Has(t.Context(), cidsOf(b)); err != nil || has[0] != (batches == 0) {
			t.Errorf("with %d batches: %v, %v", batches, has, err)
		}
	}
}
