//go:build docker

package docker

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// variant makes and enables a plugin of another name whose config.json was changed, with a state folder of its own.
func variant(t *testing.T, e *engine, name string, change func(config map[string]any)) error {
	t.Helper()
	dir := e.path("variant-" + name)
	out, err := exec.Command("cp", "-a", "../../build/plugin/"+goarch(), dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { kit.Must(t, os.RemoveAll(dir)) })
	// Docker refuses a second plugin with a root file system that it has already.
	kit.Must(t, os.WriteFile(filepath.Join(dir, "rootfs", "variant"), []byte(name), 0o644))
	file := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(file)
	kit.Must(t, err)
	var config map[string]any
	kit.Must(t, json.Unmarshal(b, &config))
	change(config)
	b, err = json.Marshal(config)
	kit.Must(t, err)
	kit.Must(t, os.WriteFile(file, b, 0o644))
	e.docker(t, "plugin", "create", name, dir)
	t.Cleanup(func() {
		if _, err := e.try("plugin", "rm", "-f", name); err != nil {
			t.Error(err)
		}
	})
	set := []string{"plugin", "set", name, "FRACTAL_HIVE=" + hiveURL, "FRACTAL_IPFS=" + hiveURL, "FRACTAL_TOKEN=" + e.w.token, "FRACTAL_LOG_LEVEL=debug"}
	if config["mounts"] != nil {
		state := filepath.Join(e.pool.Dir, "variant-"+name)
		kit.Must(t, os.Mkdir(state, 0o755))
		set = append(set, "state.source="+state)
	}
	e.docker(t, set...)
	_, err = e.try("plugin", "enable", name)
	return err
}

// uses does with a plugin what a volume is for, and returns the first thing that fails.
func uses(e *engine, plugin string) error {
	v := "of-" + plugin
	defer e.try("volume", "rm", "-f", v)
	for _, args := range [][]string{
		{"volume", "create", "-d", plugin, "-o", "interval=off", v},
		runArgs([]string{"-v", v + ":/data"}, "echo content >/data/f; chown 12:34 /data/f; chmod 4755 /data/f; mknod /data/null c 1 3; mkdir /data/d; ln /data/f /data/d/g; mv /data/d /data/e; sync"),
		runArgs([]string{"-v", v + ":/data", "-u", "12:34"}, "test \"$(cat /data/e/g)\" = content; echo more >>/data/f"),
	} {
		if _, err := e.try(args...); err != nil {
			return err
		}
	}
	for range 50 { // the final upload, over the network
		out, err := e.try("volume", "inspect", "-f", "{{.Status.state}}", v)
		if err != nil {
			return err
		}
		if out == "unmounted" {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	out, err := e.try("volume", "inspect", "-f", "{{.Status.upload_error}}", v)
	return fmt.Errorf("never published: %s, %v", out, err)
}

func without(list any, what string) any {
	var left []any
	for _, x := range list.([]any) {
		if x != what {
			left = append(left, x)
		}
	}
	return left
}

// docs/OPERATIONS.md has this as a table. Whoever adds a right to config.json shows here what breaks without it.
func TestRights_EachOneOfTheConfigIsNeeded(t *testing.T) {
	e := the.a
	up(t, e)
	linux := func(c map[string]any) map[string]any { return c["linux"].(map[string]any) }
	for _, x := range []struct {
		name   string
		change func(c map[string]any)
		says   string // empty: it works
	}{
		{"all", func(map[string]any) {}, ""},
		{"no-sys-admin", func(c map[string]any) {
			linux(c)["capabilities"] = without(linux(c)["capabilities"], "CAP_SYS_ADMIN")
		}, "not permitted"},
		{"no-read-search", func(c map[string]any) {
			linux(c)["capabilities"] = without(linux(c)["capabilities"], "CAP_DAC_READ_SEARCH")
		}, "not permitted"},
		{"no-fuse", func(c map[string]any) { linux(c)["devices"] = []any{} }, "/dev/fuse cannot be opened"},
		{"no-network", func(c map[string]any) { c["network"] = map[string]any{"type": "none"} }, "Hive"},
		{"no-state", func(c map[string]any) { delete(c, "mounts") }, "pool create --size 20G"},
		{"no-propagation", func(c map[string]any) { delete(c, "propagatedMount") }, "is not on a shared mount"},
	} {
		t.Run(x.name, func(t *testing.T) {
			err := variant(t, e, "fl-"+x.name, x.change)
			if err == nil {
				err = uses(e, "fl-"+x.name)
			}
			t.Logf("%v", err)
			if x.says == "" && err != nil || x.says != "" && (err == nil || !strings.Contains(err.Error(), x.says)) {
				t.Errorf("%v, want %q", err, x.says)
			}
		})
	}
}

// A signal must not fail the open of a file that is still remote: no program expects that of a file. The driver has to see who waits, and
// in a PID name space of its own it cannot.
func TestRights_WithTheHostsPIDsASignalFailsNothing(t *testing.T) {
	a, e := the.a, the.b
	up(t, a)
	up(t, e)
	volume(t, a, "signals", "interval=off")
	a.run(t, []string{"-v", "signals:/data"}, "mkdir /data/dir; echo content >/data/dir/f")
	a.state(t, "signals", "unmounted")
	volume(t, e, "signals", "interval=off", "prefetch=none", "privkey="+a.cli(t, "key", "export", "signals"))
	e.docker(t, "run", "-d", "--name", "signals", "--network", "none", "-v", "signals:/data", "busybox", "sh", "-c",
		`trap 'echo signal' USR1; while ! [ -e /go ]; do sleep 0.1; done; echo ready; read x </data/dir/f && echo "read $x"; sleep 1000 & wait`)
	defer e.try("rm", "-f", "signals")
	kit.Must(t, syscall.Kill(the.hive.Pid(), syscall.SIGSTOP))
	stopped := true
	goOn := func() {
		if stopped {
			stopped = false
			kit.Must(t, syscall.Kill(the.hive.Pid(), syscall.SIGCONT))
		}
	}
	defer goOn()
	e.docker(t, "exec", "signals", "touch", "/go")
	logs := func(word string) func() error {
		return func() error {
			cmd := exec.Command(program(), "logs", "signals")
			cmd.Env = e.env()
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), word) {
				return fmt.Errorf("no %q in the log: %s, %v", word, out, err)
			}
			return nil
		}
	}
	eventually(t, 20*time.Second, logs("ready"))
	for range 5 {
		e.docker(t, "kill", "-s", "USR1", "signals")
		time.Sleep(200 * time.Millisecond)
	}
	goOn()
	eventually(t, 30*time.Second, logs("read content"))
}
