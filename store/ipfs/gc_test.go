package ipfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

// age makes blocks look as if they had been written so long ago.
func age(t *testing.T, n *Node, by time.Duration, blocks ...store.Block) {
	t.Helper()
	then := time.Now().Add(-by)
	for _, b := range blocks {
		if err := os.Chtimes(n.blocks.path(keyOf(b.CID)), then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func wantBlocks(t *testing.T, s store.Store, want string, blocks ...store.Block) {
	t.Helper()
	got := ""
	for _, b := range blocks {
		// By Get, since Has would renew the block's age.
		_, err := s.Get(t.Context(), b.CID)
		switch {
		case err == nil:
			got += "1"
		case errors.Is(err, store.ErrNotFound):
			got += "0"
		default:
			t.Fatal(err)
		}
	}
	if got != want {
		t.Fatalf("blocks there: %s, want %s", got, want)
	}
}

func TestGC_RemovesWhatIsOldAndUnpinned(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	ctx := t.Context()
	leaf, dropped, young := storetest.Block("leaf", 10), storetest.Block("dropped", 10), storetest.Block("young", 10)
	middle := storetest.Node("middle", leaf.CID)
	root, gone := storetest.Node("root", middle.CID), storetest.Node("gone", middle.CID, dropped.CID)
	direct := storetest.Node("direct", dropped.CID)
	all := []store.Block{leaf, middle, root, dropped, gone, young, direct}
	if err := s.PutMany(ctx, storetest.Seq(all...)); err != nil {
		t.Fatal(err)
	}
	for _, r := range []store.Block{root, gone} {
		if err := s.Pin(ctx, r.CID); err != nil {
			t.Fatal(err)
		}
	}
	post(t, srv.URL, "pin/add?recursive=false&arg="+direct.CID.String())
	age(t, n, 48*time.Hour, leaf, middle, root, dropped, gone, direct)
	if got := post(t, srv.URL, "repo/gc"); got != "200 application/json " {
		t.Errorf("all but one is pinned: %s", got)
	}
	wantBlocks(t, s, "1111111", all...)

	if err := s.Unpin(ctx, gone.CID); err != nil {
		t.Fatal(err)
	}
	got := post(t, srv.URL, "repo/gc")
	// The hash alone is known: the node is named as a raw block.
	if !strings.Contains(got, dropped.CID.String()) || !strings.Contains(got, store.Sum(store.Raw, gone.Data).String()) {
		t.Errorf("removed: %s", got)
	}
	wantBlocks(t, s, "1110011", all...)

	post(t, srv.URL, "repo/gc?force=true")
	wantBlocks(t, s, "1110001", all...)
}

// From the import to the pin nothing but its age protects a block; importing
// it again or asking for it makes it young.
func TestGC_SparesWhatAnUploadReliesOn(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	asked, again, old, read := storetest.Block("asked", 10), storetest.Block("again", 10), storetest.Block("old", 10), storetest.Block("read", 10)
	all := []store.Block{asked, again, old, read}
	if err := s.PutMany(t.Context(), storetest.Seq(all...)); err != nil {
		t.Fatal(err)
	}
	age(t, n, 48*time.Hour, all...)
	if has, err := s.Has(t.Context(), cidsOf(asked)); err != nil || !has[0] {
		t.Fatal(has, err)
	}
	if err := s.PutMany(t.Context(), storetest.Seq(again)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), read.CID); err != nil {
		t.Fatal(err)
	}
	post(t, srv.URL, "repo/gc")
	wantBlocks(t, s, "1100", all...)
}

// What cannot be walked is not thrown away.
func TestGC_RemovesNothingWhereAPinIsDamaged(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"missing":   os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 3) },
		"other bytes": func(p string) error {
			return os.WriteFile(p, storetest.Node("other").Data, 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, srv := openNode(t, t.TempDir())
			s := openClient(t, Options{RPC: srv.URL})
			leaf, other := storetest.Block("leaf", 10), storetest.Block("other", 10)
			middle := storetest.Node("middle", leaf.CID)
			root := storetest.Node("root", middle.CID)
			if err := s.PutMany(t.Context(), storetest.Seq(leaf, other, middle, root)); err != nil {
				t.Fatal(err)
			}
			if err := s.Pin(t.Context(), root.CID); err != nil {
				t.Fatal(err)
			}
			age(t, n, 48*time.Hour, leaf, other, middle, root)
			if err := damage(n.blocks.path(keyOf(middle.CID))); err != nil {
				t.Fatal(err)
			}
			if got := post(t, srv.URL, "repo/gc"); !strings.HasPrefix(got, "500") || !strings.Contains(got, "aborted") {
				t.Error(got)
			}
			wantBlocks(t, s, "111", leaf, other, root)
		})
	}
}

// Blocks are made old all the time, so that collections take them away under
// an uploader, which puts again what a pin found missing. Whatever is pinned in
// the end is whole.
func TestGC_BesideUploadsLosesNothingPinned(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	s := openClient(t, Options{RPC: srv.URL})
	var leaves []store.Block
	for i := range 50 {
		leaves = append(leaves, storetest.Block(fmt.Sprint(i), 1000))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			then := time.Now().Add(-48 * time.Hour)
			for _, b := range leaves {
				_ = os.Chtimes(n.blocks.path(keyOf(b.CID)), then, then) // where it is there
			}
			if got := post(t, srv.URL, "repo/gc?silent=true"); !strings.HasPrefix(got, "200") {
				t.Error(got)
			}
		}
	})
	missing := 0
	for i := range 20 {
		root := storetest.Node(fmt.Sprint("root", i), cidsOf(leaves...)...)
		for {
			if err := s.PutMany(t.Context(), storetest.Seq(append(leaves[:len(leaves):len(leaves)], root)...)); err != nil {
				t.Fatal(err)
			}
			err := s.Pin(t.Context(), root.CID)
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrNotFound) {
				t.Fatal(err)
			}
			missing++
		}
		for _, b := range leaves {
			if _, err := s.Get(t.Context(), b.CID); err != nil {
				t.Fatalf("below a pin: %v", err)
			}
		}
		if err := s.Unpin(t.Context(), root.CID); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d pins found a block missing", missing)
}
