package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
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
	"fractal-lazy/plugin/control"
	"fractal-lazy/store/memory"
	"fractal-lazy/volume"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// poolDir is a BTRFS in a file, one for all tests of the package.
var poolDir string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests mount file systems: run them as root")
		return 1
	}
	base, err := os.MkdirTemp("", "plugin-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(base)
	p := backing.LoopPool{File: filepath.Join(base, "pool.img"), Dir: filepath.Join(base, "pool"), Size: 1 << 30}
	if err := p.Create(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	poolDir = p.Dir
	code := m.Run()
	if err := unix.Unmount(p.Dir, 0); err != nil {
		fmt.Fprintln(os.Stderr, "unmount pool:", err)
		unix.Unmount(p.Dir, unix.MNT_DETACH)
		code = 1
	}
	return code
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// network is a Hive and a block store that several machines share.
type network struct {
	store *memory.Store
	hive  *hive.Client
	down  atomic.Bool // the Hive answers 503
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	srv, err := hive.NewServer(filepath.Join(t.TempDir(), "hive.db"), nil, nil)
	must(t, err)
	n := &network{store: memory.New()}
	h := srv.Handler()
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.down.Load() {
			http.Error(w, "unplugged", http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { hs.Close(); srv.Close() })
	n.hive, err = hive.NewClient(hs.URL, uuid.NewString(), nil)
	must(t, err)
	return n
}

// manager opens a Manager on a new root, and closes it with the test.
func (n *network) manager(t *testing.T) *volume.Manager {
	t.Helper()
	root, err := os.MkdirTemp(poolDir, "root-")
	must(t, err)
	m, err := volume.Open(context.Background(), volume.Deps{Store: n.store, Hive: n.hive}, volume.Options{Root: root, Interval: -1})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(context.Background()); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		<-done
	})
	return m
}

// served is a Server that runs, and clients of it.
type served struct {
	*Server
	t      *testing.T
	socket string
	client *control.Client
	log    *syncBuffer
	stop   func() error // ends it and waits; may be called again
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// serve runs a server with v, or with nothing yet where v is nil.
func serve(t *testing.T, v Volumes, opt Options) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock-") // t.TempDir has the test's name, and a socket's path is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	log := &syncBuffer{}
	opt.Log = zerolog.New(log)
	s := New(opt)
	x := &served{Server: s, t: t, socket: filepath.Join(dir, "run", "fractal.sock"), log: log}
	must(t, s.Listen(x.socket))
	x.client = control.NewClient(x.socket)
	if v != nil {
		s.SetBackend(v)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, 2*time.Second) }()
	x.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := x.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		x.client.Close()
	})
	return x
}

// docker calls one method of the volume plugin protocol as dockerd does. errText is the field Err of the answer.
func (x *served) docker(method string, in any, out any) (errText string) {
	x.t.Helper()
	errText, err := x.ask(method, in, out)
	must(x.t, err)
	return errText
}

// ask is docker for goroutines, which cannot end the test.
func (x *served) ask(method string, in any, out any) (errText string, err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", x.socket)
	}}}
	resp, err := hc.Post("http://plugin/"+method, "application/vnd.docker.plugins.v1.1+json", bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var e struct{ Err string }
	if err := json.Unmarshal(body, &e); err != nil {
		return "", err
	}
	if (resp.StatusCode != http.StatusOK) != (e.Err != "") {
		return "", fmt.Errorf("%s: status %d with Err %q", method, resp.StatusCode, e.Err)
	}
	if out != nil && e.Err == "" {
		err = json.Unmarshal(body, out)
	}
	return e.Err, err
}

type mountReply struct{ Mountpoint string }

func (x *served) mustDocker(method string, in, out any) {
	x.t.Helper()
	if e := x.docker(method, in, out); e != "" {
		x.t.Fatalf("%s: %s", method, e)
	}
}

type req struct {
	Name string
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

func wantErr(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if got == "" || !strings.Contains(got, p) {
			t.Errorf("error %q lacks %q", got, p)
		}
	}
}

// put and get touch a mount from another process. This one serves it: the Go runtime asks the kernel about every file that os opens (epoll_ctl), which for FUSE asks
// the server back, in a moment where the garbage collector cannot stop that thread.
func put(t *testing.T, path string, data []byte) {
	t.Helper()
	c := exec.Command("sh", "-c", `cat >"$0"`, path)
	c.Stdin = bytes.NewReader(data)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v: %s", path, err, out)
	}
}

func get(path string) ([]byte, error) { return exec.Command("cat", path).Output() }
