package ipfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

// TestClient_GetDoesNotWaitForAServerThatHoldsIt has a server that takes a
// request and never answers, then one that stops in the middle of a block, then
// one that is slow but moves.
func TestClient_GetDoesNotWaitForAServerThatHoldsIt(t *testing.T) {
	block := make([]byte, 100<<10)
	id := store.Sum(store.Raw, block)
	const stall = 200 * time.Millisecond
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch calls.Add(1) {
		case 1:
			<-r.Context().Done()
		case 2:
			w.Header().Set("Content-Length", "102400")
			w.Write(block[:1000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			for i := range 10 {
				w.Write(block[i*10<<10 : (i+1)*10<<10])
				w.(http.Flusher).Flush()
				time.Sleep(stall / 4)
			}
		}
	}))
	defer s.Close()
	c, err := NewClient(Options{RPC: s.URL, GetStall: stall})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := c.Get(ctx, id)
		cancel()
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want %v", err, store.ErrUnavailable)
		}
	}
	if _, err := c.Get(context.Background(), id); err != nil {
		t.Fatalf("slow and moving: %v", err)
	}
}

// A server that takes a call and never answers it, be it that it reads what is sent or not, holds up nobody for ever.
func TestClient_NoCallWaitsForAServerThatHoldsIt(t *testing.T) {
	var reads atomic.Bool
	ends := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reads.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		select {
		case <-ends:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(ends)
	st := openClient(t, Options{RPC: s.URL, GetStall: 100 * time.Millisecond, PinStall: 20 * time.Millisecond})
	big := func(yield func(store.Block, error) bool) {
		for i := range 64 { // more than the sockets on the way hold
			if data := bytes.Repeat([]byte{byte(i)}, store.MaxBlock); !yield(store.Block{CID: store.Sum(store.Raw, data), Data: data}, nil) {
				return
			}
		}
	}
	b := storetest.Block("b", 10)
	for _, read := range []bool{false, true} {
		reads.Store(read)
		for name, do := range map[string]func(ctx context.Context) error{
			"Has":     func(ctx context.Context) error { _, err := st.Has(ctx, cidsOf(b)); return err },
			"Pinned":  func(ctx context.Context) error { _, err := st.Pinned(ctx, b.CID); return err },
			"Pin":     func(ctx context.Context) error { return st.Pin(ctx, b.CID) },
			"Unpin":   func(ctx context.Context) error { return st.Unpin(ctx, b.CID) },
			"PutMany": func(ctx context.Context) error { return st.PutMany(ctx, big) },
			"one":     func(ctx context.Context) error { return st.PutMany(ctx, storetest.Seq(b)) },
		} {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			err := do(ctx)
			cancel()
			if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, errStalled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				t.Errorf("%s, the body read: %v: %v", name, read, err)
			}
		}
	}
}

// It is the server that is not waited for, and not whoever gives the blocks: a disk may be slow, or a rate low.
func TestPutMany_WaitsForWhoGivesTheBlocks(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	st := openClient(t, Options{RPC: srv.URL, PinStall: 300 * time.Millisecond})
	slow := func(yield func(store.Block, error) bool) {
		if !yield(storetest.Block("first", 10), nil) {
			return
		}
		time.Sleep(4 * time.Second) // of 3 that the server may take
		yield(storetest.Block("second", 10), nil)
	}
	if err := st.PutMany(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
}
