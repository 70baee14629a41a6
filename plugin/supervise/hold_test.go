package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// holding is a Hold in this process.
type holding struct {
	t      *testing.T
	socket string
	cancel context.CancelFunc
	done   chan error
	mu     sync.Mutex
	out    bytes.Buffer
}

func hold(t *testing.T, socket string, limit time.Duration) *holding {
	t.Helper()
	h := &holding{t: t, socket: socket, done: make(chan error, 1)}
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(context.Background())
	go func() {
		h.done <- Hold(ctx, HoldOptions{Socket: socket, Limit: limit, Log: zerolog.New(locked{&h.mu, &h.out})})
	}()
	t.Cleanup(func() {
		h.end()
		if t.Failed() {
			t.Logf("holder:\n%s", h.log())
		}
	})
	h.says("holding mounts", 1)
	return h
}

func (h *holding) end() {
	h.t.Helper()
	h.cancel()
	select {
	case err := <-h.done:
		if err != nil {
			h.t.Error(err)
		}
		h.done <- nil
	case <-time.After(30 * time.Second):
		h.t.Error("the holder does not end")
	}
}

func (h *holding) log() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.out.String()
}

func (h *holding) says(words string, n int) {
	h.t.Helper()
	until(h.t, fmt.Sprintf("the holder says %d times %q", n, words), func() bool { return strings.Count(h.log(), words) >= n })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	(&run{t: t}).until(what, ok)
}

func socketIn(t *testing.T) string { return filepath.Join(t.TempDir(), "holder", "socket") }

// A supervisor that is killed leaves what blocks others to the next one, and nothing else.
func TestHold_NextSupervisorHasWhatBlocksOthers(t *testing.T) {
	socket := socketIn(t)
	h := hold(t, socket, time.Minute)
	r := start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
	r.lines("ready", 1)
	h.says("is served", 1)
	for i := range 3 {
		r.cmd.Process.Kill()
		<-r.done
		r = start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
		// The count is not among them: it blocks nobody.
		if line := r.lines("ready", 1)[0]; !strings.HasSuffix(line, " file=/1") {
			t.Fatalf("supervisor %d: the worker says %q", i+2, line)
		}
		h.says("is served", i+2)
	}
}

