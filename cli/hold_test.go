package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// machine is a state folder on which drivers and holders come and go as processes of their own.
type machine struct {
	t      *testing.T
	dir    string
	root   string
	socket string
	driver *kit.Process
}

func newMachine(t *testing.T) *machine {
	dir, err := os.MkdirTemp(poolDir, "h-")
	must(t, err)
	m := &machine{t: t, dir: dir, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "s.sock")}
	must(t, os.Mkdir(m.root, 0o755))
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"driver.log", "holder.log", "writer.log"} {
				b, _ := os.ReadFile(filepath.Join(dir, log))
				t.Logf("%s:\n%s", log, b[max(0, len(b)-6000):])
			}
		}
	})
	return m
}

// begin starts a process that is killed in the end, with all that it has started.
func (m *machine) begin(log, path string, args ...string) *kit.Process {
	m.t.Helper()
	p, err := kit.Start(kit.ProcessOptions{Path: path, Args: args, Env: []string{asProgram + "=1"}, Log: filepath.Join(m.dir, log)})
	must(m.t, err)
	m.t.Cleanup(p.Kill9)
	return p
}

func (m *machine) holder(limit string) *kit.Process {
	m.t.Helper()
	return m.begin("holder.log", os.Args[0], "hold", "--root", m.root, "--limit", limit)
}

// start starts the driver and waits for its answer.
func (m *machine) start() {
	m.t.Helper()
	m.driver = m.begin("driver.log", os.Args[0], "run", "--root", m.root, "--socket", m.socket, "--interval", "off", "--log-level", "debug")
	eventually(m.t, "the driver answers", func() bool { return m.run("volume", "ls").code == ExitOK })
}

// killed ends the driver, and nothing but it, as a kill of PID 1 does: its worker ends by itself.
func (m *machine) killed() {
	m.t.Helper()
	must(m.t, syscall.Kill(m.driver.Pid(), syscall.SIGKILL))
	<-m.driver.Done()
}

func (m *machine) run(args ...string) result {
	return run(map[string]string{"FRACTAL_SOCKET": m.socket}, nil, args...)
}

// logged waits until a log has the words so many times.
func (m *machine) logged(log, words string, n int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s says %d times %q", log, n, words), func() bool {
		b, err := os.ReadFile(filepath.Join(m.dir, log))
		return err == nil && bytes.Count(b, []byte(words)) >= n
	})
}

// script writes through a name and through a file that stays open, and says what it was told is written, and each error.
const script = `cd "$1"; exec 3>>open; i=0
while :; do i=$((i+1)); echo $i >>log && echo $i >&3 && echo "ok $i" || echo "failed at $i"; sleep 0.01; done`

// writer is a container as far as mounts go: it has the volume's mount in a name space of its own, whatever becomes of that on the host.
func (m *machine) writer(path string) *kit.Process {
	m.t.Helper()
	return m.begin("writer.log", "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", path)
}

// writes waits until the writer has been told of more than n lines, and returns of how many; it may never have been told of an error.
func (m *machine) writes(n int) (now int) {
	m.t.Helper()
	eventually(m.t, "the writer goes on", func() bool {
		b, err := os.ReadFile(filepath.Join(m.dir, "writer.log"))
		must(m.t, err)
		if bytes.Contains(b, []byte("failed")) || bytes.Contains(b, []byte("rror")) {
			m.t.Fatalf("the writer was told of an error:\n%s", b[max(0, len(b)-1000):])
		}
		for line := range strings.Lines(string(b)) {
			_, _ = fmt.Sscanf(line, "ok %d\n", &now)
		}
		return now > n
	})
	return now
}

// has holds what the writer was told is written against what is in the files.
func (m *machine) has(path string, n int) {
	m.t.Helper()
	for _, name := range []string{"log", "open"} {
		b, err := os.ReadFile(filepath.Join(path, name))
		must(m.t, err)
		lines := strings.Fields(string(b))
		if len(lines) < n {
			m.t.Errorf("%s has %d lines, %d were acknowledged", name, len(lines), n)
		}
		for i, l := range lines {
			if l != fmt.Sprint(i+1) {
				m.t.Fatalf("line %d of %s is %q", i+1, name, l)
			}
		}
	}
}

// mount makes and mounts a volume.
func (m *machine) mount() (path string) {
	m.t.Helper()
	m.run("volume", "create", "db").want(m.t, ExitOK)
	out := strings.Fields(m.run("volume", "mount", "db").want(m.t, ExitOK).out)
	path = out[len(out)-1]
	m.t.Cleanup(func() { // however the test ended
		for unix.Unmount(path, unix.MNT_DETACH) == nil {
		}
	})
	return path
}

