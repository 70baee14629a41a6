package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"
	"fractal-lazy/store/ipfs"
	"fractal-lazy/store/memory"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// world is a store, a Hive and one volume's key.
type world struct {
	t       testing.TB
	blocks  *memory.Store
	store   store.Store // blocks, or something around it
	server  *httptest.Server
	hive    *hive.Client
	token   string
	key     seal.Privkey
	machine uuid.UUID
	nodes   string
	now     time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db, err := hive.NewServer(filepath.Join(t.TempDir(), "hive.db"), nil, nil)
	check(t, err)
	server := httptest.NewServer(db.Handler())
	t.Cleanup(func() { server.Close(); check(t, db.Close()) })
	token := uuid.NewString()
	client, err := hive.NewClient(server.URL, token, nil)
	check(t, err)
	key, err := seal.GeneratePrivkey()
	check(t, err)
	check(t, client.Create(context.Background(), key.Public()))
	m := memory.New()
	return &world{t: t, blocks: m, store: m, server: server, hive: client, token: token, key: key, machine: uuid.New(),
		nodes: t.TempDir(), now: time.Unix(1_700_000_000, 0)}
}

// useNode makes an embedded IPFS node in dir, spoken to over HTTP, the store.
func (w *world) useNode(dir string) {
	w.t.Helper()
	node, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: dir})
	check(w.t, err)
	server := httptest.NewServer(node.Handler())
	w.t.Cleanup(func() { server.Close(); check(w.t, node.Close()) })
	w.store, err = ipfs.NewClient(ipfs.Options{RPC: server.URL})
	check(w.t, err)
}

func (w *world) publisher() *Publisher {
	return New(Deps{Store: w.store, Hive: w.hive, Nodes: w.nodes, Log: zerolog.New(zerolog.NewTestWriter(w.t))})
}

func (w *world) job(path string, base Base) Job {
	return Job{Volume: "test", Key: w.key, Machine: w.machine, Snapshot: path, Created: w.now, Base: base}
}

func (w *world) publish(path string, base Base) Result {
	w.t.Helper()
	r, err := w.publisher().Publish(context.Background(), w.job(path, base))
	check(w.t, err)
	return r
}

func (w *world) reader() *snapshot.Reader { return snapshot.NewReader(w.store, w.key.Sealer()) }

// entries returns all of a snapshot by path, the root as "/".
func (w *world) entries(root cid.Cid) map[string]wire.Entry {
	w.t.Helper()
	out := map[string]wire.Entry{}
	r := w.reader()
	top, err := r.Root(context.Background(), root)
	check(w.t, err)
	out["/"] = wire.Entry{Attr: top.Attr, Nlink: 1, Dir: &top.Dir}
	var walk func(path string, ref wire.DirRef)
	walk = func(path string, ref wire.DirRef) {
		last := ""
		for e, err := range r.Dir(context.Background(), ref) {
			check(w.t, err)
			if e.Name <= last {
				w.t.Fatalf("%s: %q stands behind %q", path, e.Name, last)
			}
			last = e.Name
			out[join(path, e.Name)] = e
			if e.Dir != nil {
				walk(join(path, e.Name), *e.Dir)
			}
		}
	}
	walk("/", top.Dir)
	return out
}

// read returns the bytes of a file of a snapshot, read with this package's own reader of contents.
func (w *world) read(e wire.Entry) []byte {
	w.t.Helper()
	if e.Content == nil {
		w.t.Fatalf("%s is no regular file", e.Name)
	}
	p := make([]byte, e.Content.Size)
	check(w.t, newRemote(w.reader(), e.Content).read(context.Background(), p, 0))
	return p
}

func (w *world) wantFile(root cid.Cid, path string, want []byte) {
	w.t.Helper()
	e, ok := w.entries(root)[path]
	if !ok {
		w.t.Fatalf("%s is not in the snapshot", path)
	}
	if got := w.read(e); !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		w.t.Fatalf("%s: %d bytes, want %d; they differ at %d", path, len(got), len(want), at)
	}
}

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	b := make([]byte, n)
	_, _ = src.Read(b)
	return b
}

func names(n int, f func(i int, name string)) {
	for i := range n {
		f(i, fmt.Sprintf("dir-%d/file-%03d", i%7, i))
	}
}

func cidOf(b []byte) [32]byte { return digest(store.Sum(store.Raw, b)) }

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}
