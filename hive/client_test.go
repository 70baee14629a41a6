package hive

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestClient_SpeaksToTheServer(t *testing.T) {
	b := newBench(t, twoAccounts())
	ctx := context.Background()
	c, k := b.client(tokenA), newKey(t)
	p := k.Public()
	if err := c.Health(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Volume(ctx, p); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown volume: %v", err)
	}
	if err := c.Delete(ctx, p); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown volume: %v", err)
	}
	for range 2 {
		if err := c.Create(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := c.Volume(ctx, p); err != nil || v.Account != accountA || v.Writer != nil {
		t.Fatal(v, err)
	}
	if _, err := c.Latest(ctx, p); !errors.Is(err, ErrNotFound) {
		t.Errorf("no manifest yet: %v", err)
	}
	if all, err := c.All(ctx, p); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	one := first(machine1, 1)
	two := next(one)
	for _, m := range []*Manifest{one, two, two, one} {
		if h, err := c.Post(ctx, p, m.Sign(k)); err != nil || h != m.Hash() {
			t.Fatal(h, err)
		}
	}
	h := one.Hash()
	for name, want := range map[string]struct {
		parent *Hash
		root   bool
		list   []Hash
	}{
		"all":      {nil, false, []Hash{h, two.Hash()}},
		"children": {&h, false, []Hash{two.Hash()}},
		"roots":    {nil, true, []Hash{h}},
	} {
		if got, err := c.Snapshots(ctx, p, want.parent, want.root); err != nil || fmt.Sprint(got) != fmt.Sprint(want.list) {
			t.Error(name, got, err)
		}
	}
	if m, err := c.Latest(ctx, p); err != nil || !same(m, two) {
		t.Error(m, err)
	}
	if all, err := c.All(ctx, p); err != nil || len(all) != 2 || !same(all[0], one) || !same(all[1], two) {
		t.Error(all, err)
	}
	if _, err := c.Manifest(ctx, p, Hash{1}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	for _, w := range []*uuid.UUID{&machine2, nil} {
		if err := c.SetWriter(ctx, p, w); err != nil {
			t.Fatal(err)
		}
		if v, err := c.Volume(ctx, p); err != nil || fmt.Sprint(v.Writer) != fmt.Sprint(w) {
			t.Error(v, err)
		}
	}
	if err := c.Delete(ctx, p); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Volume(ctx, p); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestClient_ErrorsHoldTheReasonAndNoToken(t *testing.T) {
	b := newBench(t, twoAccounts())
	ctx := context.Background()
	c, k := b.client(tokenA), newKey(t)
	p := k.Public()
	if err := c.Create(ctx, p); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Post(ctx, p, first(machine1, 1).Sign(k)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Post(ctx, p, first(machine2, 2).Sign(k))
	if !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "is not the writer, which is "+machine1.String()) || !strings.Contains(err.Error(), p.String()) {
		t.Error(err)
	}
	if _, err := b.client(tokenB).Volume(ctx, p); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "another account") {
		t.Error(err)
	}
	_, err = b.client("some-unknown-token").Volume(ctx, p)
	if !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "some-unknown-token") {
		t.Error(err)
	}
}

func TestClient_SendsNoBadManifest(t *testing.T) {
	var asked atomic.Int32
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1) })
	k := newKey(t)
	signed := first(machine1, 1).Sign(k)
	signed[3] ^= 1
	if _, err := c.Post(context.Background(), k.Public(), signed); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	long := first(machine1, 1)
	long.Data = strings.Repeat("x", MaxData+1)
	if _, err := c.Post(context.Background(), k.Public(), long.Sign(k)); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	if asked.Load() != 0 {
		t.Error("it was sent")
	}
}

