//go:build docker

package docker

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

func TestLifecycle_SettingsDisableAndEnable(t *testing.T) {
	e := the.b
	up(t, e)
	t.Cleanup(func() {
		e.docker(t, "plugin", "disable", "-f", pluginName)
		e.docker(t, e.settings()...)
		e.docker(t, "plugin", "enable", pluginName)
	})
	volume(t, e, "cycled", "interval=off")
	e.docker(t, "run", "-d", "--name", "cycled", "--network", "none", "-v", "cycled:/data", "busybox", "sh", "-c", "echo kept >/data/f; sync; exec sleep 600")
	defer e.try("rm", "-f", "cycled")
	e.refused(t, []string{"in use"}, "plugin", "disable", pluginName)
	e.refused(t, []string{"cannot set on an active plugin"}, "plugin", "set", pluginName, "FRACTAL_LOG_LEVEL=info")
	e.docker(t, "rm", "-f", "cycled")
	e.state(t, "cycled", "unmounted")
	for range 2 {
		e.docker(t, "plugin", "disable", "-f", pluginName)
		e.refused(t, []string{"is not settable"}, "plugin", "set", pluginName, "FRACTAL_MOUNTS=/elsewhere")
		e.docker(t, "plugin", "set", pluginName, "FRACTAL_INTERVAL=120s")
		e.docker(t, "plugin", "enable", pluginName)
	}
	if out := e.cli(t, "status"); !strings.Contains(out, "2m0s") || !strings.Contains(out, "environment FRACTAL_INTERVAL") {
		t.Errorf("status: %s", out)
	}
	if out := e.run(t, []string{"-v", "cycled:/data"}, "cat /data/f"); out != "kept" {
		t.Errorf("after disable and enable: %q", out)
	}
	e.state(t, "cycled", "unmounted")
}

// registry is where make plugin-push pushes to.
const registry = hiveIP + ":5000"

func startRegistry(t *testing.T) {
	t.Helper()
	conf := the.path("registry.yml")
	kit.Must(t, os.WriteFile(conf, []byte("version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: "+the.path("registry")+"}}\nhttp: {addr: '"+registry+"'}\n"), 0o644))
	p, err := kit.Start(the.inNetns("h", "registry", "docker-registry", "serve", conf))
	kit.Must(t, err)
	t.Cleanup(p.Kill9)
	kit.Must(t, the.waitHTTP(p, "http://"+registry+"/v2/"))
}

// push makes and pushes a version of the plugin.
func push(t *testing.T, e *engine, version string) string {
	t.Helper()
	name := registry + "/fractal-lazy:" + version
	cmd := exec.Command("make", "-C", "../..", "plugin-push", "PLUGIN="+name, "VERSION="+version)
	cmd.Env = e.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make plugin-push: %v: %s", err, out)
	}
	e.docker(t, "plugin", "rm", name)
	return name
}

func TestLifecycle_InstallFromARegistryAndUpgradeKeepVolumes(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	startRegistry(t)
	one, two := push(t, a, "1.0"), push(t, a, "2.0")

	root := filepath.Join(b.pool.Dir, "installed")
	kit.Must(t, os.MkdirAll(root, 0o755))
	settings := []string{"state.source=" + root, "FRACTAL_HIVE=" + hiveURL, "FRACTAL_IPFS=" + hiveURL, "FRACTAL_TOKEN=" + the.token}
	b.docker(t, append([]string{"plugin", "install", "--grant-all-permissions", "--alias", "lazy", one}, settings...)...)
	t.Cleanup(func() { b.try("plugin", "rm", "-f", "lazy") })
	version := func() string {
		id := b.docker(t, "plugin", "inspect", "-f", "{{.Id}}", "lazy")
		out, err := exec.Command(the.binary, "status", "--socket", "/run/docker/plugins/"+id+"/fractal-lazy.sock").CombinedOutput()
		if err != nil {
			t.Fatalf("status: %v: %s", err, out)
		}
		return strings.Fields(string(out))[1]
	}
	if v := version(); v != "1.0," {
		t.Errorf("version %s", v)
	}
	b.docker(t, "volume", "create", "-d", "lazy", "-o", "interval=off", "upgraded")
	b.docker(t, "run", "-d", "--name", "upgraded", "--network", "none", "-v", "upgraded:/data", "busybox", "sh", "-c", counter)
	n := counts(t, b, "upgraded", 3)
	b.docker(t, "stop", "-t", "0", "upgraded")
	b.state(t, "upgraded", "unmounted")

	b.docker(t, "plugin", "disable", "-f", "lazy")
	b.docker(t, "plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", "lazy", two)
	// Docker forgets the source of the mount when it upgrades; docs/DOCKER.md says to set it again.
	got := b.docker(t, "plugin", "inspect", "-f", "{{range .Settings.Mounts}}{{.Source}}{{end}}", "lazy")
	t.Logf("state.source after the upgrade: %s", got)
	b.docker(t, append([]string{"plugin", "set", "lazy"}, settings...)...)
	b.docker(t, "plugin", "enable", "lazy")
	if v := version(); v != "2.0," {
		t.Errorf("version after the upgrade %s", v)
	}
	b.docker(t, "start", "upgraded")
	counts(t, b, "upgraded", n)
	b.docker(t, "rm", "-f", "upgraded")
	b.state(t, "upgraded", "unmounted")
	b.docker(t, "volume", "rm", "upgraded")
}

func TestLifecycle_ShortLivedContainersLeaveNoMountIDs(t *testing.T) {
	e := the.b
	up(t, e)
	volume(t, e, "many", "interval=off")
	for i := range 20 {
		e.run(t, []string{"-v", "many:/data"}, fmt.Sprintf("echo %d >>/data/f", i))
	}
	e.state(t, "many", "unmounted")
	if m := e.status(t, "many")["mounts"].([]any); len(m) != 0 {
		t.Errorf("ids are left: %v", m)
	}
	e.docker(t, "volume", "rm", "many")
}

func TestArm64_TheBuildForItRuns(t *testing.T) {
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if text, err := exec.CommandContext(ctx, "make", "-C", "../..", "plugin-rootfs", "ARCH=arm64", "PLUGINDIR="+out).CombinedOutput(); err != nil {
		t.Fatalf("cross build: %v: %s", err, text)
	}
	text, err := exec.CommandContext(ctx, "qemu-aarch64-static", filepath.Join(out, "rootfs/fractal-lazy"), "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(text), "fractal-lazy ") {
		t.Errorf("arm64: %v: %s", err, text)
	}
}
