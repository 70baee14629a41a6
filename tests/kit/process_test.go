package kit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func timeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(ProcessOptions{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log"), Env: []string{"KIT=yes"}})
	Must(t, err)
	t.Cleanup(p.Kill9)
	return p
}

func TestProcess_HealthyTermAndLog(t *testing.T) {
	p := start(t, `trap 'echo bye $KIT; exit 0' TERM; echo up >&2; while :; do sleep 0.01; done`)
	up := func(context.Context) error {
		if !strings.Contains(p.LogTail(1), "up") {
			return errors.New("not yet")
		}
		return nil
	}
	Must(t, p.WaitHealthy(timeout(t, 10*time.Second), up))
	if rss := p.PeakRSS(); rss < 100<<10 || rss > 100<<20 {
		t.Errorf("a shell with %d bytes", rss)
	}
	Must(t, p.Term(timeout(t, 10*time.Second)))
	if got := p.LogTail(2); got != "up\nbye yes" {
		t.Errorf("log %q", got)
	}
	if rss := p.PeakRSS(); rss < 100<<10 {
		t.Errorf("after its end %d bytes", rss)
	}
	Must(t, p.Term(timeout(t, time.Second))) // once more does no harm
}

func TestProcess_ThatDiesIsNotWaitedFor(t *testing.T) {
	p := start(t, `echo the reason; exit 3`)
	err := p.WaitHealthy(timeout(t, 10*time.Second), func(context.Context) error { return errors.New("never") })
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v", err)
	}
	var exit *exec.ExitError
	if err := p.Wait(timeout(t, time.Second)); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("wait: %v", err)
	}
}

