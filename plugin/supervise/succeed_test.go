package supervise

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program is a file that tests put other programs in the place of.
type program struct {
	t    *testing.T
	path string
}

func newProgram(t *testing.T) *program {
	p := &program{t: t, path: filepath.Join(t.TempDir(), "program")}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.install(exe)
	return p
}

// install puts a copy of from there, as a new file, and returns its inode.
func (p *program) install(from string) uint64 {
	p.t.Helper()
	if out, err := exec.Command("cp", from, p.path+".new").CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(p.path+".new", p.path); err != nil {
		p.t.Fatal(err)
	}
	return p.inode(p.path)
}

func (p *program) inode(path string) uint64 {
	p.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		p.t.Fatalf("%s: %v", path, err)
	}
	return st.Ino
}

func (p *program) runs(pid int) uint64 { return p.inode(fmt.Sprintf("/proc/%d/exe", pid)) }

func (r *run) hup() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) says(what string, n int) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d times %q", n, what), func() bool { return strings.Count(r.text(&r.errs), what) >= n })
}

// upgraded installs a new program, for the n-th time, and returns the worker when both run it.
func (r *run) upgraded(p *program, n int) (worker int) {
	r.t.Helper()
	ino := p.install(p.path)
	r.hup()
	worker = pidOf(r.lines("ready", n+1)[n])
	r.says(isNew, n)
	if p.runs(r.cmd.Process.Pid) != ino || p.runs(worker) != ino {
		r.t.Fatalf("upgrade %d: the supervisor runs inode %d, the worker %d, want %d", n, p.runs(r.cmd.Process.Pid), p.runs(worker), ino)
	}
	return worker
}

const isNew, staysOld = "the supervisor is the new program", "the supervisor stays the one of before"

// The supervisor becomes the new program too, and nothing is lost by that: not the worker, not what is kept, not what the worker says meanwhile.
func TestRun_TheSupervisorIsUpgradedToo(t *testing.T) {
	p := newProgram(t)
	r := start(t, "busy", "SUPERVISE_TEST_PATH="+p.path)
	r.lines("ready", 1)
	for i := 1; i <= 5; i++ {
		worker := r.upgraded(p, i)
		if err := syscall.Kill(worker, 0); err != nil {
			t.Fatalf("upgrade %d: its worker is gone: %v", i, err)
		}
	}
	// Every message of the worker before, during and after the last upgrade.
	if err := os.WriteFile(r.file+".stop", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stopped := strings.Fields(r.lines("stopped", 1)[0])
	n, err := strconv.Atoi(stopped[2])
	if err != nil {
		t.Fatal(err)
	}
	worker := pidOf(r.lines("ready", 6)[5])
	if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	line := r.lines("ready", 7)[6]
	told := map[string]bool{}
	for _, w := range strings.Fields(line) {
		told[w] = true
	}
	t.Logf("%d messages", n)
	for i := range n {
		if want := fmt.Sprintf("busy%d=%d/0", i, worker); !told[want] {
			t.Fatalf("of %d messages, the next worker is not told %q", n, want)
		}
	}
	if !strings.Contains(line, " count=6/0 ") || !strings.Contains(line, " file=/1") {
		t.Errorf("the next worker is told %q", line)
	}
	// It ends as it always did.
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-r.done
	if code := r.cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("it ended with %d", code)
	}
}

// A worker that has acted in another user's name is closed to who has no CAP_SYS_PTRACE, as the supervisor in a plugin: it cannot look at what the worker runs.
func TestRun_TheSupervisorIsUpgradedWhereTheWorkerIsClosedToIt(t *testing.T) {
	p := newProgram(t)
	r := start(t, "plain", "SUPERVISE_TEST_PATH="+p.path, "SUPERVISE_TEST_CLOSED=1")
	r.lines("ready", 1)
	for i := 1; i <= 2; i++ {
		r.upgraded(p, i)
	}
}

