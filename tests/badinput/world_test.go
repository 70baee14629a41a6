package badinput

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
	"fractal-lazy/store/ipfs"
	"fractal-lazy/volume"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// pool is where every machine of every test has its folder: making a BTRFS for each would take longer than the tests.
var pool string

func TestMain(m *testing.M) { os.Exit(withPool(m)) }

func withPool(m *testing.M) int {
	dir, err := os.MkdirTemp("", "badinput")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// This process serves the mounts that it reads: a goroutine that waits for one of them in a way that the scheduler does not know of
	// (epoll_ctl) keeps its slot, so there have to be more slots than such goroutines.
	runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
	pool = filepath.Join(dir, "pool")
	if err := backing.CreateLoopPool(context.Background(), filepath.Join(dir, "pool.img"), pool, 4<<30); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and btrfs-progs:", err)
		return 1
	}
	code := m.Run()
	if err := unix.Unmount(pool, 0); err != nil {
		fmt.Fprintln(os.Stderr, "unmount the pool:", err)
		unix.Unmount(pool, unix.MNT_DETACH)
		return 1
	}
	return code
}

// world is a Hive and a block node, each behind a listener of its own with faults before it.
type world struct {
	t      *testing.T
	token  string
	blocks *faulty.Faults
	rpc    *gate // before the node's /api/v0
	api    *gate // before the Hive
	hive   *hive.Server
	hiveAt string
	nodeAt string
}

// fault looks at a request and returns what answers it in the server's place, nil where the server may.
type fault func(r *http.Request) http.HandlerFunc

// gate stands before a handler with a fault, or none.
type gate struct {
	next  http.Handler
	mu    sync.Mutex
	fault fault
	hits  atomic.Int32 // requests that the fault took
}

func (g *gate) set(f fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = f
	g.hits.Store(0)
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	f := g.fault
	g.mu.Unlock()
	if f != nil {
		if h := f(r); h != nil {
			g.hits.Add(1)
			h(w, r)
			return
		}
	}
	g.next.ServeHTTP(w, r)
}

// status answers everything with one status.
func status(code int) fault {
	return func(*http.Request) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "out of order", code) }
	}
}

// down ends the connection of every request: to the client that is a server that is not there.
func down(*http.Request) http.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
}

