package ipfs

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/store"
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
