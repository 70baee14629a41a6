package hive

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"fractal-lazy/seal"
)

// chain posts n manifests, each on top of the one before, straight into the database: what a client would do takes too long.
func (b *bench) chain(k seal.Privkey, n int) []*Manifest {
	b.t.Helper()
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	var out []*Manifest
	err := b.srv.db.write(context.Background(), func(tx *transaction) error {
		m := first(machine1, 1)
		for range n {
			if err := tx.insertManifest(k.Public(), m, m.Hash(), m.Sign(k), b.srv.now()); err != nil {
				return err
			}
			out = append(out, m)
			m = next(m)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func TestClient_LatestCostsNoMoreForALongList(t *testing.T) {
	b := newBench(t, twoAccounts())
	var asked atomic.Int32
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		b.srv.Handler().ServeHTTP(w, r)
	}))
	defer hs.Close()
	c, err := NewClient(hs.URL, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n, most := range map[int]int32{1: 2, 16: 17, 17: 18, 400: 18} {
		k := newKey(t)
		all := b.chain(k, n)
		asked.Store(0)
		m, err := c.Latest(context.Background(), k.Public())
		if err != nil || !same(m, all[n-1]) {
			t.Fatalf("%d manifests: %v", n, err)
		}
		if got := asked.Load(); got > most {
			t.Errorf("%d manifests: %d requests, at most %d", n, got, most)
		}
	}
}

// A Hive that is not ours may list in any order.
func TestClient_LatestWhateverTheOrderOfTheList(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	all := b.chain(k, 60)
	fork := next(all[10])
	fork.Generation = 1000
	b.post(k, fork)
	all = append(all, fork)
	inner := b.srv.Handler()
	var order []Hash
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/snapshots") && r.URL.RawQuery == "" {
			json.NewEncoder(w).Encode(order)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer hs.Close()
	c, err := NewClient(hs.URL, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	sorted := []Hash{}
	for _, m := range all {
		sorted = append(sorted, m.Hash())
	}
	reversed := slices.Clone(sorted)
	slices.Reverse(reversed)
	orders := map[string][]Hash{"sorted": sorted, "reversed": reversed, "rotated": append(slices.Clone(sorted[30:]), sorted[:30]...)}
	for name := range map[string]int{"shuffled a": 1, "shuffled b": 2, "shuffled c": 3} {
		s := slices.Clone(sorted)
		rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
		orders[name] = s
	}
	for name, o := range orders {
		order = o
		if m, err := c.Latest(context.Background(), k.Public()); err != nil || m.Generation != 1000 {
			t.Errorf("%s: %v", name, err)
		}
		got, err := c.All(context.Background(), k.Public())
		if err != nil || len(got) != len(all) || !slices.IsSortedFunc(got, byGeneration) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClient_LatestAndAllFailOnAForgedManifest(t *testing.T) {
	for _, n := range []int{3, 40} {
		b := newBench(t, twoAccounts())
		k := newKey(t)
		all := b.chain(k, n)
		forged := first(machine2, 1000).Sign(newKey(t))
		victim := all[n-1].Hash()
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, victim.String()) {
				w.Write(forged)
				return
			}
			b.srv.Handler().ServeHTTP(w, r)
		}))
		defer hs.Close()
		c, err := NewClient(hs.URL, tokenA, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Latest(context.Background(), k.Public()); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), victim.String()) {
			t.Errorf("latest of %d: %v", n, err)
		}
		if _, err := c.All(context.Background(), k.Public()); !errors.Is(err, ErrSignature) {
			t.Errorf("all of %d: %v", n, err)
		}
	}
}

// TestClient_AListedManifestThatIsGoneIsNoEmptyVolume: who takes it for one begins an empty database.
func TestClient_AListedManifestThatIsGoneIsNoEmptyVolume(t *testing.T) {
	for _, n := range []int{1, 3, 40} {
		b := newBench(t, twoAccounts())
		k := newKey(t)
		victim := b.chain(k, n)[n-1].Hash()
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, victim.String()) {
				http.NotFound(w, r)
				return
			}
			b.srv.Handler().ServeHTTP(w, r)
		}))
		defer hs.Close()
		c, err := NewClient(hs.URL, tokenA, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Latest(context.Background(), k.Public())
		if errors.Is(err, ErrNotFound) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("latest of %d: %v", n, err)
		}
		if _, err = c.All(context.Background(), k.Public()); errors.Is(err, ErrNotFound) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("all of %d: %v", n, err)
		}
	}
}
