//go:build docker

package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
)

// Addresses on the world's bridge.
const (
	hiveIP   = "10.213.77.1"
	hivePort = "7070"
	hiveURL  = "http://" + hiveIP + ":" + hivePort
	network  = "10.213.77.0/24"
)

// the world of this run.
var the *world

type world struct {
	dir    string
	token  string
	binary string // the one in the plugin's root file system
	plugin string // folder for `docker plugin create`
	hive   *kit.Process
	a, b   *engine
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}
func (w *world) netns(name string) string { return tag(w.dir) + "-" + name }

// errCannot says that this machine cannot run an engine, whatever is tested in it.
var errCannot = errors.New("no Docker engine runs here")

// newWorld makes all but the second engine, which starts when a test first needs it. The world is never nil. errCannot: the engine, or the
// simplest container in it, does not run.
func newWorld(dir string) (*world, error) {
	w := &world{dir: dir, token: uuid.NewString()}
	root, err := filepath.Abs("../..")
	if err != nil {
		return w, err
	}
	if out, err := exec.Command("make", "-C", root, "plugin-rootfs").CombinedOutput(); err != nil {
		return w, fmt.Errorf("make plugin-rootfs: %w: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(root, "build/plugin", goarch(), "rootfs/fractal-lazy"))
	if err != nil || len(found) != 1 {
		return w, fmt.Errorf("make plugin-rootfs made %q, %v", found, err)
	}
	w.binary = w.path("fractal-lazy")
	if err := copyFile(found[0], w.binary); err != nil {
		return w, err
	}
	if err := makeBusybox(w.path("busybox.tar")); err != nil {
		return w, err
	}
	if err := w.network(); err != nil {
		return w, fmt.Errorf("%w: %w", errCannot, err)
	}
	w.a, w.b = newEngine(w, "a"), newEngine(w, "b")
	if err := w.a.probe(); err != nil {
		return w, fmt.Errorf("%w: %w", errCannot, err)
	}
	if err := os.WriteFile(w.path("tokens"), []byte(w.token+" "+uuid.NewString()+"\n"), 0o600); err != nil {
		return w, err
	}
	w.hive, err = w.startHive(hivePort, "hive")
	return w, err
}

// network makes a bridge in the Hive's name space, and a wire from it into each engine's.
func (w *world) network() error {
	h := w.netns("h")
	steps := [][]string{
		{"netns", "add", h},
		{"-n", h, "link", "set", "lo", "up"},
		{"-n", h, "link", "add", "br0", "type", "bridge"},
		{"-n", h, "addr", "add", hiveIP + "/24", "dev", "br0"},
		{"-n", h, "link", "set", "br0", "up"},
	}
	for i, name := range []string{"a", "b"} {
		n := w.netns(name)
		steps = append(steps, [][]string{
			{"netns", "add", n},
			{"-n", n, "link", "set", "lo", "up"},
			{"-n", h, "link", "add", "to-" + name, "type", "veth", "peer", "name", "eth0", "netns", n},
			{"-n", h, "link", "set", "to-" + name, "master", "br0", "up"},
			{"-n", n, "addr", "add", fmt.Sprintf("10.213.77.%d/24", i+2), "dev", "eth0"},
			{"-n", n, "link", "set", "eth0", "up"},
		}...)
	}
	for _, s := range steps {
		if out, err := exec.Command("ip", s...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(s, " "), err, out)
		}
	}
	return nil
}

// inNetns makes the options of a program that runs in one of the world's network name spaces. Mounts stay the host's: `ip netns exec` would hide
// the control groups.
func (w *world) inNetns(name, log, program string, args ...string) kit.ProcessOptions {
	return kit.ProcessOptions{
		Path: "nsenter", Args: append([]string{"--net=/run/netns/" + w.netns(name), program}, args...), Log: w.path(log + ".log"),
	}
}

// startHive starts a Hive in the first name space, with a folder of its own.
func (w *world) startHive(port, data string) (*kit.Process, error) {
	p, err := kit.Start(w.inNetns("h", data, w.binary, "hive", "--listen", hiveIP+":"+port, "--data", w.path(data), "--tokens", w.path("tokens")))
	if err != nil {
		return nil, err
	}
	return p, w.waitHTTP(p, "http://"+hiveIP+":"+port+"/health")
}

// waitHTTP waits until a URL in the world's network answers.
func (w *world) waitHTTP(p *kit.Process, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: dialIn(w.netns("h")), DisableKeepAlives: true}}
	return p.WaitHealthy(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

func (w *world) close() error {
	var errs []error
	for _, e := range []*engine{w.a, w.b} {
		if e != nil {
			errs = append(errs, e.close())
		}
	}
	if w.hive != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		errs = append(errs, w.hive.Term(ctx))
	}
	for _, n := range netnsOf(w.dir) {
		errs = append(errs, exec.Command("ip", "netns", "del", n).Run())
	}
	return errors.Join(errs...)
}