// clientOf is a client of a server that answers as h does.
func clientOf(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	hs := httptest.NewServer(h)
	t.Cleanup(hs.Close)
	c, err := NewClient(hs.URL, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient_MapsEveryStatus(t *testing.T) {
	k := newKey(t)
	for status, want := range map[int]error{
		201: ErrUnavailable, 204: ErrUnavailable, 301: ErrUnavailable, 303: ErrUnavailable, 400: ErrRejected, 401: ErrDenied, 403: ErrDenied,
		404: ErrNotFound, 405: ErrRejected, 408: ErrUnavailable, 409: ErrRejected, 413: ErrRejected, 429: ErrUnavailable,
		500: ErrUnavailable, 502: ErrUnavailable, 503: ErrUnavailable,
	} {
		c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			if status != 204 {
				fmt.Fprintf(w, "the reason\nis \x1b[31m%s", r.Header.Get("Authorization"))
			}
		})
		_, err := c.Volume(context.Background(), k.Public())
		if !errors.Is(err, want) || strings.Contains(err.Error(), tokenA) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%d: %q", status, err)
		}
		if status >= 400 && !strings.Contains(err.Error(), "the reason is [31mBearer [token]") {
			t.Errorf("%d: the reason is not there: %q", status, err)
		}
	}
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error":"as JSON"}`)
	})
	if err := c.Delete(context.Background(), k.Public()); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), ": as JSON (status 400)") {
		t.Error(err)
	}
}

func TestClient_FollowsNoRedirect(t *testing.T) {
	var elsewhere atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) }))
	defer thief.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", thief.URL+r.URL.Path)
			w.WriteHeader(status)
		})
		k := newKey(t)
		ctx := context.Background()
		m := first(machine1, 1)
		_, verr := c.Volume(ctx, k.Public())
		_, perr := c.Post(ctx, k.Public(), m.Sign(k))
		for _, err := range []error{verr, perr, c.Create(ctx, k.Public()), c.Delete(ctx, k.Public()), c.Health(ctx)} {
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestClient_PostReadsTheHashOfTheRedirect(t *testing.T) {
	k := newKey(t)
	m := first(machine1, 1)
	good := m.Hash().String()
	for location, want := range map[string]error{
		good:                                   nil,
		"/api/v1/volume/x/" + good:             nil,
		"http://other.example/any/" + good:     nil, // read, not followed
		"/" + strings.ToUpper(good) + "?x=/y/": nil,
		"":                                     ErrUnavailable,
		"/api/v1/" + good + "/":                ErrUnavailable,
		"/" + good[2:]:                         ErrUnavailable,
		"/" + (Hash{7}).String():               ErrHash,
	} {
		c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Location"] = []string{location}
			w.WriteHeader(303)
		})
		if h, err := c.Post(context.Background(), k.Public(), m.Sign(k)); !errors.Is(err, want) || (err == nil && h != m.Hash()) {
			t.Errorf("%q: %v", location, err)
		}
	}
}

