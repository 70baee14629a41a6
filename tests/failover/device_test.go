package failover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// device is a machine: a pool, a daemon, an identity.
type device struct {
	t      *testing.T
	w      *world
	name   string
	url    string // where it finds the Hive and the block store
	root   string
	socket string
	flags  []string // more of them for `run`
	pool   *kit.LoopPool
	daemon *kit.Process
}

// device starts one that finds the Hive at url.
func (w *world) device(name, url string, flags ...string) *device {
	w.t.Helper()
	dir := w.path(name)
	kit.Must(w.t, os.Mkdir(dir, 0o755))
	pool, err := kit.NewPool(dir, kit.PoolSize)
	kit.Must(w.t, err)
	d := &device{t: w.t, w: w, name: name, url: url, root: pool.Dir, socket: filepath.Join(dir, "s"), flags: flags, pool: pool}
	w.t.Cleanup(d.close)
	d.start()
	return d
}

// close ends the daemon as an administrator would; then nothing may be mounted any more.
func (d *device) close() {
	if d.daemon != nil {
		select {
		case <-d.daemon.Done():
			d.clear()
		default:
			d.w.stop(d.daemon)
		}
	}
	if err := d.pool.Close(); err != nil {
		d.t.Error(err)
	}
}

func (d *device) start() {
	d.t.Helper()
	args := append([]string{"run", "--root", d.root, "--socket", d.socket, "--hive", d.url, "--ipfs", d.url,
		"--interval", "off", "--stop-timeout", "10s"}, d.flags...)
	d.daemon = d.w.start(d.name+".log", []string{"FRACTAL_TOKEN=" + d.w.token}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	kit.Must(d.t, d.daemon.WaitHealthy(ctx, func(context.Context) error { return d.run("", "volume", "ls").err }))
}

// die is the machine's end: the daemon is killed, and its mounts are gone.
func (d *device) die() {
	d.t.Helper()
	d.daemon.Kill9()
	d.clear()
}

// clear takes dead mounts away.
func (d *device) clear() {
	d.t.Helper()
	mounts, err := filepath.Glob(filepath.Join(d.root, "mnt", "*"))
	kit.Must(d.t, err)
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			d.t.Errorf("take away %s: %v", m, err)
		}
	}
}

// result of a command.
type result struct {
	out  string
	errs string
	code int
	err  error // not nil: it failed; with all that it said
}

// commandLimit ends a command that hangs.
const commandLimit = 2 * time.Minute

// run runs a command against the device's daemon. Only daemons need the race detector, which is slow to start.
func (d *device) run(stdin string, args ...string) (r result) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, plainBinary, append(args, "--socket", d.socket)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	r.out, r.errs, r.code = strings.TrimRight(out.String(), "\n"), errs.String(), cmd.ProcessState.ExitCode()
	if err != nil {
		r.err = errors.New(d.name + ": " + strings.Join(args, " ") + ": " + err.Error() + ": " + errs.String())
	}
	return r
}

// cli runs a command that has to succeed.
func (d *device) cli(args ...string) string {
	d.t.Helper()
	r := d.run("", args...)
	kit.Must(d.t, r.err)
	return r.out
}

// refused runs a command that has to fail with this exit code, and say all of these.
func (d *device) refused(code int, says []string, args ...string) {
	d.t.Helper()
	r := d.run("", args...)
	if r.code != code {
		d.t.Errorf("%s: %v ended with %d, want %d: %s", d.name, args, r.code, code, r.errs)
	}
	for _, s := range says {
		if !strings.Contains(r.errs, s) {
			d.t.Errorf("%s: %v does not say %q: %s", d.name, args, s, r.errs)
		}
	}
}

// create makes a volume from a key.
func (d *device) create(name, key string, options ...string) {
	d.t.Helper()
	args := []string{"volume", "create", name, "-o", "privkey=-"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	kit.Must(d.t, d.run(key+"\n", args...).err)
}

// mount returns the mount point: the last line of what the command prints.
func (d *device) mount(name string) string {
	d.t.Helper()
	out := d.cli("volume", "mount", name)
	return out[strings.LastIndexByte(out, '\n')+1:]
}

// newVolume makes and mounts a volume with a new key.
func (d *device) newVolume(name string, options ...string) (mount, key string) {
	d.t.Helper()
	args := []string{"volume", "create", name}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	d.cli(args...)
	return d.mount(name), d.cli("key", "export", name)
}

func (d *device) flush(name string) { d.t.Helper(); d.cli("flush", name) }

func (d *device) inspect(name string) (i volume.Info) {
	d.t.Helper()
	kit.Must(d.t, json.Unmarshal([]byte(d.cli("volume", "inspect", name, "--json")), &i))
	return i
}

// wait asks until the volume is as it should be.
func (d *device) wait(name, what string, patience time.Duration, is func(volume.Info) bool) volume.Info {
	d.t.Helper()
	end := time.Now().Add(patience)
	for {
		i := d.inspect(name)
		if is(i) {
			return i
		}
		if time.Now().After(end) {
			d.t.Fatalf("%s: volume %s is not %s after %v: %+v", d.name, name, what, patience, i)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// data is the volume's plain subvolume.
func (d *device) data(name string) string {
	d.t.Helper()
	return filepath.Join(d.root, "volumes", d.inspect(name).Pubkey, "data")
}

// machine is the device's identity.
func (d *device) machine() string {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.root, "machine-id"))
	kit.Must(d.t, err)
	return strings.TrimSpace(string(b))
}

// describe is kit.Describe, which has to succeed.
func describe(t *testing.T, root string) []kit.Entry {
	t.Helper()
	start := time.Now()
	list, err := kit.Describe(root)
	kit.Must(t, err)
	t.Logf("described %d entries in %v", len(list), time.Since(start).Round(time.Millisecond))
	return list
}

// same fails the test where got is not want.
func same(t *testing.T, what string, want, got []kit.Entry) {
	t.Helper()
	if diff := kit.Diff(want, got); diff != "" {
		t.Errorf("%s:\n%s", what, diff)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	kit.Must(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	kit.Must(t, err)
	return string(b)
}
