//go:build docker

package docker

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// reset gives an engine's plugin other settings for the time of a test.
func reset(t *testing.T, e *engine, settings ...string) {
	t.Helper()
	e.docker(t, "plugin", "disable", "-f", pluginName)
	t.Cleanup(func() {
		if _, err := e.try("plugin", "disable", "-f", pluginName); err != nil && !strings.Contains(err.Error(), "already disabled") {
			t.Error(err)
		}
		e.docker(t, e.settings()...)
		e.docker(t, "plugin", "enable", pluginName)
	})
	e.docker(t, append([]string{"plugin", "set", pluginName}, settings...)...)
	e.docker(t, "plugin", "enable", pluginName)
}

// A host's mounts are shared where systemd runs; here the test has to say so.
func TestSetUp_StateFolderWithoutBTRFSIsSaidAndMendedWhileItRuns(t *testing.T) {
	e := the.b
	up(t, e)
	host := e.path("host")
	state := filepath.Join(host, "state")
	kit.Must(t, os.MkdirAll(state, 0o755))
	kit.Must(t, unix.Mount(host, host, "", unix.MS_BIND, ""))
	kit.Must(t, unix.Mount("", host, "", unix.MS_SHARED, ""))
	t.Cleanup(func() {
		kit.Must(t, unix.Unmount(host, unix.MNT_DETACH))
		kit.Must(t, os.RemoveAll(host))
	})
	reset(t, e, "state.source="+state)
	for _, args := range [][]string{{"volume", "create", "-d", pluginName, "early"}, runArgs([]string{"-v", "early:/data", "--volume-driver", pluginName}, "true")} {
		e.refused(t, []string{"not ready", "BTRFS", "pool create --size 20G"}, args...)
	}
	if out := e.docker(t, "volume", "ls", "-q", "--filter", "driver=local"); strings.Contains(out, "early") {
		t.Error("Docker made a local volume instead")
	}
	if out, err := exec.Command(the.binary, "pool", "create", "--size", "1G", "--root", state, "--file", e.path("state.btrfs"), "--no-fstab").CombinedOutput(); err != nil {
		t.Fatalf("pool create: %v: %s", err, out)
	}
	t.Cleanup(func() {
		kit.Must(t, unix.Unmount(state, unix.MNT_DETACH))
		kit.Must(t, os.Remove(e.path("state.btrfs")))
	})
	eventually(t, 10*time.Second, func() error {
		_, err := e.try("volume", "create", "-d", pluginName, "early")
		return err
	})
	if out := e.run(t, []string{"-v", "early:/data"}, "echo mended >/data/f; cat /data/f"); out != "mended" {
		t.Errorf("read %q", out)
	}
	e.state(t, "early", "unmounted")
	e.docker(t, "volume", "rm", "early")
	// A final upload may still hold the pool for a moment; the plugin has to be off it before it goes.
	e.docker(t, "plugin", "disable", "-f", pluginName)
}

func TestSetUp_NoHiveIsSaidAndMendedWhileItRuns(t *testing.T) {
	e := the.b
	up(t, e)
	reset(t, e, "FRACTAL_HIVE=http://"+hiveIP+":7072", "FRACTAL_IPFS=http://"+hiveIP+":7072")
	volume(t, e, "lonely", "privkey="+key(t), "interval=off")
	began := time.Now()
	e.refused(t, []string{"not ready", hiveIP + ":7072", "refused"}, runArgs([]string{"-v", "lonely:/data"}, "true")...)
	t.Logf("refused after %s", time.Since(began).Round(time.Millisecond))
	h, err := the.startHive("7072", "hive-late")
	kit.Must(t, err)
	if out := e.run(t, []string{"-v", "lonely:/data"}, "echo found >/data/f; cat /data/f"); out != "found" {
		t.Errorf("read %q", out)
	}
	e.state(t, "lonely", "unmounted")
	h.Kill9()
}

func TestSetUp_NoSettingsAndBadOnesAreAnswers(t *testing.T) {
	e := the.b
	up(t, e)
	reset(t, e, "FRACTAL_HIVE=", "FRACTAL_IPFS=", "FRACTAL_TOKEN=")
	volume(t, e, "local-only", "interval=off")
	if out := e.run(t, []string{"-v", "local-only:/data"}, "echo x >/data/f; cat /data/f"); out != "x" {
		t.Errorf("a new volume without a Hive: %q", out)
	}
	e.refused(t, []string{"data exists only here"}, "volume", "rm", "local-only")
	e.forget(t, "local-only")

	file := filepath.Join(e.pool.Dir, "config.json")
	kit.Must(t, os.WriteFile(file, []byte(`{"hive": "hive.example.org", "interval": "60ms"}`), 0o600))
	t.Cleanup(func() { os.Remove(file) })
	e.docker(t, "plugin", "disable", "-f", pluginName)
	e.docker(t, "plugin", "enable", pluginName)
	e.refused(t, []string{"not ready", "hive", "is not an http or https URL", "interval", "shorter than 1s"}, "volume", "create", "-d", pluginName, "badly-set")
	kit.Must(t, os.WriteFile(file, []byte(`{"hive": "`+hiveURL+`", "ipfs": "`+hiveURL+`", "token": "`+the.token+`"}`), 0o600))
	eventually(t, 10*time.Second, func() error { // the file is read again by itself
		_, err := e.try("volume", "create", "-d", pluginName, "badly-set")
		return err
	})
	e.run(t, []string{"-v", "badly-set:/data"}, "echo x >/data/f")
	e.state(t, "badly-set", "unmounted")
	e.docker(t, "volume", "rm", "badly-set")
}

// A Hive that takes calls and never answers is worse than none: Docker waits 30 s, and then forgets.
func TestSetUp_AHiveThatHangsKeepsNoCallLongerThanDockerWaits(t *testing.T) {
	e := the.b
	up(t, e)
	volume(t, e, "hangs", "interval=off", "privkey="+key(t))
	kit.Must(t, syscall.Kill(the.hive.Pid(), syscall.SIGSTOP))
	running := false
	goOn := func() {
		if !running {
			running = true
			kit.Must(t, syscall.Kill(the.hive.Pid(), syscall.SIGCONT))
		}
	}
	defer goOn()
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := e.try(runArgs([]string{"-v", "hangs:/data"}, "true")...)
		done <- err
	}()
	time.Sleep(time.Second)
	for _, args := range [][]string{{"volume", "ls", "-q"}, {"volume", "inspect", "hangs"}} {
		asked := time.Now()
		e.docker(t, args...)
		if took := time.Since(asked); took > 2*time.Second {
			t.Errorf("docker %v took %s", args, took)
		}
	}
	err := <-done
	took := time.Since(began)
	if err == nil || !strings.Contains(err.Error(), "not ready") && !strings.Contains(err.Error(), "preparing, try again") {
		t.Errorf("mount with a hanging Hive, after %s: %v", took, err)
	}
	if took > 28*time.Second {
		t.Errorf("it took %s", took)
	}
	t.Logf("answered after %s: %v", took.Round(time.Millisecond), errors.Unwrap(err))
	goOn()
	eventually(t, time.Minute, func() error {
		_, err := e.try(runArgs([]string{"-v", "hangs:/data"}, "echo x >/data/f")...)
		return err
	})
	e.state(t, "hangs", "unmounted")
}