func TestClient_RefusesAnswersThatAreWrong(t *testing.T) {
	k := newKey(t)
	p := k.Public()
	m := first(machine1, 1)
	var body []byte
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) { w.Write(body) })
	ctx := context.Background()
	forged := m.Sign(newKey(t))
	flipped := m.Sign(k)
	flipped[40] ^= 4
	junk := []byte("junk, but signed")
	for name, x := range map[string]struct {
		body []byte
		want error
	}{
		"right":                    {m.Sign(k), nil},
		"truncated":                {m.Sign(k)[:100], ErrSignature},
		"empty":                    {nil, ErrFormat},
		"flipped":                  {flipped, ErrSignature},
		"signed by another":        {forged, ErrSignature},
		"another of the volume's":  {next(m).Sign(k), ErrHash},
		"signed, yet no manifest":  {append(junk, k.Sign(junk)...), ErrFormat},
		"longer than any manifest": {make([]byte, maxSigned+1), ErrUnavailable},
	} {
		body = x.body
		if _, err := c.Manifest(ctx, p, m.Hash()); !errors.Is(err, x.want) {
			t.Errorf("manifest %s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{}", `["00"]`, `[1]`, `"x"`, "<html>", "[" + strings.Repeat(" ", maxList) + "]"} {
		body = []byte(text)
		if _, err := c.Snapshots(ctx, p, nil, false); !errors.Is(err, ErrUnavailable) {
			t.Errorf("list %.10q: %v", text, err)
		}
	}
	for _, text := range []string{"", "{}", "[]", `{"account":"x","writer":null}`, `{"account":"` + accountA.String() + `","writer":"x"}`, strings.Repeat(" ", maxVolumeJSON+1)} {
		body = []byte(text)
		if _, err := c.Volume(ctx, p); !errors.Is(err, ErrUnavailable) {
			t.Errorf("volume %.10q: %v", text, err)
		}
	}
}

func TestClient_DownSlowOrCancelled(t *testing.T) {
	k := newKey(t)
	dead := httptest.NewServer(nil)
	dead.Close()
	c, err := NewClient(dead.URL, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Volume(context.Background(), k.Public()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("down: %v", err)
	}

	release := make(chan struct{})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/snapshots") { // headers at once, the body never
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
		}
		<-release
	}))
	defer hs.Close()
	defer close(release)
	slow, err := NewClient(hs.URL, tokenA, &http.Client{Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Volume(context.Background(), k.Public()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("slow: %v", err)
	}
	if _, err := slow.Snapshots(context.Background(), k.Public(), nil, false); !errors.Is(err, ErrUnavailable) {
		t.Errorf("slow body: %v", err)
	}
	patient, err := NewClient(hs.URL, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := patient.Volume(ctx, k.Public()); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
		t.Errorf("the caller's time-out: %v", err)
	}
	if _, err := patient.All(ctx, k.Public()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's time-out: %v", err)
	}
}

// The time at the Hive is that of any answer of it, and of no other.
func TestClient_Time(t *testing.T) {
	at := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	var date atomic.Value
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = date.Load().([]string)
		http.NotFound(w, r) // the original Hive need not know the path
	}))
	defer hs.Close()
	c, err := NewClient(hs.URL, tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	date.Store([]string{at.Format(http.TimeFormat)})
	if got, err := c.Time(context.Background()); err != nil || !got.Equal(at) {
		t.Errorf("%v, %v", got, err)
	}
	for _, wrong := range [][]string{nil, {""}, {"yesterday"}} {
		date.Store(wrong)
		if got, err := c.Time(context.Background()); !errors.Is(err, ErrUnavailable) || !got.IsZero() {
			t.Errorf("%q: %v, %v", wrong, got, err)
		}
	}
	hs.Close()
	if _, err := c.Time(context.Background()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestNewClient_RefusesBadURLsAndTokens(t *testing.T) {
	for _, base := range []string{"", "hive:7070", "ftp://h", "http://", "http://user:hunter2@h", "http://h?x=1", "http://h#f", "http://h\x7f:hunter2"} {
		if _, err := NewClient(base, tokenA, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", base, err)
		}
	}
	for _, token := range []string{"", "with space", "new\nline", "ümlaut"} {
		if _, err := NewClient("http://h", token, nil); err == nil || (token != "" && strings.Contains(err.Error(), token)) {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestClient_LivesBehindAPrefix(t *testing.T) {
	b := newBench(t, twoAccounts())
	inner, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	outer := httptest.NewServer(http.StripPrefix("/deep/er", b.srv.Handler()))
	defer outer.Close()
	for _, base := range []string{outer.URL + "/deep/er", outer.URL + "/deep/er/", inner.String() + "/"} {
		c, err := NewClient(base, tokenA, nil)
		if err != nil {
			t.Fatal(err)
		}
		k := newKey(t)
		m := first(machine1, math.MaxUint64)
		if err := c.Health(context.Background()); err != nil {
			t.Error(err)
		}
		if err := c.Create(context.Background(), k.Public()); err != nil {
			t.Error(err)
		}
		if _, err := c.Post(context.Background(), k.Public(), m.Sign(k)); err != nil {
			t.Error(err)
		}
	}
}
