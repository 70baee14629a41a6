//go:build docker

package docker

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// acknowledger appends numbers through a name, with fsync, and through a file that stays open, and says each one that it was told is written; and each error.
const acknowledger = `exec 3>>/data/open; i=0
while :; do i=$((i+1)); echo $i | dd of=/data/log oflag=append conv=notrunc,fsync 2>/dev/null && echo $i >&3 && echo "ok $i" || echo "failed at $i"; usleep 20000; done`

// startHolder starts a holder on the host, for the plugin of e. Its folder is taken away in the end, so that no later test finds it.
func startHolder(t *testing.T, e *engine, limit time.Duration) *kit.Process {
	t.Helper()
	p, err := kit.Start(kit.ProcessOptions{Path: e.w.binary, Args: []string{"hold", "--root", e.pool.Dir, "--limit", limit.String(), "--log-level", "debug"}, Log: e.w.path("holder.log")})
	kit.Must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		kit.Must(t, p.Term(ctx))
		if t.Failed() {
			b, _ := exec.Command("tail", "-n", "60", e.w.path("holder.log"), e.w.path(e.name+"-dockerd.log")).CombinedOutput()
			t.Logf("%s", b)
		}
	})
	return p
}

// acknowledged waits until the container has said more than n, and holds what it was told is written against what is there. No error may have been said.
func acknowledged(t *testing.T, e *engine, container string, n int) (now int) {
	t.Helper()
	said := func() (last int, err error) {
		out, err := e.try("logs", container)
		if err != nil {
			return 0, err
		}
		if strings.Contains(out, "failed") {
			t.Fatalf("%s has seen an error:\n%s", container, tail(out, 10))
		}
		for line := range strings.Lines(out) {
			var i int
			if _, err := fmt.Sscanf(line, "ok %d", &i); err == nil {
				last = i
			}
		}
		return last, nil
	}
	eventually(t, time.Minute, func() (err error) {
		if now, err = said(); err == nil && now <= n {
			err = fmt.Errorf("%s stands at %d", container, now)
		}
		return err
	})
	for _, file := range []string{"log", "open"} {
		lines := strings.Fields(e.docker(t, "exec", container, "cat", "/data/"+file))
		if len(lines) < now {
			t.Fatalf("%s was told that %d lines are written, and %s has %d", container, now, file, len(lines))
		}
		for i, l := range lines {
			if l != fmt.Sprint(i+1) {
				t.Fatalf("line %d of %s is %q", i+1, file, l)
			}
		}
	}
	return now
}

func tail(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}

// anotherPlugin waits for another process of the plugin than pid, which answers.
func anotherPlugin(t *testing.T, e *engine, pid int, volume string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		now, err := e.pluginPID()
		if err == nil && now == pid {
			err = errors.New("the killed process is still there")
		}
		if err == nil {
			_, err = e.try("volume", "inspect", volume)
		}
		return err
	})
}

// acknowledging starts a container that acknowledges what it writes to the volume.
func acknowledging(t *testing.T, e *engine, name string) int {
	t.Helper()
	e.docker(t, "run", "-d", "--name", name, "--network", "none", "-v", name+":/data", "busybox", "sh", "-c", acknowledger)
	t.Cleanup(func() { e.try("rm", "-f", name) })
	return acknowledged(t, e, name, 20)
}

func TestHolder_PluginKilledUnderAContainer(t *testing.T) {
	e := the.a
	up(t, e)
	startHolder(t, e, time.Minute)
	volume(t, e, "held", "interval=off")
	n := acknowledging(t, e, "held")
	for range 3 {
		pid, err := e.pluginPID()
		kit.Must(t, err)
		time.Sleep(600 * time.Millisecond) // Docker gives a plugin up that dies within half a second of its start
		kit.Must(t, syscall.Kill(pid, syscall.SIGKILL))
		began := time.Now()
		anotherPlugin(t, e, pid, "held")
		n = acknowledged(t, e, "held", n)
		t.Logf("goes on after %v", time.Since(began))
	}
	if m := e.status(t, "held")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v", m)
	}
	// A second container, and the end of both.
	if out := e.run(t, []string{"-v", "held:/data:ro"}, "head -n 1 /data/log"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	e.docker(t, "rm", "-f", "held")
	e.state(t, "held", "unmounted")
	e.docker(t, "volume", "rm", "held")
}

func TestHolder_PluginDisabledUnderAContainer(t *testing.T) {
	e := the.a
	up(t, e)
	startHolder(t, e, time.Minute)
	volume(t, e, "switched", "interval=off")
	n := acknowledging(t, e, "switched")
	for range 2 {
		e.docker(t, "plugin", "disable", "-f", pluginName)
		time.Sleep(time.Second)
		e.docker(t, "plugin", "enable", pluginName)
		n = acknowledged(t, e, "switched", n)
	}
	if m := e.status(t, "switched")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v", m)
	}
	if out := e.run(t, []string{"-v", "switched:/data"}, "head -n 1 /data/log; echo other >/data/other"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	if out := e.docker(t, "exec", "switched", "cat", "/data/other"); out != "other" {
		t.Errorf("the container reads %q of what another one wrote", out)
	}
	e.docker(t, "rm", "-f", "switched")
	e.state(t, "switched", "unmounted")
	e.docker(t, "volume", "rm", "switched")
}

var _ = filepath.Join
