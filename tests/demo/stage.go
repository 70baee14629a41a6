package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// demo is the stage: the processes, links and pools of one run.
type demo struct {
	dir     string
	binary  string
	size    size
	hiveURL string
	token   string
	key     string // of the volume; in this demo only
	closers []func() error
}

// later adds what close has to do; the last comes first.
func (d *demo) later(f func() error) { d.closers = append(d.closers, f) }

func (d *demo) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

func (d *demo) path(elem ...string) string { return filepath.Join(append([]string{d.dir}, elem...)...) }

func (d *demo) showLogs() {
	logs, _ := filepath.Glob(d.path("*.log"))
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		fmt.Fprintf(os.Stderr, "--- %s\n%s\n", l, tail(b, 3000))
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// stopProcess ends a process kindly, within 20 s.
func stopProcess(p *kit.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.Term(ctx)
}

func (d *demo) startHive(ctx context.Context) error {
	d.token = uuid.NewString()
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	d.hiveURL = "http://" + addr
	p, err := kit.Start(kit.ProcessOptions{
		Path: d.binary, Args: []string{"hive", "--listen", addr, "--data", d.path("hive")}, Log: d.path("hive.log"),
	})
	if err != nil {
		return err
	}
	d.later(func() error { return stopProcess(p) })
	return p.WaitHealthy(ctx, func(ctx context.Context) error { return healthy(ctx, d.hiveURL+"/health") })
}

func healthy(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// device is a machine of its own: a pool, a daemon, a PostgreSQL.
type device struct {
	d      *demo
	name   string
	socket string
	pool   *kit.LoopPool
	daemon *kit.Process
	pg     *postgres
}

// startDevice starts the daemon of a new device that reaches the Hive at url.
func (d *demo) startDevice(ctx context.Context, name, url string) (*device, error) {
	dir := d.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	pool, err := kit.NewPool(dir, d.size.poolGiB<<30)
	if err != nil {
		return nil, err
	}
	v := &device{d: d, name: name, socket: filepath.Join(dir, "s"), pool: pool}
	d.later(v.close)
	if err := os.Chmod(pool.Dir, 0o755); err != nil {
		return nil, err
	}
	v.daemon, err = kit.Start(kit.ProcessOptions{
		Path: d.binary,
		Args: []string{"run", "--root", pool.Dir, "--socket", v.socket, "--hive", url, "--ipfs", url, "--interval", "off"},
		Env:  []string{"FRACTAL_TOKEN=" + d.token},
		Log:  d.path(name + ".log"),
	})
	if err != nil {
		return nil, err
	}
	return v, v.daemon.WaitHealthy(ctx, func(ctx context.Context) error {
		_, err := v.cli(ctx, "status", "--json")
		return err
	})
}

// cli runs a command against the device's daemon and returns what it prints.
func (v *device) cli(ctx context.Context, args ...string) (string, error) {
	return v.cliInput(ctx, "", args...)
}

func (v *device) cliInput(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, v.d.binary, append(args, "--socket", v.socket)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s on %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), v.name, err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// info is what the demo reads of `volume inspect --json`.
type info struct {
	State        string `json:"state"`
	BytesTotal   uint64 `json:"bytes_total"`
	BytesRemote  uint64 `json:"bytes_remote"`
	BytesFetched uint64 `json:"bytes_fetched"`
	FilesTotal   uint64 `json:"files_total"`
}

func (v *device) inspect(ctx context.Context) (info, error) {
	var i info
	out, err := v.cli(ctx, "volume", "inspect", "db", "--json")
	if err != nil {
		return i, err
	}
	return i, json.Unmarshal([]byte(out), &i)
}

// die kills what runs on the device with -9, and takes away the mount that
// the dead daemon leaves, as a reboot would.
func (v *device) die() error {
	if v.pg != nil {
		v.pg.Kill9()
		v.pg = nil
	}
	if v.daemon != nil {
		v.daemon.Kill9()
		v.daemon = nil
	}
	mounts, err := filepath.Glob(filepath.Join(v.pool.Dir, "mnt", "*"))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("take away %s: %w", m, err)
		}
	}
	return nil
}

func (v *device) close() error { return errors.Join(v.die(), v.pool.Close()) }

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }
