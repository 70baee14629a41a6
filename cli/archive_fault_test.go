package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// gate stands before a block node, and does something to the requests that count from one of them on.
type gate struct {
	url    string
	counts func(r *http.Request) bool

	mu    sync.Mutex
	seen  int
	from  int // the first request that is met; 0: none is
	meets func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

func newGate(t *testing.T, target string, counts func(r *http.Request) bool) *gate {
	t.Helper()
	u, err := url.Parse(target)
	must(t, err)
	g := &gate{counts: counts}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		if g.counts(r) {
			g.seen++
			if meets := g.meets; g.from > 0 && g.seen >= g.from {
				g.mu.Unlock()
				meets(w, r, proxy)
				return
			}
		}
		g.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL
	return g
}

// meet has f called from the n-th request on that counts from now; 0: no more.
func (g *gate) meet(n int, f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen, g.from, g.meets = 0, n, f
}

// passed is how many requests counted since meet.
func (g *gate) passed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

// refuse answers as a block store that goes away.
func refuse(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "going down", http.StatusServiceUnavailable)
}

// hold stops requests until the test ends, and says on reached that one is there.
func hold(t *testing.T) (meets func(http.ResponseWriter, *http.Request, http.Handler), reached <-chan struct{}) {
	at, open := make(chan struct{}), make(chan struct{})
	var once sync.Once
	t.Cleanup(func() { close(open) }) // before the server is closed, which waits for its requests
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		once.Do(func() { close(at) })
		select {
		case <-open:
		case <-r.Context().Done():
		}
	}, at
}

func isBlockRead(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/ipfs/")
}
func isBlockPut(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/v0/dag/import") }

// worker is the process of the daemon below its supervisor, which starts another one where it dies.
func (d *device) worker() (pid int) {
	d.t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.cmd.Process.Pid))
	must(d.t, err)
	var found []string
	for _, p := range threads {
		if b, err := os.ReadFile(p); err == nil { // threads end
			found = append(found, strings.Fields(string(b))...)
		}
	}
	if len(found) != 1 {
		d.t.Fatalf("the supervisor has the children %v", found)
	}
	pid, err = strconv.Atoi(found[0])
	must(d.t, err)
	return pid
}

func (d *device) killWorker() {
	d.t.Helper()
	must(d.t, unix.Kill(d.worker(), unix.SIGKILL))
}

// exporter is a device with a published volume db, of 24 MiB in some hundred blocks, of which an export reads up to 48 ahead, its block node behind a gate, and what an undisturbed export makes of it.
func exporter(t *testing.T) (a *device, g *gate, whole []byte, keyFile string) {
	t.Helper()
	url := startHive(t)
	g = newGate(t, url, isBlockRead)
	a = startDevice(t, nil, "--hive", url, "--ipfs", g.url, "--token", newToken(), "--interval", "off")
	a.run("volume", "create", "db", "-o", "compression=none").want(t, ExitOK)
	path := a.mounted(t, "db")
	must(t, os.WriteFile(filepath.Join(path, "big"), randomBytes(24<<20), 0o644))
	for n := range 50 {
		must(t, os.WriteFile(filepath.Join(path, fmt.Sprint("small", n)), randomBytes(1000+n), 0o644))
	}
	a.run("flush", "db").want(t, ExitOK)
	a.run("volume", "umount", "db").want(t, ExitOK)
	keyFile = filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(keyFile, []byte(a.run("key", "export", "db").want(t, ExitOK).out), 0o600))
	whole = []byte(a.run("export", "db", "-").want(t, ExitOK).out)
	return a, g, whole, keyFile
}

// background runs a command, whose result comes later.
func (d *device) background(args ...string) <-chan result {
	done := make(chan result, 1)
	go func() { done <- d.run(args...) }()
	return done
}

func wantNothing(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

func TestExport_DaemonKilledOrStoreGoneInTheMiddle(t *testing.T) {
	a, g, whole, _ := exporter(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "db.car")
	g.meet(0, nil)
	a.run("export", "db", file).want(t, ExitOK)
	blocks := g.passed()
	must(t, os.Remove(file))
	if blocks < 96 {
		t.Fatalf("an export reads %d blocks: too few to end it in the middle", blocks)
	}

	meets, reached := hold(t)
	g.meet(blocks*3/4, meets)
	done := a.background("export", "db", file)
	<-reached
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file has the final name: %v", err)
	}
	a.killWorker()
	(<-done).want(t, ExitUnreachable, "export of volume db", file, "stopped before it answered")
	wantNothing(t, dir)
	g.meet(0, nil)
	eventually(t, "the daemon is back", func() bool { return a.run("volume", "inspect", "db").code == ExitOK })
	a.run("export", "db", file).want(t, ExitOK)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("the export after it has %d bytes, want %d; %v", len(got), len(whole), err)
	}
	must(t, os.Remove(file))

	g.meet(blocks*9/10, refuse)
	a.run("export", "db", file).want(t, ExitNotReady, "export of volume db", "block store is unavailable")
	wantNothing(t, dir)
	g.meet(blocks*9/10, refuse)
	if r := a.run("export", "db", "-").want(t, ExitNotReady, "block store"); len(r.out) >= len(whole) || len(r.out) < 1<<20 {
		t.Errorf("%d bytes of %d came", len(r.out), len(whole))
	}
	g.meet(0, nil)
	a.run("export", "db", file).want(t, ExitOK)
}

