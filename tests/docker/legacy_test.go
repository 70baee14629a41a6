//go:build docker

package docker

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

// legacy starts the binary as a service of the host would, with a socket of its own, in the engine's network.
func legacy(t *testing.T, e *engine, name, socket string) *kit.Process {
	t.Helper()
	root := filepath.Join(e.pool.Dir, name)
	kit.Must(t, os.MkdirAll(root, 0o755))
	o := e.w.inNetns(e.name, name, e.w.binary, "run", "--root", root, "--socket", socket, "--hive", hiveURL, "--ipfs", hiveURL)
	o.Env = []string{"FRACTAL_TOKEN=" + e.w.token}
	p, err := kit.Start(o)
	kit.Must(t, err)
	t.Cleanup(p.Kill9)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	kit.Must(t, p.WaitHealthy(ctx, func(ctx context.Context) error {
		return exec.CommandContext(ctx, e.w.binary, "status", "--check", "--socket", socket).Run()
	}))
	return p
}

func TestLegacy_ServiceOfTheHostIsFoundByItsSocketAndByASpecFile(t *testing.T) {
	e := the.a
	up(t, e)
	const plugins, specs = "/run/docker/plugins", "/etc/docker/plugins" // Docker looks for sockets in the first, for specs in the second
	kit.Must(t, os.MkdirAll(plugins, 0o755))
	name := tag(the.dir) // nobody else's
	for _, way := range []string{"sock", "spec"} {
		driver := name + "-" + way
		socket := filepath.Join(plugins, driver+".sock")
		if way == "spec" {
			socket = e.path("legacy.sock")
			spec := filepath.Join(specs, driver+".spec")
			kit.Must(t, os.MkdirAll(specs, 0o755))
			kit.Must(t, os.WriteFile(spec, []byte("unix://"+socket), 0o644))
			t.Cleanup(func() {
				os.Remove(spec)
				os.Remove(specs) // fails where somebody else has specs: then it was there before
			})
		}
		p := legacy(t, e, driver, socket)
		e.docker(t, "volume", "create", "-d", driver, "-o", "interval=off", "legacy-"+way)
		e.docker(t, "run", "-d", "--name", driver, "--network", "none", "-v", "legacy-"+way+":/data", "busybox", "sh", "-c", counter)
		n := counts(t, e, driver, 3)
		e.docker(t, "stop", "-t", "0", driver)
		e.state(t, "legacy-"+way, "unmounted")
		e.docker(t, "start", driver)
		counts(t, e, driver, n)
		e.docker(t, "rm", "-f", driver)
		e.state(t, "legacy-"+way, "unmounted")
		e.docker(t, "volume", "rm", "legacy-"+way)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		kit.Must(t, p.Term(ctx))
		cancel()
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket %s is left: %v", socket, err)
		}
	}
}

func TestLegacy_MakeInstallPutsTheServiceInPlace(t *testing.T) {
	dest := t.TempDir()
	cmd := exec.Command("make", "-C", "../..", "install", "DESTDIR="+dest, "PREFIX=/opt/fl", "BINARY="+filepath.Join(dest, "built"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v: %s", err, out)
	}
	unit, err := os.ReadFile(filepath.Join(dest, "etc/systemd/system/fractal-lazy.service"))
	kit.Must(t, err)
	if !strings.Contains(string(unit), "\nExecStart=/opt/fl/bin/fractal-lazy run\n") {
		t.Errorf("unit:\n%s", unit)
	}
	if out, err := exec.Command(filepath.Join(dest, "opt/fl/bin/fractal-lazy"), "version").CombinedOutput(); err != nil {
		t.Errorf("the installed binary: %v: %s", err, out)
	}
}
