package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/tests/kit"

	"golang.org/x/sys/unix"
)

// poolSize of a machine: sparse.
const poolSize = 1 << 30

// machine is a pool and a driver, which is a process of its own.
type machine struct {
	name   string
	id     string // as the Hive knows it
	dir    string
	root   string
	pool   *kit.LoopPool
	conf   daemonConfig
	cable  *cable
	proc   *kit.Process
	client *control.Client
	down   bool
	// crashes counts them.
	crashes int
}

func newMachine(dir, name, clock string, at, far *place) (m *machine, err error) {
	m = &machine{name: name, dir: filepath.Join(dir, name)}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	if m.cable, err = at.cable(); err != nil {
		return nil, err
	}
	if m.pool, err = kit.NewPool(m.dir, poolSize); err != nil {
		return nil, err
	}
	m.root = m.pool.Dir
	m.conf = daemonConfig{Root: m.root, Socket: filepath.Join(m.dir, "s"), Token: token, Hive: m.cable.hiveURL, IPFS: m.cable.ipfsURL,
		SecondHive: far.direct.hiveURL, SecondIPFS: far.direct.ipfsURL, Clock: clock}
	if err := m.start(); err != nil {
		return m, errors.Join(err, m.close())
	}
	b, err := os.ReadFile(filepath.Join(m.root, "machine-id"))
	m.id = strings.TrimSpace(string(b))
	return m, err
}

func (m *machine) log() string { return filepath.Join(m.dir, "log") }

func (m *machine) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	conf, err := json.Marshal(m.conf)
	if err != nil {
		return err
	}
	m.proc, err = kit.Start(kit.ProcessOptions{Path: self, Env: []string{daemonEnv + "=" + string(conf)}, Log: m.log()})
	if err != nil {
		return err
	}
	m.down = false
	m.client = control.NewClient(m.conf.Socket)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return m.proc.WaitHealthy(ctx, func(ctx context.Context) error { _, err := m.client.List(ctx); return err })
}

// kill is the end of the driver in the middle of whatever it does. The kernel, and so all that was written, lives on: tests/crash is about the other.
func (m *machine) kill() error {
	m.proc.Kill9()
	m.client.Close()
	m.down = true
	return m.clear()
}

// clear takes dead mounts away, so that nothing here hangs on them.
func (m *machine) clear() error {
	mounts, err := filepath.Glob(filepath.Join(m.root, "mnt", "*"))
	for _, path := range mounts {
		if uerr := unix.Unmount(path, unix.MNT_DETACH); uerr != nil && !errors.Is(uerr, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("take away %s: %w", path, uerr))
		}
	}
	return err
}

// stop ends the driver as an administrator would.
func (m *machine) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := m.proc.Term(ctx)
	m.client.Close()
	m.down = true
	return err
}

func (m *machine) close() error {
	if m.proc != nil {
		select {
		case <-m.proc.Done():
		default:
			m.proc.Kill9()
		}
		m.client.Close()
	}
	return errors.Join(m.clear(), m.complaints(), m.pool.Close())
}

// complaints are lines of the log that no driver may ever write.
func (m *machine) complaints() error {
	b, err := os.ReadFile(m.log())
	if err != nil {
		return err
	}
	for _, bad := range []string{"WARNING: DATA RACE", "panic:", "fatal error:", `"panic":`, "mistake in the program"} {
		if i := strings.Index(string(b), bad); i >= 0 {
			return fmt.Errorf("machine %s says %s:\n%s", m.name, bad, b[i:min(len(b), i+6000)])
		}
	}
	return nil
}

// callLimit ends a call that hangs, which is a failure.
const callLimit = 2 * time.Minute

// call is one request to the driver.
func (m *machine) call(do func(ctx context.Context, c *control.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	err := do(ctx, m.client)
	if ctx.Err() != nil {
		return fmt.Errorf("%w: machine %s did not answer within %v: %w", errWrong, m.name, callLimit, err)
	}
	return err
}

// errWrong marks what no circumstance excuses.
var errWrong = errors.New("wrong")
