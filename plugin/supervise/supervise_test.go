package supervise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// asEnv makes the test's binary a supervisor or a worker.
const asEnv = "SUPERVISE_TEST_AS"

func TestMain(m *testing.M) {
	as := os.Getenv(asEnv)
	if os.Getenv(envCarry) != "" {
		as = "supervisor" // the same program, which takes over
	}
	switch as {
	case "":
		os.Exit(m.Run())
	case "signalled":
		os.Exit(becomeSignalled())
	case "caller":
		os.Exit(call())
	case "supervisor":
		if os.Getenv(envRehearsal) != "" && os.Getenv("SUPERVISE_TEST_UNABLE") != "" {
			fmt.Fprintln(os.Stderr, "unable")
			os.Exit(1)
		}
		os.Setenv(asEnv, os.Getenv("SUPERVISE_TEST_WORKER"))
		if os.Getenv("SUPERVISE_TEST_SUBREAPER") != "" {
			_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		}
		hold, _ := time.ParseDuration(os.Getenv("SUPERVISE_TEST_HOLD"))
		path, _ := os.Executable()
		if p := os.Getenv("SUPERVISE_TEST_PATH"); p != "" {
			path = p
		}
		code, err := Run(Options{Hold: hold, Holder: os.Getenv("SUPERVISE_TEST_HOLDER"), Log: zerolog.New(os.Stderr), path: path})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	if err := work(os.Getenv(asEnv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// work is a worker: it tells on standard output who it is and what was kept, and has a pipe and a count kept.
func work(how string) error {
	if how == "refuse" {
		return fmt.Errorf("cannot begin")
	}
	k, err := Attach()
	if err != nil || k == nil {
		return fmt.Errorf("attach: %v, %v", k, err)
	}
	if os.Getenv("SUPERVISE_TEST_CLOSED") != "" { // as the driver acts in the name of who asks
		runtime.LockOSThread()
		_, _ = unix.SetfsuidRetUid(1000)
		_, _ = unix.SetfsuidRetUid(0)
		runtime.UnlockOSThread()
	}
	n := 0
	var said []string
	for _, i := range k.Items() {
		if i.Key == "count" {
			n, _ = strconv.Atoi(string(i.Data))
		}
		said = append(said, fmt.Sprintf("%s=%s/%d", i.Key, i.Data, len(i.Files)))
		if len(i.Files) == 1 {
			fmt.Fprintf(i.Files[0], "%d ", os.Getpid())
		}
	}
	if n > 0 && how == "once" {
		fmt.Printf("broken %d\n", os.Getpid())
		os.Exit(2)
	}
	if how == "idle" { // has nothing kept
		if err := k.Ready(); err != nil {
			return err
		}
		fmt.Printf("ready %d %s\n", os.Getpid(), strings.Join(said, " "))
		select {}
	}
	if n == 0 {
		f, err := os.OpenFile(os.Getenv("SUPERVISE_TEST_FILE"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		if err := k.Put(Item{Key: "file", Files: []*os.File{f}, Blocks: true}); err != nil {
			return err
		}
		if err := k.Put(Item{Key: "gone"}); err != nil {
			return err
		}
		if err := k.Drop("gone"); err != nil {
			return err
		}
	}
	if err := k.Put(Item{Key: "count", Data: []byte(strconv.Itoa(n + 1))}); err != nil {
		return err
	}
	if how == "orphan" {
		// What this starts belongs to the supervisor in the end, where that reaps for others.
		cmd := exec.Command("sh", "-c", "sleep 0.05 >/dev/null 2>&1 & echo orphan $!")
		cmd.Stdout = os.Stdout
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	if err := k.Ready(); err != nil {
		return err
	}
	fmt.Printf("ready %d %s\n", os.Getpid(), strings.Join(said, " "))
	for n := 0; how == "busy" && n < maxItems-100; n++ {
		// Each has a key of its own: a message that is lost shows.
		if err := k.Put(Item{Key: fmt.Sprintf("busy%d", n), Data: []byte(strconv.Itoa(os.Getpid()))}); err != nil {
			return err
		}
		time.Sleep(200 * time.Microsecond)
		if _, err := os.Stat(os.Getenv("SUPERVISE_TEST_FILE") + ".stop"); err == nil {
			fmt.Printf("stopped %d %d\n", os.Getpid(), n+1)
			break
		}
	}
	select {}
}

type run struct {
	t    *testing.T
	cmd  *exec.Cmd
	file string
	mu   sync.Mutex
	out  bytes.Buffer
	errs bytes.Buffer
	done chan struct{}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func start(t *testing.T, worker string, env ...string) *run {
	t.Helper()
	r := &run{t: t, file: filepath.Join(t.TempDir(), "file"), done: make(chan struct{})}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(exe)
	if slices.Contains(env, "SUPERVISE_TEST_CLOSED=1") {
		r.cmd = exec.Command("setpriv", "--bounding-set=-sys_ptrace", exe) // as in a plugin
	}
	r.cmd.Env = append(append(os.Environ(), asEnv+"=supervisor", "SUPERVISE_TEST_WORKER="+worker, "SUPERVISE_TEST_FILE="+r.file, "GORACE=atexit_sleep_ms=0"), env...)
	r.cmd.Stdout, r.cmd.Stderr = locked{&r.mu, &r.out}, locked{&r.mu, &r.errs}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.cmd.Wait(); close(r.done) }()
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("output:\n%s%s", r.text(&r.out), r.text(&r.errs))
		}
	})
	return r
}

func (r *run) text(b *bytes.Buffer) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return b.String()
}

// lines returns the lines of standard output that begin with word, as soon as there are n.
func (r *run) lines(word string, n int) (found []string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d times %q", n, word), func() bool {
		found = nil
		for line := range strings.Lines(r.text(&r.out)) {
			if strings.HasPrefix(line, word+" ") && strings.HasSuffix(line, "\n") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		return len(found) >= n
	})
	return found
}

func (r *run) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func pidOf(line string) int {
	n, _ := strconv.Atoi(strings.Fields(line)[1])
	return n
}

func TestRun_KilledWorkerIsReplacedByOneThatHasAll(t *testing.T) {
	r := start(t, "plain")
	for i := 1; i <= 5; i++ {
		line := r.lines("ready", i)[i-1]
		want := fmt.Sprintf("ready %d", pidOf(line))
		if i > 1 {
			want += fmt.Sprintf(" count=%d/0 file=/1", i-1)
		}
		if line != want {
			t.Errorf("worker %d says %q, want %q", i, line, want)
		}
		if err := syscall.Kill(pidOf(line), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.lines("ready", 6)
	b, err := os.ReadFile(r.file)
	if n := len(strings.Fields(string(b))); err != nil || n != 5 {
		t.Errorf("%d workers wrote through what was kept: %q, %v", n, b, err)
	}
	if n := strings.Count(r.text(&r.errs), "the worker died"); n != 5 {
		t.Errorf("%d deaths are in the log", n)
	}
}

func TestRun_EndsWithItsWorker(t *testing.T) {
	r := start(t, "plain")
	pid := pidOf(r.lines("ready", 1)[0])
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if code := r.cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("it ended with %d", code)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("its worker: %v", err)
	}
}

func TestRun_WorkerDiesWithTheSupervisor(t *testing.T) {
	r := start(t, "plain")
	pid := pidOf(r.lines("ready", 1)[0])
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.done
	r.until("the worker is gone", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ") // somebody else's to reap
	})
}

// What cannot begin at all says so, once.
func TestRun_FirstWorkerThatRefusesIsTheEnd(t *testing.T) {
	r := start(t, "refuse")
	<-r.done
	if code := r.cmd.ProcessState.ExitCode(); code != 1 || strings.Count(r.text(&r.errs), "cannot begin") != 1 {
		t.Errorf("it ended with %d", code)
	}
}

// After the hold time what blocks others is let go of, and what does not is kept.
func TestRun_GivesUpWhatBlocksWithoutAWorker(t *testing.T) {
	r := start(t, "once", "SUPERVISE_TEST_HOLD=4s")
	if err := syscall.Kill(pidOf(r.lines("ready", 1)[0]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("it is given up", func() bool { return strings.Contains(r.text(&r.errs), "mounts are given up") })
	n := len(r.lines("broken", 1))
	r.lines("broken", n+1) // it is still tried, with what is left
	r.until("a worker is told of one item", func() bool { return strings.Contains(r.text(&r.errs), `"items":1,`) })
}

// SIGHUP starts what is at the path now; if that does not work, what was there before.
func TestRun_UpgradesInPlace(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "program")
	install := func(from string) {
		t.Helper()
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", from, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	install(exe)
	r := start(t, "plain", "SUPERVISE_TEST_PATH="+path)
	r.lines("ready", 1)

	install(exe) // another file with the same content
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	r.cmd.Process.Signal(syscall.SIGHUP)
	var now unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pidOf(r.lines("ready", 2)[1])), &now); err != nil || now.Ino != st.Ino {
		t.Errorf("the new worker runs inode %d, want %d: %v", now.Ino, st.Ino, err)
	}
	// Known to the supervisor too, which goes on with the next.
	r.until("the upgrade is over", func() bool { return strings.Count(r.text(&r.errs), "worker is ready") == 2 })

	install("/bin/false")
	r.cmd.Process.Signal(syscall.SIGHUP)
	line := r.lines("ready", 3)[2]
	if !strings.Contains(line, "count=2/0 file=/1") {
		t.Errorf("after a failed upgrade: %q", line)
	}
	if s := r.text(&r.errs); !strings.Contains(s, "going on with the one of before") {
		t.Error("the log does not say that the upgrade failed")
	}
}

func TestRun_ReapsWhatOthersLeave(t *testing.T) {
	// Not PID 1 here, so it is made the one that orphans come to.
	r := start(t, "orphan", "SUPERVISE_TEST_SUBREAPER=1")
	orphan := pidOf(r.lines("orphan", 1)[0])
	r.until("the orphan is reaped", func() bool { return syscall.Kill(orphan, 0) == syscall.ESRCH })
}

func FuzzDecode(f *testing.F) {
	for _, m := range golden {
		b, _ := json.Marshal(m)
		f.Add(b)
	}
	f.Add([]byte(`{"kind":"hello","protocol":1,"count":3}`))
	f.Add([]byte(`{"kind":"item","key":"` + strings.Repeat("k", 600) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err == nil && (m.Kind == "" || len(m.Key) > maxKey || len(m.Data) > MaxData || m.Count < 0) {
			t.Errorf("%+v was let through", m)
		}
	})
}

func TestSend_RefusesWhatIsTooMuch(t *testing.T) {
	k := &Keep{fd: -1}
	for _, i := range []Item{{}, {Key: strings.Repeat("k", maxKey+1)}, {Key: "k", Data: make([]byte, MaxData+1)}, {Key: "k", Files: make([]*os.File, maxFDs+1)}} {
		if err := k.Put(i); err == nil {
			t.Errorf("%d bytes of key, %d of data, %d files: sent", len(i.Key), len(i.Data), len(i.Files))
		}
	}
}

func TestKeep_WithoutSupervisorKeepsNothing(t *testing.T) {
	k, err := Attach()
	if k != nil || err != nil {
		t.Fatalf("%v, %v", k, err)
	}
	if err := k.Put(Item{Key: "k"}); err != nil || k.Items() != nil || k.Drop("k") != nil || k.Ready() != nil {
		t.Errorf("%v", err)
	}
}
