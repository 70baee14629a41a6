//go:build docker

package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// acknowledger appends numbers through a name, with fsync, and through a file that stays open, and says each one that it was told is written; and each error.
const acknowledger = `exec 3>>/data/open; i=0
while :; do i=$((i+1)); echo $i | dd of=/data/log oflag=append conv=notrunc,fsync 2>/dev/null && echo $i >&3 && echo "ok $i" || echo "failed at $i"; usleep 20000; done`

// startHolder starts a holder on the host, for the plugin of e, and waits until that knows it: it looks for one every second.
func startHolder(t *testing.T, e *engine, limit time.Duration) *kit.Process {
	t.Helper()
	p := holdAt(t, e, e.pool.Dir, limit)
	eventually(t, time.Minute, func() error {
		if text := e.cli(t, "status", "--json"); !strings.Contains(text, "mounts outlive the driver") {
			return fmt.Errorf("the plugin does not know the holder: %s", text)
		}
		return nil
	})
	return p
}

func holdAt(t *testing.T, e *engine, root string, limit time.Duration) *kit.Process {
	t.Helper()
	p, err := kit.Start(kit.ProcessOptions{Path: e.w.binary, Args: []string{"hold", "--root", root, "--limit", limit.String(), "--log-level", "debug"}, Log: e.w.path("holder.log")})
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

// settled is a while in which Docker looks whether a plugin that it has started answers, half a second after its start and on a busy machine later: one that
// dies before is given up for good.
const settled = 3 * time.Second

// killPlugin kills the plugin's main process, and waits for another one, which answers.
func killPlugin(t *testing.T, e *engine, volume string) {
	t.Helper()
	time.Sleep(settled)
	pid, err := e.pluginPID()
	kit.Must(t, err)
	kit.Must(t, syscall.Kill(pid, syscall.SIGKILL))
	began := time.Now()
	eventually(t, time.Minute, func() error {
		now, err := e.pluginPID()
		if err == nil && now == pid {
			err = errors.New("the killed process is still there")
		}
		if err == nil {
			_, err = e.try("volume", "inspect", volume)
		}
		if err != nil && time.Since(began) > 10*time.Second { // Docker gave it up, which it may: that is not what is tested
			if out, _ := e.try("plugin", "inspect", "-f", "{{.Enabled}}", pluginName); out == "false" {
				_, err := e.try("plugin", "enable", pluginName)
				t.Logf("Docker had given the plugin up: enabled again: %v", err)
			}
		}
		return err
	})
	t.Logf("answers again after %v", time.Since(began))
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
	for range 2 {
		killPlugin(t, e, "held")
		n = acknowledged(t, e, "held", n)
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

// An upgrade to another build, with the container at work: Docker keeps the plugin's id, and everything else is new.
func TestHolder_PluginUpgradedUnderAContainer(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	startRegistry(t)
	one, two := push(t, a, "3.0"), push(t, a, "4.0")
	root := filepath.Join(b.pool.Dir, "upgraded")
	kit.Must(t, os.MkdirAll(root, 0o755))
	holdAt(t, b, root, 5*time.Minute)
	settings := []string{"state.source=" + root, "FRACTAL_HIVE=" + hiveURL, "FRACTAL_IPFS=" + hiveURL, "FRACTAL_TOKEN=" + the.token}
	b.docker(t, append([]string{"plugin", "install", "--grant-all-permissions", "--alias", "held", one}, settings...)...)
	t.Cleanup(func() { b.try("plugin", "rm", "-f", "held") })
	b.docker(t, "volume", "create", "-d", "held", "-o", "interval=off", "through")
	n := acknowledging(t, b, "through")

	b.docker(t, "plugin", "disable", "-f", "held")
	b.docker(t, "plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", "held", two)
	b.docker(t, append([]string{"plugin", "set", "held"}, settings...)...)
	b.docker(t, "plugin", "enable", "held")
	id := b.docker(t, "plugin", "inspect", "-f", "{{.Id}}", "held")
	if out, err := exec.Command(the.binary, "status", "--socket", "/run/docker/plugins/"+id+"/fractal-lazy.sock").CombinedOutput(); err != nil || strings.Fields(string(out))[1] != "4.0," {
		t.Errorf("status: %v: %s", err, out)
	}
	acknowledged(t, b, "through", n)
	if out := b.run(t, []string{"-v", "through:/data:ro"}, "head -n 1 /data/log"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	b.docker(t, "rm", "-f", "through")
	b.state(t, "through", "unmounted")
	b.docker(t, "volume", "rm", "through")
}

// Nobody enables the plugin again: when the limit is over the container can be ended, and everything that it was told is written is there.
func TestHolder_LimitLetsContainersEnd(t *testing.T) {
	e := the.a
	up(t, e)
	startHolder(t, e, 5*time.Second)
	volume(t, e, "given-up", "interval=off")
	n := acknowledging(t, e, "given-up")
	e.docker(t, "plugin", "disable", "-f", pluginName)
	t.Cleanup(func() { up(t, e) })
	eventually(t, time.Minute, func() error {
		out, err := e.try("logs", "given-up")
		if err == nil && !strings.Contains(out, "failed") {
			err = errors.New("the container still waits")
		}
		return err
	})
	e.docker(t, "rm", "-f", "given-up")
	up(t, e)
	out := e.run(t, []string{"-v", "given-up:/data"}, "wc -l </data/log; tail -n 1 /data/log")
	if f := strings.Fields(out); len(f) != 2 || f[0] != f[1] || number(f[0]) < n {
		t.Errorf("%d lines were acknowledged, and there are %q", n, out)
	}
	e.state(t, "given-up", "unmounted")
	e.docker(t, "volume", "rm", "given-up")
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// The driver as a service of the host, which is restarted, and killed.
func TestHolder_ServiceRestartedUnderAContainer(t *testing.T) {
	e := the.a
	up(t, e)
	kit.Must(t, os.MkdirAll("/run/docker/plugins", 0o755))
	driver := tag(the.dir) + "-held"
	socket := filepath.Join("/run/docker/plugins", driver+".sock")
	root := filepath.Join(e.pool.Dir, driver)
	kit.Must(t, os.MkdirAll(root, 0o755))
	holdAt(t, e, root, time.Minute)
	p := legacy(t, e, driver, socket)
	e.docker(t, "volume", "create", "-d", driver, "-o", "interval=off", "service")
	n := acknowledging(t, e, "service")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kit.Must(t, p.Term(ctx))
	p = legacy(t, e, driver, socket)
	n = acknowledged(t, e, "service", n)
	p.Kill9()
	p = legacy(t, e, driver, socket)
	acknowledged(t, e, "service", n)
	e.docker(t, "rm", "-f", "service")
	e.state(t, "service", "unmounted")
	e.docker(t, "volume", "rm", "service")
	kit.Must(t, p.Term(ctx))
}

func TestHolder_MakeInstallHolderPutsTheServiceInPlace(t *testing.T) {
	dest := t.TempDir()
	call := func(target string) {
		t.Helper()
		cmd := exec.Command("make", "-C", "../..", target, "DESTDIR="+dest, "PREFIX=/opt/fl", "BINARY="+filepath.Join(t.TempDir(), "built"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v: %s", target, err, out)
		}
	}
	call("install-holder")
	file, binary := filepath.Join(dest, "etc/systemd/system/fractal-lazy-holder.service"), filepath.Join(dest, "opt/fl/bin/fractal-lazy")
	unit, err := os.ReadFile(file)
	kit.Must(t, err)
	if !strings.Contains(string(unit), "\nExecStart=/opt/fl/bin/fractal-lazy hold\n") {
		t.Errorf("unit:\n%s", unit)
	}
	if out, err := exec.Command(binary, "hold", "--help").CombinedOutput(); err != nil {
		t.Errorf("the installed binary: %v: %s", err, out)
	}
	call("install")
	call("uninstall")
	if _, err := os.Stat(binary); err != nil {
		t.Errorf("uninstall has taken the holder's binary away: %v", err)
	}
	call("uninstall-holder")
	for _, left := range []string{file, binary} {
		if _, err := os.Stat(left); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}
