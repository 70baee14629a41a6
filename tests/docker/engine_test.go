//go:build docker

package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// pluginName is the plugin in every engine.
const pluginName = "fractal-lazy"

// engine is one dockerd: a machine. Its methods are for one goroutine at a time, but for docker and try.
type engine struct {
	w       *world
	name    string
	dir     string
	pool    *kit.LoopPool
	process *kit.Process // nil: not running
	live    bool         // it was last started with --live-restore
}

func newEngine(w *world, name string) *engine { return &engine{w: w, name: name, dir: w.path(name)} }

func (e *engine) path(elem ...string) string {
	return filepath.Join(append([]string{e.dir}, elem...)...)
}
func (e *engine) host() string { return "unix://" + e.path("docker.sock") }

// start starts dockerd, and waits until it answers.
func (e *engine) start(options ...string) error {
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return err
	}
	if e.pool == nil {
		pool, err := kit.NewPool(e.dir, 6<<30)
		if err != nil {
			return err
		}
		e.pool = pool
	}
	mine := tag(e.w.dir) + "-" + e.name
	args := append([]string{
		"--data-root", e.path("data"), "--exec-root", e.path("exec"), "--pidfile", e.path("pid"), "-H", e.host(), "--group", "root",
		"--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false",
		// A containerd that the host runs is shared; then these keep the engines apart.
		"--containerd-namespace", mine, "--containerd-plugins-namespace", mine + "-plugins",
		"--cgroup-parent", "/" + mine, "--insecure-registry", network, "--shutdown-timeout", "5",
	}, options...)
	p, err := kit.Start(e.w.inNetns(e.name, e.name+"-dockerd", "dockerd", args...))
	if err != nil {
		return err
	}
	e.process, e.live = p, slices.Contains(options, "--live-restore")
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	return p.WaitHealthy(ctx, func(context.Context) error {
		_, err := e.try("version")
		return err
	})
}

// probe starts the engine and runs a container that has nothing to do with us.
func (e *engine) probe() error {
	if err := e.start(); err != nil {
		return err
	}
	if _, err := e.try("import", e.w.path("busybox.tar"), "busybox:latest"); err != nil {
		return err
	}
	_, err := e.try(runArgs(nil, "true")...)
	return err
}

// stop ends dockerd in good order.
func (e *engine) stop() error {
	if e.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := e.process.Term(ctx)
	e.process = nil
	return err
}

// kill9 kills dockerd; its containerd dies with it, as it asks for that.
func (e *engine) kill9() {
	// Only dockerd itself: its group would be the shims' as well.
	_ = syscall.Kill(e.process.Pid(), syscall.SIGKILL)
	<-e.process.Done()
	e.process = nil
}

// die ends everything of the engine as a power cut would: processes first, then what they had mounted.
func (e *engine) die() error {
	for range 100 {
		pids := e.processes()
		if len(pids) == 0 {
			break
		}
		for pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
	e.process = nil
	var errs []error
	for _, m := range slices.Backward(mountsUnder(e.dir)) {
		if m == e.pool.Dir {
			continue
		}
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	for _, g := range cgroupsOf(e.w.dir) {
		_ = os.Remove(g) // the other engine's are in use
	}
	return errors.Join(errs...)
}

// processes are those of the engine's network name space, and its containers and their shims.
func (e *engine) processes() map[int]string {
	found := map[int]string{}
	var st unix.Stat_t
	if unix.Stat("/run/netns/"+e.w.netns(e.name), &st) != nil {
		return found
	}
	space := fmt.Sprintf("net:[%d]", st.Ino)
	for pid, name := range processesOf(e.w.dir) {
		net, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if net == space || strings.Contains(name, e.dir+"/") || strings.Contains(string(groups), "/"+tag(e.w.dir)+"-"+e.name) {
			found[pid] = name
		}
	}
	return found
}

// close removes containers and plugins and ends the engine.
func (e *engine) close() error {
	var errs []error
	if e.process != nil {
		if ids, err := e.try("ps", "-aq"); err == nil && ids != "" {
			_, err := e.try(append([]string{"rm", "-f", "-v"}, strings.Fields(ids)...)...)
			errs = append(errs, err)
		}
		for _, p := range e.plugins() {
			_, err := e.try("plugin", "rm", "-f", p)
			errs = append(errs, err)
		}
		errs = append(errs, e.stop())
	}
	if e.pool != nil {
		// Docker leaves the bind mounts of its own folders.
		for _, m := range slices.Backward(mountsUnder(e.dir)) {
			if !strings.HasPrefix(m+"/", e.pool.Dir+"/") {
				errs = append(errs, unix.Unmount(m, unix.MNT_DETACH))
			}
		}
		errs = append(errs, e.pool.Close())
	}
	for _, g := range cgroupsOf(e.w.dir) {
		_ = os.Remove(g) // the parents, which Docker leaves; the other engine's are in use
	}
	return errors.Join(errs...)
}

func (e *engine) plugins() []string {
	out, err := e.try("plugin", "ls", "--format", "{{.Name}}")
	if err != nil {
		return nil
	}
	return strings.Fields(out)
}

// program prefers Debian's client, the one that belongs to the engine.
func program() string {
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		return "/usr/bin/docker"
	}
	return "docker"
}

// try runs the docker client and returns what it prints; the error has what it complains about.
func (e *engine) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(), args...)
	cmd.Env = e.env()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("docker %s on %s: %w: %s", strings.Join(args, " "), e.name, err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

func (e *engine) env() []string {
	return append(os.Environ(), "DOCKER_HOST="+e.host(), "DOCKER_CONFIG="+e.path("client"), "DOCKER="+program())
}

// docker is try that fails the test.
func (e *engine) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refused runs the docker client, which has to fail with all of these words.
func (e *engine) refused(t *testing.T, words []string, args ...string) {
	t.Helper()
	out, err := e.try(args...)
	if err == nil {
		t.Errorf("docker %s works, and prints %q", strings.Join(args, " "), out)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("docker %s: %v\nwant the words %q", strings.Join(args, " "), err, w)
		}
	}
}