// end ends all in good order, and sees that nothing is left.
func (m *machine) end(writer, holder *kit.Process, path string, n int) {
	m.t.Helper()
	writer.Kill9()
	m.has(path, n)
	m.run("volume", "umount", "--no-wait", "db").want(m.t, ExitOK)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		m.t.Errorf("the mount point is left: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must(m.t, m.driver.Term(ctx))
	must(m.t, holder.Term(ctx))
}

func TestHold_DriverIsKilledUnderAWriter(t *testing.T) {
	m := newMachine(t)
	holder := m.holder("1m")
	m.logged("holder.log", "holding mounts", 1)
	m.start()
	path := m.mount()
	w := m.writer(path)
	n := m.writes(20)
	for range 3 {
		m.killed()
		m.start()
		n = m.writes(n + 5)
	}
	if ids := m.run("volume", "inspect", "db").want(t, ExitOK).out; !strings.Contains(ids, path) {
		t.Errorf("inspect: %s", ids)
	}
	m.end(w, holder, path, n)
}

// Docker takes the plugin's mounts away when it disables it, and the containers keep theirs.
func TestHold_DriverIsStoppedAndThePlaceOfItsMountGone(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.run("status").want(t, ExitOK, "none: mounts end with the driver")
	holder := m.holder("1m")
	m.logged("driver.log", "a holder keeps mounts", 1)
	eventually(t, "status tells of it", func() bool { return strings.Contains(m.run("status").out, "mounts outlive the driver") })
	path := m.mount()
	w := m.writer(path)
	n := m.writes(20)
	for i := range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		must(t, m.driver.Term(ctx))
		cancel()
		m.logged("driver.log", "the mount stays", i+1)
		must(t, unix.Unmount(path, unix.MNT_DETACH))
		if i > 0 {
			must(t, os.Remove(path))
		}
		m.start()
		n = m.writes(n + 5)
		m.has(path, n) // the host and the container see one file system
	}
	m.end(w, holder, path, n)
}

// What one holder knew the next one learns from the driver, and a driver may be older than its holder.
func TestHold_HolderComesAndGoes(t *testing.T) {
	m := newMachine(t)
	m.start()
	path := m.mount()
	w := m.writer(path)
	n := m.writes(20)
	for i := range 2 {
		holder := m.holder("1m")
		m.logged("driver.log", "a holder keeps mounts", i+1)
		holder.Kill9()
		m.logged("driver.log", "the holder is gone", i+1)
		n = m.writes(n)
	}
	holder := m.holder("1m")
	m.logged("driver.log", "a holder keeps mounts", 3)
	m.killed()
	m.start()
	n = m.writes(n + 5)
	m.end(w, holder, path, n)
}

// Without a driver what uses the mount can be ended when the limit is over, and the next driver mounts it anew.
func TestHold_LimitLetsContainersEnd(t *testing.T) {
	m := newMachine(t)
	holder := m.holder("2s")
	m.start()
	m.logged("driver.log", "a holder keeps mounts", 1)
	path := m.mount()
	w := m.writer(path)
	n := m.writes(20)
	m.killed()
	m.logged("holder.log", "nobody serves the mounts", 1)
	m.logged("writer.log", "failed", 1)
	m.logged("writer.log", "not connected", 1)
	w.Kill9()
	m.start()
	out := strings.Fields(m.run("volume", "mount", "db").want(t, ExitOK).out)
	m.has(out[len(out)-1], n)
	m.end(w, holder, path, n)
}

func TestHold_OneAtATimeAndOnlyWhereThereIsAFolder(t *testing.T) {
	m := newMachine(t)
	m.holder("1m")
	m.logged("holder.log", "holding mounts", 1)
	r := run(nil, nil, "hold", "--root", m.root)
	r.want(t, ExitFailure, "another holder runs")
	run(nil, nil, "hold", "--root", filepath.Join(m.dir, "none")).want(t, ExitFailure, "is no folder")
	run(nil, nil, "hold", "--root", m.root, "--limit", "1ms").want(t, ExitUsage, "--limit")
	for path, want := range map[string]os.FileMode{filepath.Join(m.root, "holder"): 0o700, holderSocket(m.root): 0o600} {
		st, err := os.Lstat(path)
		must(t, err)
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
	}
}
