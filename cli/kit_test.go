package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/plugin/control"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// asProgram makes the test's own binary the program, for tests that need a process.
const asProgram = "FRACTAL_LAZY_TEST_AS_PROGRAM"

var testVersion = control.Version{Version: "v0.0.0-test", Commit: "0000000", Go: "go"}

// poolDir is a BTRFS in a file, one for all tests of the package.
var poolDir string

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(Main(context.Background(), IO{Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv, Version: testVersion}))
	}
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests mount file systems: run them as root")
		return 1
	}
	base, err := os.MkdirTemp("", "cli-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(base)
	p := backing.LoopPool{File: filepath.Join(base, "pool.img"), Dir: filepath.Join(base, "pool"), Size: max(1<<30, 6*uint64(*archiveMiB)<<20)}
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

// result of a command.
type result struct {
	code     int
	out, err string
}

// run runs one command in this process. env and in may be nil.
func run(env map[string]string, in io.Reader, args ...string) result {
	var out, errs bytes.Buffer
	if in == nil {
		in = strings.NewReader("")
	}
	code := Main(context.Background(), IO{Args: args, In: in, Out: &out, Err: &errs, Version: testVersion,
		Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	return result{code, out.String(), errs.String()}
}

func (r result) want(t *testing.T, code int, says ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nout: %s\nerr: %s", r.code, code, r.out, r.err)
	}
	for _, s := range says {
		if !strings.Contains(r.out+r.err, s) {
			t.Errorf("lacks %q\nout: %s\nerr: %s", s, r.out, r.err)
		}
	}
	return r
}

// decode reads the output as one JSON document.
func decode[T any](t *testing.T, r result) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(r.out))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("not JSON: %v: %s", err, r.out)
	}
	if d.More() {
		t.Errorf("more than one document: %s", r.out)
	}
	return v
}

// process is the program in a process of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
	errs bytes.Buffer
	done chan struct{}
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return startIn(t, nil, env, args...)
}

// startIn starts the program by way of a command that becomes it, such as unshare.
func startIn(t *testing.T, by []string, env []string, args ...string) *process {
	t.Helper()
	all := append(append(slices.Clone(by), os.Args[0]), args...)
	p := &process{t: t, cmd: exec.Command(all[0], all[1:]...), done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = lockedWriter{&p.mu, &p.out}, lockedWriter{&p.mu, &p.errs}
	must(t, p.cmd.Start())
	go func() { p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		if p.term() != 0 {
			t.Errorf("%v ended with %d", args, p.cmd.ProcessState.ExitCode())
		}
		if t.Failed() {
			t.Logf("%v: %s", args, p.stderr())
		}
	})
	return p
}

// term ends it with SIGTERM and returns its exit code; may be called again.
func (p *process) term() int {
	select {
	case <-p.done:
	default:
		p.cmd.Process.Signal(unix.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
		p.t.Error("it did not end with SIGTERM")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *process) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errs.String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// startHive returns the URL of a running hive.
func startHive(t *testing.T, args ...string) string {
	t.Helper()
	p := start(t, nil, append([]string{"hive", "--listen", "127.0.0.1:0", "--data", t.TempDir()}, args...)...)
	eventually(t, "the hive prints its URL", func() bool { return strings.HasSuffix(p.stdout(), "\n") })
	return strings.TrimSpace(p.stdout())
}

// device is a daemon with a root and a socket of its own.
type device struct {
	*process
	t            *testing.T
	root, socket string
	env, args    []string
	by           []string // the command that becomes the daemon; empty: none
}

func startDevice(t *testing.T, env []string, args ...string) *device {
	t.Helper()
	dir, err := os.MkdirTemp(poolDir, "d-")
	must(t, err)
	d := &device{t: t, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "s.sock"), env: env, args: args}
	must(t, os.Mkdir(d.root, 0o755))
	d.begin()
	return d
}

// startDeviceIn is startDevice by way of a command that becomes the daemon.
func startDeviceIn(t *testing.T, by []string, args ...string) *device {
	t.Helper()
	dir, err := os.MkdirTemp(poolDir, "d-")
	must(t, err)
	d := &device{t: t, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "s.sock"), by: by, args: args}
	must(t, os.Mkdir(d.root, 0o755))
	d.begin()
	return d
}

func (d *device) begin() {
	d.t.Helper()
	d.process = startIn(d.t, d.by, d.env, append([]string{"run", "--root", d.root, "--socket", d.socket}, d.args...)...)
	eventually(d.t, "the daemon listens", func() bool { return run(nil, nil, "--socket", d.socket, "status").code == ExitOK })
}

// restart ends the daemon in good order and starts it anew.
func (d *device) restart() {
	d.t.Helper()
	if code := d.term(); code != ExitOK {
		d.t.Fatalf("it ended with %d: %s", code, d.stderr())
	}
	d.begin()
}

// run runs a client command on the device.
func (d *device) run(args ...string) result {
	return run(map[string]string{"FRACTAL_SOCKET": d.socket}, nil, args...)
}

func newToken() string { return uuid.NewString() }