// A program whose supervisor cannot go on is found out before anything is given up.
func TestRun_ASupervisorThatCannotSucceedDoesNot(t *testing.T) {
	p := newProgram(t)
	r := start(t, "plain", "SUPERVISE_TEST_PATH="+p.path, "SUPERVISE_TEST_UNABLE=1")
	r.lines("ready", 1)
	before := p.runs(r.cmd.Process.Pid)
	ino := p.install(p.path)
	r.hup()
	worker := pidOf(r.lines("ready", 2)[1])
	r.says(staysOld, 1)
	if is := p.runs(r.cmd.Process.Pid); is != before || p.runs(worker) != ino {
		t.Errorf("the supervisor runs inode %d, want %d; the worker %d, want %d", is, before, p.runs(worker), ino)
	}
	if s := r.text(&r.errs); !strings.Contains(s, "unable") {
		t.Error("the log does not say why")
	}
	if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if line := r.lines("ready", 3)[2]; !strings.Contains(line, "count=2/0 file=/1") {
		t.Errorf("the next worker is told %q", line)
	}
}

// A worker that dies while everything is handed over is started again by whoever is supervisor then.
func TestRun_WorkersDieDuringTheUpgrade(t *testing.T) {
	p := newProgram(t)
	r := start(t, "plain", "SUPERVISE_TEST_PATH="+p.path)
	n := 1
	for i := range 12 {
		r.lines("ready", n)
		p.install(p.path)
		r.hup()
		n++
		worker := pidOf(r.lines("ready", n)[n-1])
		for range i * 20 { // later each time
			_ = unix.Getppid()
			_, _ = os.Stat(p.path)
		}
		if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n++
		line := r.lines("ready", n)[n-1]
		if want := fmt.Sprintf("count=%d/0 file=/1", n-1); !strings.Contains(line, want) {
			t.Fatalf("round %d: worker %d is told %q, want %q", i, n, line, want)
		}
		r.says(isNew, i+1)
	}
}

func sample() carried {
	return carried{Version: carryVersion, Path: "/usr/local/bin/fractal-lazy", Worker: carriedWorker{Pid: 17, FD: 8}, Linked: true, Link: 7, Items: []carriedItem{
		{Key: "mount/volumes/ab", Data: []byte(`{"version":1}`), Blocks: true, FDs: []int{11, 12}}, {Key: "socket/run/s", FDs: []int{9}}, {Key: "note"}}}
}

var update = flag.Bool("update", false, "write the golden files anew")

const carryGolden = "testdata/carried.golden"

