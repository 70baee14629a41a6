//go:build docker

package docker

import (
	"encoding/json"
	"errors"
	"fmt"
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

// installed is the program's file in the plugin's root file system, as the host sees it.
func (e *engine) installed(t *testing.T) string {
	t.Helper()
	return filepath.Join(e.docker(t, "info", "-f", "{{.DockerRootDir}}"), "plugins", e.docker(t, "plugin", "inspect", "-f", "{{.Id}}", pluginName), "rootfs/fractal-lazy")
}

// replace puts a copy of program in the place of the plugin's, as a new file.
func replace(t *testing.T, installed, program string) {
	t.Helper()
	kit.Must(t, copyFile(program, installed+".new"))
	kit.Must(t, os.Rename(installed+".new", installed))
}

// build makes the plugin's program with another version.
func build(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("make", "-C", "../..", "plugin-rootfs", "VERSION="+version, "PLUGINDIR="+dir).CombinedOutput(); err != nil {
		t.Fatalf("make plugin-rootfs: %v: %s", err, out)
	}
	return filepath.Join(dir, "rootfs/fractal-lazy")
}

// inode is that of a file, or of the program that /proc/PID/exe names.
func inode(file string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return st.Ino, nil
}

// runs waits until the plugin's two processes run the programs with these inodes, and asks the plugin.
func (e *engine) runs(t *testing.T, supervisor int, wantSupervisor, wantWorker uint64, version string) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		worker, err := e.workerPID()
		if err != nil {
			return err
		}
		s, err := inode(fmt.Sprintf("/proc/%d/exe", supervisor))
		w, werr := inode(fmt.Sprintf("/proc/%d/exe", worker))
		if err := errors.Join(err, werr); err != nil {
			return err
		}
		if s != wantSupervisor || w != wantWorker {
			return fmt.Errorf("the supervisor runs inode %d and the worker %d, want %d and %d", s, w, wantSupervisor, wantWorker)
		}
		return nil
	})
	var st struct {
		Ready   bool
		Version struct{ Version string }
	}
	eventually(t, time.Minute, func() error {
		text := e.cli(t, "status", "--json")
		if err := json.Unmarshal([]byte(text), &st); err != nil {
			return err
		}
		if !st.Ready || st.Version.Version != version {
			return fmt.Errorf("status, want %s: %s", version, text)
		}
		return nil
	})
}

// said counts what the plugin's log says, which is in dockerd's.
func (e *engine) said(t *testing.T, words string) int {
	t.Helper()
	b, err := os.ReadFile(e.w.path(e.name + "-dockerd.log"))
	kit.Must(t, err)
	return strings.Count(string(b), words)
}

// The program in the plugin's root file system is replaced, and its first process told so: that becomes the new program, which Docker does not notice, and
// neither does a container.
func TestReplace_TheProgramOfTheManagedPluginUnderAContainer(t *testing.T) {
	e := the.a
	up(t, e)
	file := e.installed(t)
	before := e.w.path("before")
	kit.Must(t, copyFile(file, before))
	t.Cleanup(func() { // the plugin of the other tests
		e.try("plugin", "disable", "-f", pluginName)
		replace(t, file, before)
		e.docker(t, "plugin", "enable", pluginName)
	})
	volume(t, e, "replaced", "interval=off")
	n := acknowledging(t, e, "replaced")
	// The worker acts in the name of another user all the time. Then nobody without CAP_SYS_PTRACE can look into it, and its supervisor has not got that.
	e.docker(t, "exec", "replaced", "sh", "-c", "mkdir /data/theirs; chmod 777 /data/theirs")
	e.docker(t, "run", "-d", "--name", "other", "-u", "1000", "--network", "none", "-v", "replaced:/data", "busybox", "sh", "-c",
		"while :; do echo x >/data/theirs/f; rm /data/theirs/f; usleep 2000; done")
	t.Cleanup(func() { e.try("rm", "-f", "other") })
	plugin, err := e.pluginPID()
	kit.Must(t, err)
	isNew := e.said(t, "the supervisor is the new program")

	for i, program := range []string{build(t, "5.0"), build(t, "6.0")} {
		replace(t, file, program)
		ino, err := inode(file)
		kit.Must(t, err)
		kit.Must(t, syscall.Kill(plugin, syscall.SIGHUP))
		e.runs(t, plugin, ino, ino, fmt.Sprintf("%d.0", i+5))
		if got := e.said(t, "the supervisor is the new program"); got != isNew+i+1 {
			t.Errorf("the log says it %d times", got-isNew)
		}
		n = acknowledged(t, e, "replaced", n)
		e.killWorker(t) // the one that takes its place is the new supervisor's child
		n = acknowledged(t, e, "replaced", n)
		e.runs(t, plugin, ino, ino, fmt.Sprintf("%d.0", i+5))
	}
	good, err := inode(fmt.Sprintf("/proc/%d/exe", plugin))
	kit.Must(t, err)

	// A program that does not start: the one of before goes on.
	replace(t, file, "/bin/busybox")
	stays := e.said(t, "the new program did not become ready")
	kit.Must(t, syscall.Kill(plugin, syscall.SIGHUP))
	eventually(t, time.Minute, func() error {
		if e.said(t, "the new program did not become ready") == stays {
			return errors.New("the log does not say that the new program did not become ready")
		}
		return nil
	})
	e.runs(t, plugin, good, good, "6.0")
	n = acknowledged(t, e, "replaced", n)

	// And then one that does.
	replace(t, file, build(t, "7.0"))
	good, err = inode(file)
	kit.Must(t, err)
	kit.Must(t, syscall.Kill(plugin, syscall.SIGHUP))
	e.runs(t, plugin, good, good, "7.0")
	n = acknowledged(t, e, "replaced", n)

	if now := e.docker(t, "plugin", "inspect", "-f", "{{.Enabled}}", pluginName); now != "true" {
		t.Errorf("the plugin is enabled: %s", now)
	}
	e.docker(t, "rm", "-f", "other")
	if m := e.status(t, "replaced")["mounts"].([]any); len(m) != 1 {
		t.Errorf("mount ids %v", m)
	}
	if out := e.run(t, []string{"-v", "replaced:/data"}, "head -n 1 /data/log; echo other >/data/other"); out != "1" {
		t.Errorf("another container reads %q", out)
	}
	if out := e.docker(t, "exec", "replaced", "cat", "/data/other"); out != "other" {
		t.Errorf("the container reads %q of what another one wrote", out)
	}
	acknowledged(t, e, "replaced", n)
	e.docker(t, "rm", "-f", "replaced")
	e.state(t, "replaced", "unmounted")
	e.docker(t, "volume", "rm", "replaced")
}
