package hive

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestForget_RemovesAllButTheNewestAndKeepsTheirGenerations(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	one := first(machine1, 1)
	two := next(one)
	three := next(two)
	for _, m := range []*Manifest{one, two, three} {
		b.post(k, m)
	}
	ctx, c := context.Background(), b.client(tokenA)
	forget := func(m *Manifest) error { return c.Forget(ctx, k.Public(), m.Hash()) }
	if err := forget(three); !errors.Is(err, ErrRejected) {
		t.Errorf("the newest: %v", err)
	}
	b.want(tokenB, "DELETE", vol(k)+"/"+two.Hash().String(), nil, 403, "")
	b.want(tokenA, "DELETE", vol(k)+"/xyz", nil, 405, "")
	for range 2 { // again is no error
		if err := forget(two); err != nil {
			t.Error(err)
		}
	}
	wantList(t, b.list(k, ""), one, three)
	if m, err := c.Latest(ctx, k.Public()); err != nil || m.Generation != three.Generation {
		t.Errorf("%v, %v", m, err)
	}
	// Neither the same nor another manifest takes its place, and the chain goes on.
	b.want(tokenA, "POST", vol(k)+"/snapshot", two.Sign(k), 400, "taken")
	other := next(one)
	other.Path += "x"
	b.want(tokenA, "POST", vol(k)+"/snapshot", other.Sign(k), 400, "taken")
	b.post(k, next(three))
	b.want(tokenA, "PATCH", vol(k), []byte(`{"lock": true}`), 200, "")
	if err := forget(one); !errors.Is(err, ErrRejected) {
		t.Errorf("locked: %v", err)
	}
}

func TestForget_TellsAHiveThatCannot(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	m := first(machine1, 1)
	b.post(k, m)
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				http.Error(w, "no such call", status)
				return
			}
			b.srv.Handler().ServeHTTP(w, r)
		}))
		c, err := NewClient(hs.URL, tokenA, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Forget(context.Background(), k.Public(), m.Hash()); !errors.Is(err, ErrUnsupported) {
			t.Errorf("status %d: %v", status, err)
		}
		hs.Close()
	}
}