func TestCarried_FormIsKept(t *testing.T) {
	b, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(carryGolden, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(carryGolden)
	if err != nil {
		t.Fatal(err)
	}
	if string(golden) != string(b)+"\n" {
		t.Errorf("written is\n%s, want\n%s", b, golden)
	}
	c, err := decodeCarried(golden)
	if err != nil || c.Worker.Pid != 17 || len(c.Items) != 3 || !slices.Equal(c.descriptors(), []int{8, 7, 11, 12, 9}) {
		t.Errorf("read: %+v, %v", c, err)
	}
}

func TestCarried_RefusesWhatIsWrong(t *testing.T) {
	for name, spoil := range map[string]func(*carried){
		"another version":                        func(c *carried) { c.Version++ },
		"no program":                             func(c *carried) { c.Path = "" },
		"no worker":                              func(c *carried) { c.Worker.Pid = 0 },
		"a holder's socket that is the worker's": func(c *carried) { c.Link = 8 },
		"a standard stream":                      func(c *carried) { c.Items[0].FDs[0] = 2 },
		"a descriptor twice":                     func(c *carried) { c.Items[1].FDs[0] = 8 },
		"too long a key":                         func(c *carried) { c.Items[2].Key = strings.Repeat("k", maxKey+1) },
		"too much data":                          func(c *carried) { c.Items[2].Data = make([]byte, MaxData+1) },
		"too many of them":                       func(c *carried) { c.Items[0].FDs = []int{20, 21, 22, 23, 24, 25, 26, 27, 28} },
		"too many items":                         func(c *carried) { c.Items = make([]carriedItem, maxItems+1) },
		"an item without key":                    func(c *carried) { c.Items[2].Key = "" },
	} {
		c := sample()
		spoil(&c)
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeCarried(b); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzCarried(f *testing.F) {
	golden, err := os.ReadFile(carryGolden)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCarried(b)
		if err == nil && (c.Path == "" || c.Worker.Pid <= 0 || len(c.Items) > maxItems || slices.Min(c.descriptors()) < 3) {
			t.Errorf("%+v was let through", c)
		}
	})
}

// The connection to a holder goes on as well: the holder never finds itself without a supervisor, and hears what is said after the upgrade.
func TestRun_TheUpgradedSupervisorHasItsHolder(t *testing.T) {
	p := newProgram(t)
	socket := socketIn(t)
	h := hold(t, socket, time.Minute)
	r := start(t, "plain", "SUPERVISE_TEST_PATH="+p.path, "SUPERVISE_TEST_HOLDER="+socket)
	r.lines("ready", 1)
	h.says("is served", 1)
	p.install(p.path)
	r.hup()
	r.says(isNew, 1)
	if err := syscall.Kill(pidOf(r.lines("ready", 2)[1]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.lines("ready", 3)
	h.says("is served", 3) // the third was said by the new program
	if strings.Contains(h.log(), "the supervisor is gone") {
		t.Error("the connection to the holder ended")
	}
	r.cmd.Process.Kill()
	<-r.done
	next := start(t, "plain", "SUPERVISE_TEST_HOLDER="+socket)
	if line := next.lines("ready", 1)[0]; !strings.HasSuffix(line, " file=/1") {
		t.Errorf("the next supervisor's worker says %q", line)
	}
}

// becomeSignalled is a supervisor that gets a SIGTERM, which nobody has looked at yet when it is about to become its worker's program, cat.
func becomeSignalled() int {
	path, err := exec.LookPath("cat")
	var program os.FileInfo
	if err == nil {
		program, err = os.Stat(path)
	}
	socket, serr := os.Open(os.DevNull) // in the place of the worker's
	if err = errors.Join(err, serr); err != nil {
		fmt.Println(err)
		return 1
	}
	s := &supervisor{signal: make(chan os.Signal, 8), path: path, heir: path, items: map[string]Item{},
		worker: &worker{pid: os.Getpid(), fd: int(socket.Fd()), program: program}}
	notify(s.signal)
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		return 1
	}
	for len(s.signal) == 0 {
		time.Sleep(time.Millisecond)
	}
	err = s.become()
	fmt.Println("stayed:", err, len(s.signal) > 0 && <-s.signal == syscall.SIGTERM)
	s.heir = "/bin/false" // somebody put it there after the rehearsal
	fmt.Println("stayed:", s.become())
	s.heir = path
	fmt.Println("stayed:", s.become())
	return 1
}

// A SIGTERM that comes in the last moment before the supervisor becomes the new program is not lost. And it becomes the program that its worker runs, or none.
func TestBecome_SignalOfTheLastMomentAndAnotherProgram(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asEnv+"=signalled")
	out, err := cmd.CombinedOutput()
	// The last time it is cat, which has nothing to read and ends well.
	if want := "stayed: a signal came meanwhile true\nstayed: /bin/false is another program again\n"; err != nil || string(out) != want {
		t.Errorf("%v, %q, want %q", err, out, want)
	}
}

// Whatever has come by then is seen, and no signal is met without a handler: the process would end.
func TestSignalled_SeesEverySignalOnce(t *testing.T) {
	s := &supervisor{signal: make(chan os.Signal, 8)}
	notify(s.signal)
	defer signal.Stop(s.signal)
	if s.signalled() {
		t.Fatal("there was none")
	}
	for range 200 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
		}()
		for end := time.Now().Add(20 * time.Second); !s.signalled(); {
			if time.Now().After(end) {
				t.Fatal("a signal was lost")
			}
		}
		<-done
		for len(s.signal) > 0 {
			<-s.signal
		}
	}
}