// What is dropped, or replaced, is so at the holder, too.
func TestHold_FollowsTheSupervisor(t *testing.T) {
	socket := socketIn(t)
	hold(t, socket, time.Minute)
	r := start(t, "once", "SUPERVISE_TEST_HOLDER="+socket, "SUPERVISE_TEST_HOLD=4s")
	if err := syscall.Kill(pidOf(r.lines("ready", 1)[0]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.until("it is given up", func() bool { return strings.Contains(r.text(&r.errs), "mounts are given up") })
	r.cmd.Process.Kill()
	<-r.done
	l, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if len(l.items) != 0 {
		t.Errorf("the holder still has %d items", len(l.items))
	}
}

// A holder that comes, or comes back, is told everything; one that is not there keeps nobody waiting.
func TestHold_HolderThatComesBackIsToldAgain(t *testing.T) {
	socket := socketIn(t)
	r := start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
	r.lines("ready", 1)
	for i := range 2 {
		h := hold(t, socket, time.Minute)
		h.says("is served", 1)
		h.end()
		r.until("the supervisor notices", func() bool { return strings.Count(r.text(&r.errs), "the holder is gone") > i })
	}
	h := hold(t, socket, time.Minute)
	h.says("is served", 1)
	r.cmd.Process.Kill()
	<-r.done
	r = start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
	if line := r.lines("ready", 1)[0]; !strings.HasSuffix(line, " file=/1") {
		t.Errorf("the worker says %q", line)
	}
}

// A supervisor that begins while another one has the holder goes on alone; when it gets what that one left, its worker is told.
func TestHold_SupervisorThatHadToWaitTakesOver(t *testing.T) {
	socket := socketIn(t)
	hold(t, socket, time.Minute)
	one := start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
	one.lines("ready", 1)
	two := start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
	two.lines("ready", 1)
	one.cmd.Process.Kill()
	<-one.done
	// Its own is newer than the other's of the same key, so there is nothing that its worker has to learn.
	two.until("it has the holder", func() bool { return strings.Contains(two.text(&two.errs), `"took":0`) })
	if n := len(two.lines("ready", 1)); n != 1 {
		t.Errorf("%d workers", n)
	}

	three := start(t, "idle", "SUPERVISE_TEST_HOLDER="+socket)
	three.lines("ready", 1)
	two.cmd.Process.Kill()
	<-two.done
	three.until("it has the holder", func() bool { return strings.Contains(three.text(&three.errs), `"took":1`) })
	if line := three.lines("ready", 2)[1]; !strings.HasSuffix(line, " file=/1") {
		t.Errorf("the worker says %q", line)
	}
}

func TestHold_LimitLetsGo(t *testing.T) {
	socket := socketIn(t)
	h := hold(t, socket, 300*time.Millisecond)
	a, b, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	l, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(l.fd, message{Kind: kindPut, Key: "k", Blocks: true}, []*os.File{b}); err != nil {
		t.Fatal(err)
	}
	if err := send(l.fd, message{Kind: kindReady}, nil); err != nil {
		t.Fatal(err)
	}
	b.Close()
	h.says("is served", 1)
	time.Sleep(time.Second) // longer than the limit, with a supervisor
	if strings.Contains(h.log(), "given up") {
		t.Error("given up although it is served")
	}
	l.close()
	h.says("given up", 1)
	if n, err := a.Read(make([]byte, 1)); n != 0 || err == nil { // the end: nobody has the other one
		t.Errorf("read %d, %v", n, err)
	}
	if l, err = dial(socket); err != nil || len(l.items) != 0 {
		t.Fatalf("after the limit: %v, %v", l, err)
	}
	l.close()
}

// One that never says that it serves what it was given keeps it from nobody.
func TestHold_LimitHoldsForASupervisorThatNeverGetsReady(t *testing.T) {
	socket := socketIn(t)
	h := hold(t, socket, 300*time.Millisecond)
	l, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(l.fd, message{Kind: kindPut, Key: "k", Blocks: true}, nil); err != nil {
		t.Fatal(err)
	}
	l.close()
	until(t, "it is given up", func() bool {
		l, err := dial(socket) // each try is such a supervisor
		if err != nil {
			return false
		}
		defer l.close()
		return len(l.items) == 0
	})
	h.says("given up", 1)
}

func TestHold_IsOneAtATime(t *testing.T) {
	socket := socketIn(t)
	hold(t, socket, time.Minute)
	if err := Hold(t.Context(), HoldOptions{Socket: socket}); !errors.Is(err, ErrHolderRuns) {
		t.Errorf("a second one: %v", err)
	}
}

// call is a caller of another user: it prints what it gets.
func call() int {
	l, err := dial(os.Getenv("SUPERVISE_TEST_HOLDER"))
	if err != nil {
		fmt.Println(err)
		return 3
	}
	fmt.Println(len(l.items), "items")
	return 0
}

// Who is not root gets nothing, also where somebody has opened the folder to all.
func TestHold_TurnsOthersAway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir, err := os.MkdirTemp("/tmp", "hold-") // where another user gets to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "holder", "socket")
	h := hold(t, socket, time.Minute)
	for _, p := range []string{dir, filepath.Dir(socket), socket} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "program")
	if out, err := exec.Command("cp", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	as := func(uid uint32) (string, int) {
		cmd := exec.Command(program)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), asEnv+"=caller", "SUPERVISE_TEST_HOLDER="+socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.Output()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := as(0); code != 0 || out != "0 items\n" {
		t.Fatalf("root: %d, %s", code, out)
	}
	if out, code := as(65534); code != 3 {
		t.Errorf("nobody: %d, %s", code, out)
	}
	h.says("turned away", 1)
}

// A supervisor gives nothing to a holder that is not root's.
func TestDial_RefusesAHolderOfAnotherUser(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := byRoot(pair[0]); (err == nil) != (os.Getuid() == 0) {
		t.Errorf("user %d: %v", os.Getuid(), err)
	}
}

// What cannot be understood is left out, and changes nothing.
func TestHold_LeavesOutWhatItDoesNotUnderstand(t *testing.T) {
	socket := socketIn(t)
	h := hold(t, socket, time.Minute)
	l, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	many := make([]*os.File, maxFDs)
	for i := range many {
		many[i] = null
	}
	for _, b := range [][]byte{[]byte("{}"), []byte("rubbish"), []byte(`{"kind":"put"}`), []byte(`{"kind":"put","key":"` + strings.Repeat("k", maxKey+1) + `"}`),
		[]byte(`{"kind":"later","key":"k"}`), bytes.Repeat([]byte("x"), maxMessage+1)} {
		if err := unix.Sendmsg(l.fd, b, unix.UnixRights(int(null.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(l.fd, message{Kind: kindPut, Key: "k", Data: []byte("d"), Blocks: true}, many); err != nil {
		t.Fatal(err)
	}
	if err := send(l.fd, message{Kind: kindReady}, nil); err != nil {
		t.Fatal(err)
	}
	h.says("is served", 1)
	l.close()
	next, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	if len(next.items) != 1 || next.items[0].Key != "k" || string(next.items[0].Data) != "d" || len(next.items[0].Files) != maxFDs || !next.items[0].Blocks {
		t.Errorf("it holds %+v", next.items)
	}
}

// golden has each kind of message as it is written: who speaks version 1 writes these bytes, and understands them.
var golden = []message{
	{Kind: kindHello, Protocol: 1, Count: 2},
	{Kind: kindItem, Key: "mount/volumes/00ff", Data: []byte(`{"version":1}`), Blocks: true},
	{Kind: kindItem, Key: "socket//run/docker/plugins/fractal-lazy.sock", Data: []byte(`{"dev":1,"ino":2}`)},
	{Kind: kindEnd},
	{Kind: kindHolder, Holder: true},
	{Kind: kindHolder},
	{Kind: kindPut, Key: "clone/volumes/00ff", Blocks: true},
	{Kind: kindDrop, Key: "clone/volumes/00ff"},
	{Kind: kindReady},
}

func TestMessages_AreThoseOfVersion1(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "messages-v1.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != len(golden) {
		t.Fatalf("%d lines, %d messages", len(lines), len(golden))
	}
	for i, m := range golden {
		out, err := json.Marshal(m)
		if err != nil || string(out) != lines[i] {
			t.Errorf("%+v is written as\n%s\nnot as\n%s", m, out, lines[i])
		}
		in, err := decode([]byte(lines[i]))
		if err != nil || fmt.Sprint(in) != fmt.Sprint(m) {
			t.Errorf("%s is read as %+v, %v", lines[i], in, err)
		}
	}
}