// run runs a shell command in a container that goes afterwards.
func (e *engine) run(t *testing.T, options []string, script string) string {
	t.Helper()
	return e.docker(t, runArgs(options, script)...)
}

func runArgs(options []string, script string) []string {
	return append(append([]string{"run", "--rm", "--network", "none"}, options...), "busybox", "sh", "-ec", script)
}

// up starts the engine and its plugin with all settings, unless that is done.
func up(t *testing.T, e *engine, options ...string) {
	t.Helper()
	if e.process == nil {
		kit.Must(t, e.start(options...))
	}
	if out, err := e.try("images", "-q", "busybox"); err != nil || out == "" {
		e.docker(t, "import", e.w.path("busybox.tar"), "busybox:latest")
	}
	if !slices.Contains(e.plugins(), pluginName+":latest") {
		e.makePlugin(t)
	}
	if e.docker(t, "plugin", "inspect", "-f", "{{.Enabled}}", pluginName) != "true" {
		e.docker(t, "plugin", "enable", pluginName)
	}
}

// makePlugin makes the plugin by `make plugin` and gives it its settings.
func (e *engine) makePlugin(t *testing.T) {
	t.Helper()
	cmd := exec.Command("make", "-C", "../..", "plugin")
	cmd.Env = e.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make plugin: %v: %s", err, out)
	}
	e.docker(t, e.settings()...)
}

func (e *engine) settings() []string {
	return []string{"plugin", "set", pluginName, "state.source=" + e.pool.Dir, "FRACTAL_HIVE=" + hiveURL, "FRACTAL_IPFS=" + hiveURL,
		"FRACTAL_TOKEN=" + e.w.token, "FRACTAL_INTERVAL=", "FRACTAL_METRICS=", "FRACTAL_LOG_LEVEL=debug"}
}

// socket is where the host finds the plugin's.
func (e *engine) socket(t *testing.T) string {
	t.Helper()
	id := e.docker(t, "plugin", "inspect", "-f", "{{.Id}}", pluginName)
	for _, dir := range []string{e.path("exec/plugins"), "/run/docker/plugins"} {
		s := filepath.Join(dir, id, "fractal-lazy.sock")
		if _, err := os.Stat(s); err == nil {
			return s
		}
	}
	t.Fatalf("no socket of plugin %s", id)
	return ""
}

// cli runs a command of ours against the plugin.
func (e *engine) cli(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(e.w.binary, append(args, "--socket", e.socket(t))...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("fractal-lazy %s on %s: %v: %s", strings.Join(args, " "), e.name, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

// status is the Status of `docker volume inspect`.
func (e *engine) status(t *testing.T, volume string) map[string]any {
	t.Helper()
	var all []struct{ Status map[string]any }
	text := e.docker(t, "volume", "inspect", volume)
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 1 {
		t.Fatalf("volume inspect %s: %v: %s", volume, err, text)
	}
	return all[0].Status
}

// state waits for one of these states.
func (e *engine) state(t *testing.T, volume string, want ...string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		if got, _ := e.status(t, volume)["state"].(string); !slices.Contains(want, got) {
			return fmt.Errorf("volume %s on %s is %s, want %v", volume, e.name, got, want)
		}
		return nil
	})
}
