//go:build docker

package docker

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// workerPID is the process that does the plugin's work.
func (e *engine) workerPID() (int, error) {
	for pid, name := range e.processes() {
		if name == "/fractal-lazy worker" {
			return pid, nil
		}
	}
	return 0, errors.New("the plugin has no worker")
}

// killWorker kills it, and waits for another one.
func (e *engine) killWorker(t *testing.T) {
	t.Helper()
	pid, err := e.workerPID()
	kit.Must(t, err)
	kit.Must(t, syscall.Kill(pid, syscall.SIGKILL))
	eventually(t, 30*time.Second, func() error {
		now, err := e.workerPID()
		if err == nil && now == pid {
			err = errors.New("the killed worker is still there")
		}
		return err
	})
}

func TestWorker_KilledUnderAContainer(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "worked", "interval=off")
	n := acknowledging(t, e, "worked")
	plugin, err := e.pluginPID()
	kit.Must(t, err)
	for range 10 {
		e.killWorker(t)
		n = acknowledged(t, e, "worked", n)
	}
	if now, err := e.pluginPID(); err != nil || now != plugin {
		t.Errorf("the plugin was process %d and is %d, %v", plugin, now, err)
	}
	if m := e.status(t, "worked")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v", m)
	}
	if out := e.run(t, []string{"-v", "worked:/data:ro"}, "head -n 1 /data/log"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	e.docker(t, "rm", "-f", "worked")
	e.state(t, "worked", "unmounted")
}

// A volume of which most is elsewhere: each file is fetched under kills, and right.
func TestWorker_KilledWhileAContainerFetches(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	volume(t, a, "remote", "interval=off")
	a.run(t, []string{"-v", "remote:/data"}, `mkdir /data/f; cd /data/f
		for i in $(seq 300); do dd if=/dev/urandom of=$i bs=1k count=$((i % 97 + 1)) 2>/dev/null; done; dd if=/dev/urandom of=big bs=1M count=16 2>/dev/null; md5sum * >../sums`)
	k := a.cli(t, "key", "export", "remote")
	a.cli(t, "flush", "remote")
	a.state(t, "remote", "unmounted")
	volume(t, b, "remote", "privkey="+k, "interval=off", "prefetch=none")
	b.docker(t, "run", "-d", "--name", "remote", "--network", "none", "-v", "remote:/data", "busybox", "sh", "-c",
		`cd /data/f; while read -r line; do echo "$line" | md5sum -c || echo wrong; usleep 10000; done <../sums; echo all read; exec sleep 600`)
	defer b.try("rm", "-f", "remote")
	kills, at := 0, -1
	eventually(t, 2*time.Minute, func() error {
		out, err := b.try("logs", "remote")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "all read") {
			n := strings.Count(out, "OK")
			if n > at { // each worker gets somewhere
				b.killWorker(t)
				kills, at = kills+1, n
			}
			return fmt.Errorf("%d files are read", n)
		}
		if n := strings.Count(out, "OK"); n != 301 || strings.Contains(out, "wrong") {
			t.Errorf("%d files are right:\n%s", n, tail(out, 20))
		}
		return nil
	})
	if t.Logf("%d kills", kills); kills < 3 {
		t.Errorf("the worker was killed %d times only", kills)
	}
	b.docker(t, "rm", "-f", "remote")
	b.state(t, "remote", "unmounted")
}

// With live-restore the container goes on while the engine is away, and its volume with another worker.
func TestWorker_KilledWhileDockerdIsAway(t *testing.T) {
	e := the.a
	up(t, e)
	kit.Must(t, e.stop())
	kit.Must(t, e.start("--live-restore"))
	defer func() {
		kit.Must(t, e.stop())
		kit.Must(t, e.start())
	}()
	up(t, e)
	volume(t, e, "away", "interval=off")
	n := acknowledging(t, e, "away")
	for range 2 {
		e.kill9()
		e.killWorker(t)
		kit.Must(t, e.start("--live-restore"))
		n = acknowledged(t, e, "away", n)
		e.killWorker(t)
		n = acknowledged(t, e, "away", n)
	}
	if m := e.status(t, "away")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v", m)
	}
	e.docker(t, "rm", "-f", "away")
	e.state(t, "away", "unmounted")
}

// Without it everything ends, and begins again where it was.
func TestWorker_KilledWithDockerd(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "both", "interval=off")
	e.docker(t, "run", "-d", "--name", "both", "--restart", "always", "--network", "none", "-v", "both:/data", "busybox", "sh", "-c", counter)
	defer e.try("rm", "-f", "both")
	n := counts(t, e, "both", 10)
	pid, err := e.workerPID()
	kit.Must(t, err)
	e.kill9()
	kit.Must(t, syscall.Kill(pid, syscall.SIGKILL))
	kit.Must(t, e.start())
	counts(t, e, "both", n-1)
	e.docker(t, "rm", "-f", "both")
	e.state(t, "both", "unmounted")
	e.docker(t, "volume", "rm", "both")
}