// hang keeps every request until the client gives up.
func hang(*http.Request) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, token: uuid.NewString(), blocks: &faulty.Faults{}}
	srv, err := hive.NewServer(filepath.Join(t.TempDir(), "hive.db"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.hive = srv
	w.api = &gate{next: srv.Handler()}
	hs := httptest.NewServer(w.api)
	authorized := func(r *http.Request) bool { _, ok := hive.Tokens(nil).Account(r); return ok }
	node, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: filepath.Join(t.TempDir(), "ipfs"), Authorized: authorized})
	if err != nil {
		t.Fatal(err)
	}
	w.rpc = &gate{next: node.Handler()}
	gateway := w.blocks.Handler(node.Handler())
	ns := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			w.rpc.ServeHTTP(rw, r)
			return
		}
		gateway.ServeHTTP(rw, r)
	}))
	w.hiveAt, w.nodeAt = hs.URL, ns.URL
	t.Cleanup(func() {
		w.blocks.LiftAll()
		hs.Close()
		ns.Close()
		if err := errors.Join(srv.Close(), node.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) client() *hive.Client {
	w.t.Helper()
	c, err := hive.NewClient(w.hiveAt, w.token, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) store() store.Store {
	w.t.Helper()
	s, err := ipfs.NewClient(ipfs.Options{RPC: w.nodeAt, Token: w.token})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// machine is a driver with its own identity, state and connections.
type machine struct {
	*volume.Manager
	t   *testing.T
	log *logBuffer
	ids int
}

func (w *world) machine(t *testing.T) *machine {
	t.Helper()
	root := filepath.Join(pool, uuid.NewString())
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	m, err := volume.Open(context.Background(), volume.Deps{Store: w.store(), Hive: w.client(), Log: zerolog.New(log)},
		volume.Options{Root: root, Interval: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- m.Run(ctx) }()
	t.Cleanup(func() {
		w.blocks.LiftAll() // a reader that waits would keep the mount
		w.rpc.set(nil)
		w.api.set(nil)
		stop, done := context.WithTimeout(context.Background(), 60*time.Second)
		defer done()
		if err := m.Close(stop); err != nil {
			t.Errorf("close: %v", err)
		}
		cancel()
		<-ran
		if t.Failed() {
			t.Logf("log of %s:\n%s", root, log.String())
		}
		if strings.Contains(log.String(), w.token) {
			t.Error("the token is in the log")
		}
	})
	return &machine{Manager: m, t: t, log: log}
}

// mount creates the volume where it is not known yet, and mounts it.
func (m *machine) mount(name string, opts map[string]string) string {
	m.t.Helper()
	path, err := m.tryMount(name, opts)
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) tryMount(name string, opts map[string]string) (string, error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := m.Create(ctx, name, opts); err != nil {
		m.t.Fatal(err)
	}
	m.ids++
	path, err := m.Mount(ctx, name, fmt.Sprint("id", m.ids))
	if err == nil {
		err = refusePoll(path)
	}
	return path, err
}

// refusePoll has the kernel learn that the mount knows no POLL: os.Open asks for it by epoll_ctl, see withPool. go-fuse
// answers to this name.
func refusePoll(path string) error {
	fd, err := unix.Open(filepath.Join(path, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err
}

// flush publishes the state of the volume.
func (m *machine) flush(name string) volume.SnapshotInfo {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := m.Flush(ctx, name, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// handOver unmounts and waits until others may have the volume.
func (m *machine) handOver(name string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for i := range m.ids {
		// ErrBusy: it goes on in the background, and WaitReleased waits for it.
		if err := m.Unmount(ctx, name, fmt.Sprint("id", i+1)); err != nil && !errors.Is(err, volume.ErrBusy) {
			m.t.Fatal(err)
		}
	}
	if err := m.WaitReleased(ctx, name); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) key(name string) seal.Privkey {
	m.t.Helper()
	text, err := m.KeyExport(name)
	if err != nil {
		m.t.Fatal(err)
	}
	k, err := seal.ParsePrivkey(text)
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

// logBuffer is where a machine logs to.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*logBuffer)(nil)

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// has tells whether one line has all the words.
func (l *logBuffer) has(words ...string) bool {
	for line := range strings.Lines(l.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

// files is what machine A leaves: one file that is a block of its own and more, and small ones that share one.
func files(seed uint64) map[string][]byte {
	r := rand.NewChaCha8([32]byte{byte(seed)})
	random := func(n int) []byte { b := make([]byte, n); r.Read(b); return b }
	out := map[string][]byte{"big": random(1<<20 + 4321), "dir/big": random(300 << 10)}
	for i := range 8 {
		out[fmt.Sprintf("dir/small%d", i)] = random(5000 + i)
	}
	return out
}

func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// read reads a file and checks that what came, up to an error too, is right. The error is nil or EIO.
func read(t *testing.T, dir, name string, want []byte) error {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if !bytes.HasPrefix(want, b) {
		t.Fatalf("%s: WRONG BYTES were served", name)
	}
	if err == nil && len(b) != len(want) {
		t.Fatalf("%s: %d bytes instead of %d were served as all", name, len(b), len(want))
	}
	if err != nil && !errors.Is(err, syscall.EIO) {
		t.Fatalf("%s: %v, want EIO", name, err)
	}
	return err
}

// readAll checks every file, and that there are no others.
func readAll(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	for name, data := range want {
		if err := read(t, dir, name, data); err != nil {
			t.Errorf("%s (%x): %v", name, sha256.Sum256(data), err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if rel, _ := filepath.Rel(dir, path); want[rel] == nil {
			t.Errorf("%s was never written", rel)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// heal is readAll after a fault is gone: for as long as the driver pauses between two tries a reader with a short
// time-out may still get EIO.
func heal(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	end := time.Now().Add(15 * time.Second)
	for name, data := range want {
		for read(t, dir, name, data) != nil && time.Now().Before(end) {
			time.Sleep(50 * time.Millisecond)
		}
	}
	readAll(t, dir, want)
}

// published is a volume that machine A wrote, published and handed over.
type published struct {
	key   seal.Privkey
	text  string
	root  string // CID
	files map[string][]byte
}

func (w *world) publish(t *testing.T, seed uint64) published {
	t.Helper()
	a := w.machine(t)
	p := published{files: files(seed)}
	write(t, a.mount("vol", nil), p.files)
	p.root = a.flush("vol").Root
	p.key = a.key("vol")
	p.text = p.key.Reveal()
	a.handOver("vol")
	return p
}

// options of the machine that fails over: nothing is fetched that nobody asks for.
func (p published) options(timeout string) map[string]string {
	return map[string]string{"privkey": p.text, "prefetch": "none", "fetch-timeout": timeout, "takeover": "always"}
}