// TestImport_KilledOrRefusedInTheMiddle ends imports in the ways that leave most behind, and looks that the Hive knows nothing of them and that the next one works.
func TestImport_KilledOrRefusedInTheMiddle(t *testing.T) {
	_, _, whole, keyFile := exporter(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "db.car")
	must(t, os.WriteFile(file, whole, 0o600))
	url := startHive(t)
	g := newGate(t, url, isBlockPut)
	b := startDevice(t, nil, "--hive", url, "--ipfs", g.url, "--token", newToken(), "--interval", "off")
	b.run("volume", "create", "db", "-o", "privkey-file="+keyFile).want(t, ExitOK)
	nothing := func(what string) {
		t.Helper()
		if all := decode[[]volume.SnapshotInfo](t, b.run("snapshots", "db", "--json").want(t, ExitOK)); len(all) != 0 {
			t.Errorf("%s: the Hive knows %+v", what, all)
		}
	}

	// The store has read half of the batch when the daemon dies.
	half := make(chan struct{})
	var once sync.Once
	g.meet(1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, int64(len(whole)/2))
		once.Do(func() { close(half) })
		_, _ = io.Copy(io.Discard, r.Body) // only who reads is told that the other end is gone
		<-r.Context().Done()
	})
	done := b.background("import", file, "db")
	<-half
	b.killWorker()
	(<-done).want(t, ExitUnreachable, "stopped before it answered")
	g.meet(0, nil)
	eventually(t, "the daemon is back", func() bool { return b.run("volume", "inspect", "db").code == ExitOK })
	nothing("killed")

	g.meet(1, refuse)
	b.run("import", file, "db").want(t, ExitNotReady, "import", "block store is unavailable")
	g.meet(0, nil)
	nothing("the store refused")

	// The last block cut off, one byte of it, and a bit of it: all before it was good.
	flip := bytes.Clone(whole)
	flip[len(flip)-1] ^= 1
	for what, bad := range map[string][]byte{"cut by a byte": whole[:len(whole)-1], "cut by some blocks": whole[:len(whole)-700_000], "nothing at all": nil, "a bit of the last block": flip} {
		must(t, os.WriteFile(filepath.Join(dir, "bad"), bad, 0o600))
		b.run("import", filepath.Join(dir, "bad"), "db").want(t, ExitDamaged, "import of", "db")
		nothing(what)
		r := runIn(b, bytes.NewReader(bad), "import", "-", "db")
		r.want(t, ExitDamaged)
		nothing(what + ", from standard input")
	}
	b.run("import", file, "db").want(t, ExitOK, "It is the newest")
	b.run("verify", "db", "--all").want(t, ExitOK, "ok: nothing is missing")
}

// runIn is device.run with standard input.
func runIn(d *device, in io.Reader, args ...string) result {
	return run(map[string]string{"FRACTAL_SOCKET": d.socket}, in, args...)
}

// TestExport_ThroughAPipeIntoAnotherMachine has the shell do it, as one does with ssh, with progress on a terminal.
func TestExport_ThroughAPipeIntoAnotherMachine(t *testing.T) {
	a, g, whole, keyFile := exporter(t)
	other := startHive(t)
	b := startDevice(t, nil, "--hive", other, "--ipfs", other, "--token", newToken(), "--interval", "off")
	dir := t.TempDir()
	pipe := func(tty *os.File, script string) (code int, text string) {
		t.Helper()
		c := exec.Command("bash", "-c", "set -o pipefail; "+script, "bash", os.Args[0], a.socket, b.socket, keyFile, dir)
		c.Env = append(os.Environ(), asProgram+"=1")
		var says bytes.Buffer
		c.Stdout, c.Stderr = &says, &says
		if tty != nil {
			c.Stderr = tty
		}
		err := c.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), says.String()
	}

	// A reader that goes away, and an export that ends early: the other end must not take what came for a whole file.
	if code, text := pipe(nil, `"$1" --socket "$2" export db - | head -c 100000 > "$5/head"`); code == 0 {
		t.Errorf("an export whose reader went away is said to have worked: %s", text)
	}
	g.meet(90, refuse)
	code, text := pipe(nil, `"$1" --socket "$2" export db - | "$1" --socket "$3" import - db -o privkey-file="$4"; echo "codes ${PIPESTATUS[*]}"`)
	if !strings.Contains(text, fmt.Sprintf("codes %d %d\n", ExitNotReady, ExitDamaged)) || !strings.Contains(text, "ends in the middle") || !strings.Contains(text, "block store is unavailable") {
		t.Errorf("%d: %s", code, text)
	}
	b.run("volume", "inspect", "db").want(t, ExitUnknown)

	// Slowly, so that there is progress to be shown.
	slow := make(chan struct{}, 1)
	g.meet(1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		slow <- struct{}{}
		unix.Nanosleep(&unix.Timespec{Nsec: 30e6}, nil)
		<-slow
		next.ServeHTTP(w, r)
	})
	master, tty := terminal(t)
	shown := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(master) // EIO, when the last one who has the terminal is gone
		shown <- string(b)
	}()
	code, text = pipe(tty, `"$1" --socket "$2" export db - | tee "$5/copy" | "$1" --socket "$3" import - db -o privkey-file="$4"`)
	must(t, tty.Close())
	bars := <-shown
	if code != 0 || !strings.Contains(text, "It is the newest") {
		t.Errorf("%d: %s%s", code, text, bars)
	}
	if !strings.Contains(bars, "exporting") {
		t.Errorf("no progress was shown: %q", bars)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "copy")); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d bytes went through the pipe, want %d; %v", len(got), len(whole), err)
	}
	b.run("verify", "db", "--all").want(t, ExitOK, "ok: nothing is missing")
}

// terminal returns both ends of one.
func terminal(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	return master, tty
}
