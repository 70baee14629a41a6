package ipfs

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

// postFiles posts files to a command and returns status and body.
func postFiles(t *testing.T, base, path string, files ...[]byte) (int, string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for i, f := range files {
		w, err := form.CreateFormFile("file", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		w.Write(f)
	}
	form.Close()
	req, err := http.NewRequest(http.MethodPost, base+"/api/v0/"+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	req.Header.Set("Authorization", "Bearer "+testToken)
	return do(t, req)
}

func get(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func carOf(t *testing.T, root cid.Cid, blocks ...store.Block) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := store.WriteCARHeader(&out, root); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if err := store.WriteCARBlock(&out, b); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// What the client writes, another implementation reads.
func TestCAR_IsReadByGoCAR(t *testing.T) {
	leaf := storetest.Block("leaf", 300)
	root := storetest.Node("root", leaf.CID)
	r, err := car.NewBlockReader(bytes.NewReader(carOf(t, root.CID, leaf, root)))
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != 1 || len(r.Roots) != 1 || !r.Roots[0].Equals(root.CID) {
		t.Errorf("version %d, roots %v", r.Version, r.Roots)
	}
	for _, want := range []store.Block{leaf, root} {
		b, err := r.Next()
		if err != nil || !b.Cid().Equals(want.CID) || !bytes.Equal(b.RawData(), want.Data) {
			t.Fatalf("%v, %v", b, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("error is %v", err)
	}
}

func TestRPC_AnswersPOSTOnly(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	if code, text := get(t, srv.URL+"/api/v0/version", "Authorization", "Bearer "+testToken); code != 405 {
		t.Errorf("%d %s", code, text)
	}
	if code, text := get(t, srv.URL+"/api/v0/version"); code != 403 {
		t.Errorf("%d %s", code, text)
	}
}

func TestRPC_DagImportPinsRoots(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	leaf, missing := storetest.Block("leaf", 300), storetest.Block("missing", 300)
	whole, hole := storetest.Node("whole", leaf.CID), storetest.Node("hole", missing.CID)
	code, text := postFiles(t, srv.URL, "dag/import?stats=true",
		carOf(t, whole.CID, leaf, whole), carOf(t, hole.CID, hole))
	if code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	want := fmt.Sprintf(`{"Root":{"Cid":{"/":"%s"},"PinErrorMsg":""}}
{"Root":{"Cid":{"/":"%s"},"PinErrorMsg":"pin: block was not found locally (offline): ipld: could not find %s"}}
{"Stats":{"BlockCount":3,"BlockBytesCount":%d}}
`, whole.CID, hole.CID, missing.CID, len(leaf.Data)+len(whole.Data)+len(hole.Data))
	if text != want {
		t.Errorf("answer\n%swant\n%s", text, want)
	}
	s := openClient(t, Options{RPC: srv.URL})
	for root, want := range map[cid.Cid]bool{whole.CID: true, hole.CID: false} {
		if pinned, err := s.Pinned(t.Context(), root); err != nil || pinned != want {
			t.Errorf("pinned %s: %v, %v", root, pinned, err)
		}
	}
}

func TestRPC_DagImportRefusesBadCARs(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	a, b := storetest.Block("a", 300), storetest.Block("b", 300)
	good := carOf(t, a.CID, a)
	foreign := func(code uint64, length int) store.Block {
		mh, err := multihash.Sum(b.Data, code, length)
		if err != nil {
			t.Fatal(err)
		}
		return store.Block{CID: cid.NewCidV1(cid.Raw, mh), Data: b.Data}
	}
	big := storetest.Block("big", maxBlockPut+1)
	badNode := store.Block{CID: store.Sum(store.DagCBOR, []byte{0xff}), Data: []byte{0xff}}
	for name, c := range map[string]struct {
		car  []byte
		want string
	}{
		"empty":            {nil, "import failed"},
		"no CAR":           {[]byte("hello, this is no CAR"), "import failed"},
		"endless header":   {append([]byte{0xff, 0xff, 0xff, 0x7f}, make([]byte, 1000)...), "import failed"},
		"truncated":        {good[:len(good)-1], "unexpected EOF"},
		"trailing garbage": {append(bytes.Clone(good), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), "import failed after block"},
		"wrong bytes":      {carOf(t, a.CID, store.Block{CID: a.CID, Data: b.Data}), "mismatch in content integrity"},
		"too large":        {carOf(t, a.CID, big), "produced block is over 2MiB"},
		"identity":         {carOf(t, a.CID, foreign(multihash.IDENTITY, -1)), "is not a CIDv1 of SHA-256"},
		"sha1":             {carOf(t, a.CID, foreign(multihash.SHA1, -1)), "is not a CIDv1 of SHA-256"},
		"short hash":       {carOf(t, a.CID, foreign(multihash.SHA2_256, 8)), "is not a CIDv1 of SHA-256"},
		"no dag-cbor":      {carOf(t, a.CID, badNode), "decode"},
	} {
		if code, text := postFiles(t, srv.URL, "dag/import?pin-roots=false", c.car); code != 500 || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if code, text := postFiles(t, srv.URL, "dag/import"); code != 400 {
		t.Errorf("no file: %d %s", code, text)
	}
	if got := post(t, srv.URL, "dag/import"); !strings.HasPrefix(got, "400 ") {
		t.Errorf("no form: %s", got)
	}
}

func TestRPC_BlockPutAndGet(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	leaf := storetest.Block("leaf", 300)
	node := storetest.Node("node", leaf.CID)
	for _, c := range []struct {
		args string
		b    store.Block
	}{
		{"", leaf},
		{"?cid-codec=raw&mhtype=sha2-256&mhlen=-1&pin=true", leaf},
		{"?cid-codec=dag-cbor", node},
	} {
		code, text := postFiles(t, srv.URL, "block/put"+c.args, c.b.Data)
		if want := fmt.Sprintf(`{"Key":"%s","Size":%d}`+"\n", c.b.CID, len(c.b.Data)); code != 200 || text != want {
			t.Errorf("%s: %d %s", c.args, code, text)
		}
	}
	if pinned, err := openClient(t, Options{RPC: srv.URL}).Pinned(t.Context(), leaf.CID); err != nil || !pinned {
		t.Errorf("pinned: %v, %v", pinned, err)
	}
	for args, want := range map[string]int{
		"?cid-codec=dag-pb": 400, "?mhtype=sha1": 400, "?mhlen=20": 400, "?format=v0": 400, "?pin=maybe": 400, "?cid-codec=dag-cbor": 500,
	} {
		if code, text := postFiles(t, srv.URL, "block/put"+args, []byte{0xff}); code != want {
			t.Errorf("%s: %d %s", args, code, text)
		}
	}
	if code, text := postFiles(t, srv.URL, "block/put", make([]byte, maxBlockPut+1)); code != 500 || !strings.Contains(text, "over 2MiB") {
		t.Errorf("too large: %d %s", code, text)
	}
	if code, text := postFiles(t, srv.URL, "block/put", make([]byte, maxBlockPut)); code != 200 {
		t.Errorf("2 MiB: %d %s", code, text)
	}
}

func TestRPC_RefusesBadArguments(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	for _, path := range []string{
		"block/stat", "block/stat?arg=x", "block/stat?arg=bafkqaaa", "block/stat?arg=a&arg=b", "pin/add", "pin/update?arg=x",
		"block/stat?arg=QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn", "pin/ls?type=indirect", "repo/gc?force=perhaps", "pin/rm?%zz",
		"pin/rm?" + strings.Repeat("arg=x&", maxArgs+1),
	} {
		if got := post(t, srv.URL, path); !strings.HasPrefix(got, "400 application/json") || !strings.Contains(got, `\"Code\":1`) {
			t.Errorf("%.60s: %s", path, got)
		}
	}
}

func TestRPC_PinLsListsByType(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	leaf := storetest.Block("leaf", 300)
	root := storetest.Node("root", leaf.CID)
	s := openClient(t, Options{RPC: srv.URL})
	if err := s.PutMany(t.Context(), storetest.Seq(leaf, root)); err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(t.Context(), root.CID); err != nil {
		t.Fatal(err)
	}
	if got := post(t, srv.URL, "pin/add?recursive=false&arg=/ipfs/"+leaf.CID.String()); !strings.HasPrefix(got, "200") {
		t.Fatal(got)
	}
	for kind, want := range map[string][2]bool{"": {true, true}, "all": {true, true}, "recursive": {true, false}, "direct": {false, true}} {
		got := post(t, srv.URL, "pin/ls?type="+kind)
		if strings.Contains(got, root.CID.String()) != want[0] || strings.Contains(got, leaf.CID.String()) != want[1] {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

func TestRPC_TellsOfItself(t *testing.T) {
	n, srv := openNode(t, t.TempDir())
	if got := post(t, srv.URL, "id"); !strings.Contains(got, n.id) {
		t.Error(got)
	}
	if got := post(t, srv.URL, "version"); !strings.Contains(got, `\"Version\"`) {
		t.Error(got)
	}
	postFiles(t, srv.URL, "block/put", make([]byte, 1000))
	if got := post(t, srv.URL, "repo/stat"); !strings.Contains(got, `\"NumObjects\":1`) {
		t.Error(got)
	}
}

func TestGateway_GivesBlocksAndCARsOnly(t *testing.T) {
	_, srv := openNode(t, t.TempDir())
	leaf := storetest.Block("leaf", 300)
	root := storetest.Node("root", leaf.CID)
	s := openClient(t, Options{RPC: srv.URL})
	if err := s.PutMany(t.Context(), storetest.Seq(leaf, root)); err != nil {
		t.Fatal(err)
	}
	at := srv.URL + "/ipfs/" + root.CID.String()
	if code, text := get(t, at+"?format=raw"); code != 200 || text != string(root.Data) {
		t.Errorf("raw: %d", code)
	}
	if code, text := get(t, at, "Accept", "application/vnd.ipld.raw"); code != 200 || text != string(root.Data) {
		t.Errorf("raw by Accept: %d", code)
	}
	code, text := get(t, at+"?format=car")
	if code != 200 {
		t.Fatalf("car: %d %s", code, text)
	}
	r, err := car.NewBlockReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var seen []cid.Cid
	for b, err := r.Next(); err == nil; b, err = r.Next() {
		seen = append(seen, b.Cid())
	}
	if len(seen) != 2 || !seen[0].Equals(root.CID) || !seen[1].Equals(leaf.CID) {
		t.Errorf("car has %v", seen)
	}
	if code, _ := get(t, at); code != 406 {
		t.Errorf("deserialized: %d", code)
	}
	if code, _ := get(t, srv.URL+"/ipns/example.org?format=raw"); code != 404 {
		t.Errorf("ipns: %d", code)
	}
	if code, _ := get(t, srv.URL+"/ipfs/"+storetest.Block("none", 9).CID.String()+"?format=raw"); code != 404 {
		t.Errorf("missing: %d", code)
	}
}
