package volume

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/store/memory"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// pool is a BTRFS in a file, one for all tests of the package, made for the
// first that wants it: fuzzing wants none.
var pool struct {
	sync.Mutex
	base, dir string
}

func poolDir(t testing.TB) string {
	t.Helper()
	pool.Lock()
	defer pool.Unlock()
	if pool.dir != "" {
		return pool.dir
	}
	if os.Getuid() != 0 {
		t.Fatal("these tests mount file systems: run them as root")
	}
	base, err := os.MkdirTemp("", "volume-test-")
	must(t, err)
	p := backing.LoopPool{File: filepath.Join(base, "pool.img"), Dir: filepath.Join(base, "pool"), Size: 2 << 30}
	must(t, p.Create(context.Background()))
	pool.base, pool.dir = base, p.Dir
	return pool.dir
}

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		if env := os.Getenv(followEnv); env != "" {
			childFollows(root, env)
		}
		childDaemon(root)
	}
	code := m.Run()
	if pool.dir != "" {
		if err := unix.Unmount(pool.dir, 0); err != nil {
			fmt.Fprintln(os.Stderr, "unmount pool:", err)
			unix.Unmount(pool.dir, unix.MNT_DETACH)
			code = 1
		}
		os.RemoveAll(pool.base)
	}
	os.Exit(code)
}

// world is a Hive and a block store, which may be unplugged.
type world struct {
	t     *testing.T
	store *memory.Store
	url   string
	token string
	down  atomic.Bool                      // the Hive answers 503
	plain atomic.Bool                      // the Hive has the calls of the original API alone
	now   atomic.Pointer[func() time.Time] // of the Hive's answers; nil: the time that it is
	hive  *hive.Client
	dir   string // roots of the machines
}

func newWorld(t *testing.T) *world {
	t.Helper()
	srv, err := hive.NewServer(filepath.Join(t.TempDir(), "hive.db"), nil, nil)
	must(t, err)
	w := &world{t: t, store: memory.New(), token: uuid.NewString()}
	w.dir, err = os.MkdirTemp(poolDir(t), strings.ReplaceAll(t.Name(), "/", "_")+"-")
	must(t, err)
	t.Cleanup(func() { must(t, purge(w.dir)) })
	h := srv.Handler()
	hs := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.down.Load() {
			http.Error(rw, "unplugged", http.StatusServiceUnavailable)
			return
		}
		if now := w.now.Load(); now != nil {
			rw.Header().Set("Date", (*now)().UTC().Format(http.TimeFormat))
		}
		if w.plain.Load() && r.Method == http.MethodDelete {
			http.Error(rw, "no such call", http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() { hs.Close(); srv.Close() })
	w.url = hs.URL
	w.hive, err = hive.NewClient(w.url, w.token, nil)
	must(t, err)
	return w
}

// machine is a Manager that runs.
type machine struct {
	*Manager
	t    *testing.T
	w    *world
	root string
	stop context.CancelFunc
	done chan struct{}
	log  *logSink
	off  bool
}

// logSink keeps the log for tests that look into it, and shows it where one fails.
type logSink struct {
	t    *testing.T
	buf  chan string
	text atomic.Pointer[string]
}

func (l *logSink) Write(p []byte) (int, error) {
	for {
		old := l.text.Load()
		s := *old + string(p)
		if l.text.CompareAndSwap(old, &s) {
			return len(p), nil
		}
	}
}

func newSink(t *testing.T, name string) *logSink {
	l := &logSink{t: t}
	l.text.Store(new(string))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, *l.text.Load())
		}
	})
	return l
}

// machine opens a Manager on a root of its own. The same name opens the same root again.
func (w *world) machine(name string, change ...func(*Options, *Deps)) *machine {
	w.t.Helper()
	root := filepath.Join(w.dir, name)
	must(w.t, os.MkdirAll(root, 0o755))
	sink := newSink(w.t, name)
	d := Deps{Store: w.store, Hive: w.hive, Log: zerolog.New(sink)}
	o := Options{Root: root, Interval: -1}
	for _, c := range change {
		c(&o, &d)
	}
	m, err := Open(context.Background(), d, o)
	must(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	x := &machine{Manager: m, t: w.t, w: w, root: root, stop: stop, done: make(chan struct{}), log: sink}
	go func() {
		defer close(x.done)
		if err := m.Run(ctx); err != nil {
			w.t.Errorf("run: %v", err)
		}
	}()
	w.t.Cleanup(x.vanish)
	return x
}

// vanish ends the Manager without publishing or giving anything back.
func (x *machine) vanish() {
	if x.off {
		return
	}
	x.off = true
	x.stop()
	<-x.done
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := x.Close(gone); err != nil {
		x.t.Errorf("close: %v", err)
	}
}

func (x *machine) create(name string, opts ...string) {
	x.t.Helper()
	must(x.t, x.Create(ctx(x.t), name, kv(opts...)))
}

func (x *machine) mount(name, id string) string {
	x.t.Helper()
	path, err := x.Mount(ctx(x.t), name, id)
	must(x.t, err)
	return path
}

func (x *machine) unmount(name, id string) {
	x.t.Helper()
	must(x.t, x.Unmount(ctx(x.t), name, id))
}

func (x *machine) released(name string) {
	x.t.Helper()
	must(x.t, x.WaitReleased(ctx(x.t), name))
}

func (x *machine) flush(name string) SnapshotInfo {
	x.t.Helper()
	s, err := x.Flush(ctx(x.t), name, nil)
	must(x.t, err)
	return s
}

func (x *machine) key(name string) string {
	x.t.Helper()
	k, err := x.KeyExport(name)
	must(x.t, err)
	return k
}

func (x *machine) info(name string) Info {
	x.t.Helper()
	i, err := x.Get(name)
	must(x.t, err)
	return i
}

func (x *machine) eventually(what string, ok func() bool) {
	x.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("never happened: %s", what)
		}
	}
}

// writer returns the Hive's writer of a volume.
func (x *machine) writer(name string) *uuid.UUID {
	x.t.Helper()
	v, err := x.lookup(name)
	must(x.t, err)
	h, err := x.w.hive.Volume(ctx(x.t), v.pub)
	must(x.t, err)
	return h.Writer
}

func kv(opts ...string) map[string]string {
	m := map[string]string{}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	return m
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	t.Cleanup(cancel)
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Files below mount points are used by other processes only: one that serves
// a mount and dies with files open on it waits for itself.

func write(t testing.TB, path, text string) {
	t.Helper()
	shell(t, "printf %s \"$2\" > \"$1\"", path, text)
}

func wantFile(t testing.TB, path, text string) {
	t.Helper()
	if got := shell(t, `cat "$1"`, path); got != text {
		t.Fatalf("%s holds %q, want %q", path, got, text)
	}
}

// shell runs a script and returns what it prints.
func shell(t testing.TB, script string, args ...string) string {
	t.Helper()
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(limit, "sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", script, args, err, out)
	}
	return string(out)
}

// key2 is the key of a volume of a machine that vanished.
func (x *machine) key2(name string) string {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.vols[name].key.Reveal()
}

// bindPool puts a part of the pool onto dir, as if it were mounted late.
func (w *world) bindPool(t *testing.T, dir string) {
	t.Helper()
	src := filepath.Join(w.dir, "late")
	must(t, os.MkdirAll(src, 0o755))
	must(t, unix.Mount(src, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}