func TestProcess_ThatIgnoresTermIsKilledWithItsGroup(t *testing.T) {
	p := start(t, `trap '' TERM; sleep 1000 & echo $!; while :; do sleep 0.01; done`)
	Must(t, p.WaitHealthy(timeout(t, 10*time.Second), func(context.Context) error {
		if p.LogTail(1) == "" {
			return errors.New("not yet")
		}
		return nil
	}))
	child := p.LogTail(1)
	err := p.Term(timeout(t, 200*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("term: %v", err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the child lives: %s", b)
		}
	}
}

// A supervisor's worker is in a group of its own; the group's members are not known to the head.
func TestProcess_KillAndPeakReachOtherGroups(t *testing.T) {
	p := start(t, `setsid sh -c 'x=$(head -c 30000000 /dev/zero | tr "\\0" a); sleep 1000 & echo $$ $!; wait' & wait`)
	var child, grandchild int
	Must(t, p.WaitHealthy(timeout(t, time.Minute), func(context.Context) error {
		_, err := fmt.Sscan(p.LogTail(1), &child, &grandchild)
		return err
	}))
	if rss := p.PeakRSS(); rss < 30_000_000 {
		t.Errorf("the child's memory is not counted: %d", rss)
	}
	if s, ok := statOf(child); !ok || s.group == p.Pid() {
		t.Fatalf("nothing is proved: %v, %+v", ok, s)
	}
	p.Kill9()
	for _, pid := range []int{child, grandchild} {
		if s, ok := statOf(pid); ok && s.state != "Z" {
			t.Errorf("process %d lives: %+v", pid, s)
		}
	}
	if rss := p.PeakRSS(); rss < 30_000_000 {
		t.Errorf("after the end the child's memory is forgotten: %d", rss)
	}
}

func TestPool_LeavesNothing(t *testing.T) {
	NeedRoot(t)
	base := t.TempDir()
	p, err := NewPool(base, PoolSize)
	Must(t, err)
	Must(t, os.WriteFile(p.Dir+"/x", make([]byte, 1<<20), 0o644))
	found, err := Leaks(base)
	Must(t, err)
	if len(found) != 2 || !strings.HasPrefix(found[0], "loop device /dev/loop") || found[1] != "mount "+p.Dir {
		t.Errorf("leaks while it is mounted: %q", found)
	}
	Must(t, p.Close())
	NoLeaks(t, base)
	if names, err := os.ReadDir(base); len(names) != 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestPool_CloseNamesWhatHoldsItAndTakesItAway(t *testing.T) {
	NeedRoot(t)
	base := t.TempDir()
	p, err := NewPool(base, PoolSize)
	Must(t, err)
	Must(t, os.Mkdir(p.Dir+"/inner mount", 0o755))
	Must(t, unix.Mount("none", p.Dir+"/inner mount", "tmpfs", 0, ""))
	sleep, err := Start(ProcessOptions{Path: "/bin/sleep", Args: []string{"1000"}, Dir: p.Dir, Log: base + "/log"})
	Must(t, err)
	defer sleep.Kill9()
	go func() { // for the loop device to become free after the lazy unmount
		time.Sleep(closePatience + time.Second)
		sleep.Kill9()
	}()
	err = p.Close()
	for _, want := range []string{"still mounted in the pool: " + p.Dir + "/inner mount", "(sleep): cwd " + p.Dir, "device or resource busy"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	NoLeaks(t, base)
}

func TestLeaks_FindsProcessesByWhatTheyHave(t *testing.T) {
	NeedRoot(t)
	dir, other := t.TempDir(), t.TempDir()
	Must(t, os.WriteFile(dir+"/file", nil, 0o644))
	for name, o := range map[string]ProcessOptions{
		"cwd ":                       {Path: "/bin/sleep", Args: []string{"1000"}, Dir: dir, Log: other + "/log"},
		"open file " + dir + "/log":  {Path: "/bin/sleep", Args: []string{"1000"}, Log: dir + "/log"},
		"argument --x=" + dir + "/y": {Path: "/bin/sh", Args: []string{"-c", "sleep 1000; :", "--x=" + dir + "/y"}, Log: other + "/log"},
	} {
		p, err := Start(o)
		Must(t, err)
		time.Sleep(20 * time.Millisecond) // until exec
		found, err := Leaks(dir)
		Must(t, err)
		if len(found) != 1 || !strings.Contains(found[0], name) {
			t.Errorf("leaks %q, want one with %q", found, name)
		}
		p.Kill9()
		NoLeaks(t, dir)
	}
	if found, err := Leaks(dir + "/f"); len(found) != 0 || err != nil {
		t.Errorf("a beginning of a name is no folder: %q, %v", found, err)
	}
	if _, err := Leaks("/"); err == nil {
		t.Error("everything is not a leak")
	}
}

func TestPostgres_WorksAndRecoversOnAnotherPlace(t *testing.T) {
	dir := Pool(t)
	Must(t, os.Chmod(filepath.Dir(dir), 0o755))
	Must(t, os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755))
	ctx := timeout(t, 2*time.Minute)
	base, err := os.MkdirTemp("", "pg")
	Must(t, err)
	defer os.RemoveAll(base)
	Must(t, os.Chmod(base, 0o755))

	p, err := NewPostgres(dir+"/data", base+"/s")
	Must(t, err)
	defer p.Kill9()
	p.Settings = []string{"shared_buffers=32MB"}
	Must(t, p.Init(ctx))
	Must(t, p.Start(ctx))
	if v, err := p.Query(ctx, "SHOW shared_buffers"); v != "32MB" || err != nil {
		t.Errorf("setting: %q, %v", v, err)
	}
	if c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port))); err != nil {
		t.Errorf("loopback: %v", err)
	} else {
		c.Close()
	}
	_, err = p.Run(ctx, "pgbench", "-i", "-q", "-s", "1")
	Must(t, err)
	out, err := p.Run(ctx, "pgbench", "-c", "2", "-t", "50")
	if err != nil || !strings.Contains(out, "100/100") {
		t.Errorf("pgbench: %v: %s", err, out)
	}
	Must(t, p.Exec(ctx, "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)"))
	if v, err := p.Query(ctx, "SELECT sum(n) FROM t WHERE n > $1", 10); v != "500445" || err != nil {
		t.Errorf("sum: %q, %v", v, err)
	}

	shm := p.sharedMemory()
	children := descendantsOf(p.Process().Pid())
	if len(children) < 3 || shm < 0 {
		t.Errorf("children %v, shared memory %d", children, shm)
	}
	p.Kill9()
	for _, c := range children {
		if !c.gone() {
			t.Errorf("child lives: %+v", c)
		}
	}
	if _, err := unix.SysvShmCtl(shm, unix.IPC_STAT, new(unix.SysvShmDesc)); err == nil {
		t.Error("shared memory is left")
	}

	// Another server, on another port, finds what was committed.
	q, err := NewPostgres(dir+"/data", base+"/t")
	Must(t, err)
	defer q.Kill9()
	Must(t, q.Start(ctx))
	if v, err := q.Query(ctx, "SELECT sum(n) FROM t"); v != "500500" || err != nil {
		t.Errorf("after the kill: %q, %v", v, err)
	}
	if err := p.Start(ctx); err == nil || !strings.Contains(err.Error(), "runs on") {
		t.Errorf("two servers on one data directory: %v", err)
	}
	Must(t, q.Stop(ctx, true))
	Must(t, q.Start(ctx))
	Must(t, q.Stop(ctx, false))
	NoLeaks(t, dir+"/data")
}
