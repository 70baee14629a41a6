package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
)

// The program under test: with the race detector, and as users have it, which
// is what the large trees are for.
var raceBinary, plainBinary string

func TestMain(m *testing.M) { os.Exit(withBinary(m)) }

func withBinary(m *testing.M) int {
	dir, err := os.MkdirTemp("", "failover-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	plainBinary = filepath.Join(dir, "plain", "fractal-lazy")
	raceBinary = plainBinary
	// As the Makefile builds it, so that little has to be compiled again.
	build := func(to string, cgo string, flag string) error {
		cmd := exec.Command("go", "build", "-buildvcs=false", flag, "-o", to, "fractal-lazy")
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the program under test: %w\n%s", err, out)
		}
		return nil
	}
	err = build(plainBinary, "0", "-trimpath")
	if err == nil && os.Getenv("FRACTAL_RACE") != "0" {
		raceBinary = filepath.Join(dir, "race", "fractal-lazy")
		err = build(raceBinary, "1", "-race")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// limit is how long one test may take. Then its daemons are killed, which ends
// whatever waits for one of their mounts.
const limit = 3 * time.Minute

// world is a Hive with a block store, and a folder for the devices of one test.
type world struct {
	t     *testing.T
	bin   string // the program
	dir   string
	token string
	hive  *kit.Process
	url   string
	addr  string
	logs  []string

	mu    sync.Mutex
	procs []*kit.Process // for the watchdog
}

func newWorld(t *testing.T) *world { t.Helper(); return newWorldOf(t, raceBinary) }

func newWorldOf(t *testing.T, bin string) *world {
	t.Helper()
	kit.NeedRoot(t)
	dir, err := os.MkdirTemp("", "failover-") // short: sockets have at most 107 bytes
	kit.Must(t, err)
	w := &world{t: t, bin: bin, dir: dir, token: uuid.NewString()}
	t.Cleanup(w.close)
	w.startHive()
	watchdog := time.AfterFunc(limit, func() {
		t.Errorf("not done after %v: the daemons are killed", limit)
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range w.procs {
			p.Kill9()
		}
	})
	t.Cleanup(func() { watchdog.Stop() })
	return w
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

// close runs after the devices are gone.
func (w *world) close() {
	t := w.t
	w.stop(w.hive)
	for _, l := range w.logs {
		b, err := os.ReadFile(l)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, bad := range []string{"WARNING: DATA RACE", "panic:", "fatal error:", `"panic":`, "mistake in the program"} {
			if i := strings.Index(string(b), bad); i >= 0 {
				t.Errorf("%s says %s:\n%s", filepath.Base(l), bad, b[i:min(len(b), i+6000)])
			}
		}
		if t.Failed() {
			t.Logf("the end of %s:\n%s", filepath.Base(l), b[max(0, len(b)-3000):])
		}
	}
	kit.NoLeaks(t, w.dir)
	if err := os.RemoveAll(w.dir); err != nil {
		t.Error(err)
	}
}

// stop ends a process kindly; one that was killed before stays dead.
func (w *world) stop(p *kit.Process) {
	if p == nil {
		return
	}
	select {
	case <-p.Done():
		return
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Term(ctx); err != nil {
		w.t.Error(err)
	}
}

func (w *world) start(log string, env []string, args ...string) *kit.Process {
	w.t.Helper()
	log = w.path(log)
	p, err := kit.Start(kit.ProcessOptions{Path: w.bin, Args: args, Env: env, Log: log})
	kit.Must(w.t, err)
	w.mu.Lock()
	w.procs = append(w.procs, p)
	w.mu.Unlock()
	for _, l := range w.logs {
		if l == log {
			return p
		}
	}
	w.logs = append(w.logs, log)
	return p
}

func (w *world) startHive() {
	w.t.Helper()
	if w.addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		kit.Must(w.t, err)
		w.addr = l.Addr().String()
		kit.Must(w.t, l.Close())
		w.url = "http://" + w.addr
	}
	w.hive = w.start("hive.log", nil, "hive", "--listen", w.addr, "--data", w.path("hive"))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	kit.Must(w.t, w.hive.WaitHealthy(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/health", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	}))
}

// relay is a link to the Hive and the block store.
func (w *world) relay(link kit.Link) *kit.Relay {
	w.t.Helper()
	r, err := kit.NewRelay(w.addr, link)
	kit.Must(w.t, err)
	w.t.Cleanup(func() { kit.Must(w.t, r.Close()) })
	return r
}

// client asks the Hive without any device between.
func (w *world) client() *hive.Client {
	w.t.Helper()
	c, err := hive.NewClient(w.url, w.token, nil)
	kit.Must(w.t, err)
	return c
}

// writer is who holds the volume, as the Hive says; "" is nobody.
func (w *world) writer(pubkey string) string {
	w.t.Helper()
	p, err := seal.ParsePubkey(pubkey)
	kit.Must(w.t, err)
	v, err := w.client().Volume(w.t.Context(), p)
	kit.Must(w.t, err)
	if v.Writer == nil {
		return ""
	}
	return v.Writer.String()
}

// newest is the newest manifest that the Hive has.
func (w *world) newest(pubkey string) *hive.Manifest {
	w.t.Helper()
	p, err := seal.ParsePubkey(pubkey)
	kit.Must(w.t, err)
	m, err := w.client().Latest(w.t.Context(), p)
	kit.Must(w.t, err)
	return m
}
