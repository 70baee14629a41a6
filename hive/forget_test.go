package hive

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
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
	// No other manifest takes its place, and the chain goes on.
	other := next(one)
	other.Path += "x"
	b.want(tokenA, "POST", vol(k)+"/snapshot", other.Sign(k), 400, "taken")
	four := next(three)
	b.post(k, four)
	// It comes back itself, also where its parent is gone; not where another machine has the volume.
	if err := forget(one); err != nil {
		t.Error(err)
	}
	b.want(tokenA, "PATCH", vol(k), []byte(`{"writer": "`+uuid.NewString()+`"}`), 200, "")
	b.want(tokenA, "POST", vol(k)+"/snapshot", two.Sign(k), 400, "not the writer")
	b.want(tokenA, "PATCH", vol(k), []byte(`{"writer": null}`), 200, "")
	b.post(k, two)
	wantList(t, b.list(k, ""), two, three, four)
	if err := forget(two); err != nil {
		t.Error(err)
	}
	b.post(k, two)
	b.post(k, one)
	wantList(t, b.list(k, ""), one, two, three, four)
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

// A Hive of before manifests could come back has numbers of removed ones, and no hashes: they stay taken.
func TestForget_OfAnOlderDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hive.db")
	db, err := openDatabase(file)
	if err != nil {
		t.Fatal(err)
	}
	k, ctx := newKey(t), context.Background()
	err = db.write(ctx, func(tx *transaction) error {
		if err := tx.createVolume(k.Public(), uuid.New(), time.Unix(1, 0)); err != nil {
			return err
		}
		for _, q := range []string{"DROP TABLE removed", migrations[1], "PRAGMA user_version = 2"} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		p := k.Public()
		_, err := tx.ExecContext(ctx, "INSERT INTO removed (pubkey, generation) VALUES (?, ?)", p[:], generationKey(1))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.close(); err != nil {
		t.Fatal(err)
	}
	if db, err = openDatabase(file); err != nil {
		t.Fatal(err)
	}
	defer db.close()
	m := first(machine1, 1)
	err = db.write(ctx, func(tx *transaction) error {
		v, err := tx.volume(k.Public())
		if err != nil {
			return err
		}
		return admit(tx, k.Public(), v, m, m.Hash(), m.Sign(k), time.Unix(2, 0))
	})
	if err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("%v", err)
	}
}
