package hive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

const (
	tokenA = "token-of-account-a"
	tokenB = "token-of-account-b"
)

var (
	accountA = uuid.MustParse("aaaaaaaa-0000-4000-8000-000000000001")
	accountB = uuid.MustParse("bbbbbbbb-0000-4000-8000-000000000002")
	machine1 = uuid.MustParse("11111111-0000-4000-8000-000000000001")
	machine2 = uuid.MustParse("22222222-0000-4000-8000-000000000002")
)

// bench is a Hive behind a real listener, spoken to with raw HTTP.
type bench struct {
	t   *testing.T
	url string
	srv *Server
}

func newBench(t *testing.T, tokens Tokens) *bench {
	t.Helper()
	srv, err := NewServer(filepath.Join(t.TempDir(), "hive #1?.db"), tokens, nil)
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(srv.Handler())
	t.Cleanup(func() {
		hs.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{t: t, url: hs.URL, srv: srv}
}

func twoAccounts() Tokens { return Tokens{tokenA: accountA, tokenB: accountB} }

func (b *bench) client(token string) *Client {
	b.t.Helper()
	c, err := NewClient(b.url, token, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

var noRedirects = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// do sends one request and returns status, body and Location.
func (b *bench) do(token, method, path string, body []byte) (int, string, string) {
	b.t.Helper()
	req, err := http.NewRequest(method, b.url+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := noRedirects.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(text)), resp.Header.Get("Location")
}

// want is do with what is to come back; reason is a part of the body.
func (b *bench) want(token, method, path string, body []byte, status int, reason string) {
	b.t.Helper()
	got, text, _ := b.do(token, method, path, body)
	if got != status || !strings.Contains(text, reason) {
		b.t.Errorf("%s %s: %d %q, want %d with %q", method, path, got, text, status, reason)
	}
}

func newKey(t *testing.T) seal.Privkey {
	t.Helper()
	k, err := seal.GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func vol(k seal.Privkey) string { return "/api/v1/volume/" + k.Public().String() }

// first makes the first manifest of a chain, next one on top of it.
func first(machine uuid.UUID, generation uint64) *Manifest {
	return &Manifest{Creation: 1700000000, Machine: machine, Path: "/p", Size: 1000, SizeTotal: 1000, Generation: generation, Data: goldenCID}
}

func next(m *Manifest) *Manifest {
	n := *m
	n.Creation++
	n.Generation++
	n.Size = 100
	n.SizeTotal = m.SizeTotal + 100
	n.Parent = &Parent{Hash: m.Hash()}
	return &n
}

func (b *bench) post(k seal.Privkey, m *Manifest) {
	b.t.Helper()
	if h, err := b.client(tokenA).Post(context.Background(), k.Public(), m.Sign(k)); err != nil || h != m.Hash() {
		b.t.Fatal(h, err)
	}
}

func (b *bench) list(k seal.Privkey, query string) []string {
	b.t.Helper()
	status, body, _ := b.do(tokenA, "GET", vol(k)+"/snapshots"+query, nil)
	var hashes []string
	if err := json.Unmarshal([]byte(body), &hashes); status != 200 || err != nil || hashes == nil {
		b.t.Fatal(status, body, err)
	}
	return hashes
}

func hashes(ms ...*Manifest) []string {
	out := []string{}
	for _, m := range ms {
		out = append(out, m.Hash().String())
	}
	return out
}

func wantList(t *testing.T, got []string, want ...*Manifest) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(hashes(want...)) {
		t.Errorf("listed %.8q, want %.8q", got, hashes(want...))
	}
}

func TestServer_HealthNeedsNoToken(t *testing.T) {
	newBench(t, Tokens{}).want("", "GET", "/health", nil, 200, "ok")
}

func TestServer_EveryPathOfTheAPINeedsAToken(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	for _, token := range []string{"", "wrong", accountA.String(), tokenA + "x", "Bearer " + tokenA} {
		for _, r := range []string{"POST ", "GET ", "PATCH ", "DELETE ", "POST /snapshot", "GET /snapshots", "GET /" + first(machine1, 1).Hash().String(), "GET /a/b/c"} {
			method, path, _ := strings.Cut(r, " ")
			b.want(token, method, vol(k)+path, nil, 401, "no valid bearer token")
		}
	}
	b.want("", "GET", "/api/v1/nothing", nil, 401, "")
	b.want(tokenA, "GET", "/api/v1/nothing", nil, 404, "")
}

func TestServer_WithoutTokensAnyUUIDIsItsOwnAccount(t *testing.T) {
	b := newBench(t, nil)
	k := newKey(t)
	b.want("no-uuid", "POST", vol(k), nil, 401, "")
	b.want("{"+accountA.String()+"}", "POST", vol(k), nil, 401, "")
	b.want(strings.ToUpper(accountA.String()), "POST", vol(k), nil, 200, "")
	b.want(accountA.String(), "GET", vol(k), nil, 200, `"account":"`+accountA.String()+`"`)
	b.want(accountB.String(), "GET", vol(k), nil, 403, "another account")
}

func TestServer_VolumeLifeCycle(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "GET", vol(k), nil, 404, "no such volume")
	b.want(tokenA, "DELETE", vol(k), nil, 404, "no such volume")
	b.want(tokenA, "PATCH", vol(k), []byte(`{}`), 404, "no such volume")
	b.want(tokenA, "GET", vol(k)+"/snapshots", nil, 404, "no such volume")
	b.want(tokenA, "POST", vol(k)+"/snapshot", first(machine1, 1).Sign(k), 404, "no such volume")
	b.want(tokenA, "GET", vol(k)+"/"+first(machine1, 1).Hash().String(), nil, 404, "no such volume")
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	status, body, _ := b.do(tokenA, "GET", vol(k), nil)
	if want := `{"account":"` + accountA.String() + `","writer":null}`; status != 200 || body != want {
		t.Errorf("%d %s", status, body)
	}
	b.want(tokenA, "GET", vol(k)+"/"+first(machine1, 1).Hash().String(), nil, 404, "no such manifest")
	wantList(t, b.list(k, ""))

	b.post(k, first(machine1, 1))
	b.want(tokenA, "DELETE", vol(k), nil, 200, "")
	b.want(tokenA, "GET", vol(k), nil, 404, "")
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	wantList(t, b.list(k, "")) // its manifests went with it
}

func TestServer_AnotherAccountMayDoNothing(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	m := first(machine1, 1)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	b.post(k, m)
	for _, r := range []string{"POST ", "GET ", "PATCH ", "DELETE ", "POST /snapshot", "GET /snapshots", "GET /" + m.Hash().String()} {
		method, path, _ := strings.Cut(r, " ")
		body := []byte(`{"writer":null}`)
		if path == "/snapshot" {
			body = next(m).Sign(k)
		}
		b.want(tokenB, method, vol(k)+path, body, 403, "another account")
	}
	b.want(tokenA, "PATCH", vol(k), []byte(`{"account":"`+accountB.String()+`"}`), 200, "")
	b.want(tokenA, "GET", vol(k), nil, 403, "another account")
	b.want(tokenB, "GET", vol(k)+"/"+m.Hash().String(), nil, 200, "")
	b.want(tokenB, "DELETE", vol(k), nil, 200, "")
}

func TestServer_PatchTellsNullFromMissing(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	id, null := `"writer":"`+machine1.String()+`"`, `"writer":null`
	for _, step := range []struct {
		body   string
		status int
		reason string
		writer string
	}{
		{`{` + id + `}`, 200, "", id},
		{`{}`, 200, "", id},
		{`{"lock":true}`, 200, "", id},
		{`{"account":"` + accountA.String() + `"}`, 200, "", id},
		{`{"writer":"nobody"}`, 400, "writer is neither a UUID nor null", id},
		{`{"writer":7}`, 400, "writer is neither a UUID nor null", id},
		{`{"account":null}`, 400, "account is not a UUID", id},
		{`{"account":"x"}`, 400, "account is not a UUID", id},
		{`{"lock":null}`, 400, "lock is neither true nor false", id},
		{`{"lock":"yes"}`, 400, "lock is neither true nor false", id},
		{`{"Writer":null}`, 400, `no field "Writer"`, id},
		{`{"writer":null,"lokc":true}`, 400, `no field "lokc"`, id},
		{``, 400, "not a JSON object", id},
		{`null`, 400, "not a JSON object", id},
		{`[]`, 400, "not a JSON object", id},
		{`{"writer":null} {}`, 400, "not a JSON object", id},
		{`{"lock":` + strings.Repeat(" ", maxPatch) + `true}`, 413, "longer than 4096", id},
		{`{"lock":false,` + null + `}`, 200, "", null},
	} {
		b.want(tokenA, "PATCH", vol(k), []byte(step.body), step.status, step.reason)
		b.want(tokenA, "GET", vol(k), nil, 200, step.writer)
	}
}

func TestServer_RefusesBadURLsAndMethods(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	h := first(machine1, 1).Hash().String()
	for _, c := range []struct {
		method, path string
		status       int
		reason       string
	}{
		{"GET", "/api/v1/volume/xyz", 400, "public key in the URL"},
		{"GET", vol(k) + "00", 400, "public key in the URL"},
		{"GET", vol(k) + "/" + h[1:], 400, "not a hash"},
		{"GET", vol(k) + "/snapshots?parent=12", 400, "parent is not a hash"},
		{"GET", vol(k) + "/snapshots?parent=", 400, "parent is not a hash"},
		{"GET", vol(k) + "/snapshots?root=maybe", 400, "root is neither"},
		{"GET", vol(k) + "/snapshots?root=true&parent=" + h, 400, "exclude each other"},
		{"PUT", vol(k), 405, ""},
		{"DELETE", vol(k) + "/snapshots", 405, ""},
		{"POST", vol(k) + "/" + h, 405, ""},
		{"GET", "/api/v1/volume", 404, ""},
		{"GET", vol(k) + "/" + h + "/x", 404, ""},
		{"POST", "/health", 405, ""},
	} {
		b.want(tokenA, c.method, c.path, nil, c.status, c.reason)
	}
}

func TestServer_HexMayBeOfEitherCase(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	m := first(machine1, 1)
	upper := "/api/v1/volume/" + strings.ToUpper(k.Public().String())
	b.want(tokenA, "POST", upper, nil, 200, "")
	status, _, location := b.do(tokenA, "POST", upper+"/snapshot", m.Sign(k))
	if want := vol(k) + "/" + m.Hash().String(); status != 303 || location != want {
		t.Errorf("%d to %s", status, location)
	}
	b.want(tokenA, "GET", upper+"/"+strings.ToUpper(m.Hash().String()), nil, 200, "")
	wantList(t, b.list(k, "?parent="+strings.ToUpper(m.Hash().String())))
	status, body, _ := b.do(tokenA, "GET", location, nil)
	if status != 200 || body != strings.TrimSpace(string(m.Sign(k))) {
		t.Error("the redirect does not lead to the manifest")
	}
}

func TestServer_TheFirstManifestMakesItsMachineTheWriter(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	b.post(k, first(machine1, 1))
	b.want(tokenA, "GET", vol(k), nil, 200, `"writer":"`+machine1.String()+`"`)
}

func TestServer_ListsAscendByGenerationAndFilter(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	one := first(machine1, 10)
	two := next(one)
	fork := next(one)
	fork.Generation = math.MaxUint64
	three := next(two)
	early := first(machine1, 2)
	for _, m := range []*Manifest{one, fork, two, early, three} {
		b.post(k, m)
	}
	wantList(t, b.list(k, ""), early, one, two, three, fork)
	wantList(t, b.list(k, "?root=false"), early, one, two, three, fork)
	wantList(t, b.list(k, "?root=true"), early, one)
	wantList(t, b.list(k, "?parent="+one.Hash().String()), two, fork)
	wantList(t, b.list(k, "?root=false&parent="+three.Hash().String()))
}

func TestServer_RefusesABodyThatNeverEnds(t *testing.T) {
	b := newBench(t, twoAccounts())
	k := newKey(t)
	b.want(tokenA, "POST", vol(k), nil, 200, "")
	r, w := io.Pipe()
	go func() {
		chunk := make([]byte, 32<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}()
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", b.url+vol(k)+"/snapshot", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tokenA)
	resp, err := noRedirects.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Error(resp.Status)
	}
}
