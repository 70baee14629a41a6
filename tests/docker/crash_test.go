//go:build docker

package docker

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// counter appends a number to a file every tenth of a second, and notes every error.
const counter = `i=$(wc -l </data/log 2>/dev/null || echo 0); while :; do i=$((i+1)); echo $i >>/data/log || echo "failed at $i"; usleep 100000; done`

// counted reads the counter's file in its container; the numbers have to ascend by one.
func counted(e *engine, container string) (int, error) {
	out, err := e.try("exec", container, "cat", "/data/log")
	if err != nil {
		return 0, err
	}
	lines := strings.Fields(out)
	for i, l := range lines {
		if l != strconv.Itoa(i+1) {
			return 0, fmt.Errorf("line %d of the counter's file is %q", i+1, l)
		}
	}
	return len(lines), nil
}

// counts waits until the counter is past n, and returns where it is.
func counts(t *testing.T, e *engine, container string, n int) (now int) {
	t.Helper()
	eventually(t, time.Minute, func() (err error) {
		if now, err = counted(e, container); err == nil && now <= n {
			err = fmt.Errorf("the counter stands at %d", now)
		}
		return err
	})
	return now
}

// pluginPID is the plugin's process as the host sees it.
func (e *engine) pluginPID() (int, error) {
	for pid, name := range e.processes() {
		if name == "/fractal-lazy run" {
			return pid, nil
		}
	}
	return 0, errors.New("the plugin has no process")
}

func TestCrash_DockerdKilledAndStartedAgain(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "crashed", "interval=off")
	volume(t, e, "at-rest", "interval=off")
	e.docker(t, "run", "-d", "--name", "counter", "--restart", "always", "--network", "none", "-v", "crashed:/data", "busybox", "sh", "-c", counter)
	defer e.try("rm", "-f", "counter")
	n := counts(t, e, "counter", 10)
	e.kill9()
	kit.Must(t, e.start())
	// The same id is mounted again, and nobody said that it was unmounted.
	n = counts(t, e, "counter", n)
	t.Logf("the container goes on at %d", n)
	// Without live-restore a new dockerd ends plugins first and containers afterwards, so the old container may meet errors in between; no line
	// that it was told is written may be missing, which is what counts has looked at.
	t.Logf("writes refused in between: %d", strings.Count(e.docker(t, "logs", "counter"), "failed"))
	if m := e.status(t, "crashed")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v, want that of the one container", m)
	}
	if out := e.docker(t, "volume", "ls", "-q"); !strings.Contains(out, "at-rest") {
		t.Errorf("volume ls: %q", out)
	}
	e.docker(t, "rm", "-f", "counter")
	e.state(t, "crashed", "unmounted")
	e.docker(t, "volume", "rm", "crashed")
}

func TestCrash_DockerdKilledWithLiveRestoreLeavesContainersAlone(t *testing.T) {
	e := the.a
	up(t, e)
	kit.Must(t, e.stop())
	kit.Must(t, e.start("--live-restore"))
	defer func() {
		kit.Must(t, e.stop())
		kit.Must(t, e.start())
	}()
	up(t, e)
	volume(t, e, "live", "interval=off")
	e.docker(t, "run", "-d", "--name", "live", "--network", "none", "-v", "live:/data", "busybox", "sh", "-c", counter)
	defer e.try("rm", "-f", "live")
	n := counts(t, e, "live", 5)
	pid, err := e.pluginPID()
	kit.Must(t, err)
	for range 2 {
		e.kill9()
		time.Sleep(time.Second) // the container writes without an engine
		kit.Must(t, e.start("--live-restore"))
		n = counts(t, e, "live", n+9)
	}
	if now, err := e.pluginPID(); err != nil || now != pid {
		t.Errorf("the plugin was process %d and is %d, %v", pid, now, err)
	}
	if started := e.docker(t, "inspect", "-f", "{{.RestartCount}} {{.State.Running}}", "live"); started != "0 true" {
		t.Errorf("the container: %s", started)
	}
	// The engine that was started anew uses and gives up the same mount.
	if out := e.run(t, []string{"-v", "live:/data:ro"}, "head -n 1 /data/log"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	if m := e.status(t, "live")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v", m)
	}
	e.docker(t, "rm", "-f", "live")
	e.state(t, "live", "unmounted")
}

func TestCrash_EngineEndedInGoodOrderGivesVolumesBack(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "ended", "interval=off")
	e.docker(t, "run", "-d", "--name", "ended", "--network", "none", "-v", "ended:/data", "busybox", "sh", "-c", counter)
	defer e.try("rm", "-f", "ended")
	n := counts(t, e, "ended", 5)
	kit.Must(t, e.stop())
	kit.Must(t, e.start())
	e.state(t, "ended", "unmounted")
	e.docker(t, "start", "ended")
	counts(t, e, "ended", n)
}

// Without a holder a container keeps a dead mount: what Docker starts afterwards works, and a restart mends the container.
func TestCrash_PluginKilledIsStartedAgainByDocker(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "killed", "interval=off")
	e.docker(t, "run", "-d", "--name", "killed", "--network", "none", "-v", "killed:/data", "busybox", "sh", "-c", counter)
	defer e.try("rm", "-f", "killed")
	n := counts(t, e, "killed", 10)
	for range 3 {
		killPlugin(t, e, "killed")
	}
	e.docker(t, "restart", "-t", "0", "killed")
	n = counts(t, e, "killed", n-1) // what was written before is there
	if out := e.run(t, []string{"-v", "killed:/data:ro"}, "head -n 1 /data/log"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	t.Logf("the container goes on at %d", n)
	e.docker(t, "rm", "-f", "killed")
	e.state(t, "killed", "unmounted")
}
