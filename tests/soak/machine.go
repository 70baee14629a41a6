package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// world is a Hive and the machines that use it, all under dir.
type world struct {
	dir, binary, addr, token string
	hive                     *kit.Process
}

func newWorld(ctx context.Context, dir, binary string) (*world, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, binary: binary, addr: l.Addr().String(), token: uuid.NewString()}
	if err := l.Close(); err != nil {
		return nil, err
	}
	w.hive, err = kit.Start(kit.ProcessOptions{Path: binary, Args: []string{"hive", "--listen", w.addr, "--data", filepath.Join(dir, "hive")},
		Log: filepath.Join(dir, "hive.log")})
	if err != nil {
		return nil, err
	}
	err = w.hive.WaitHealthy(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.addr+"/health", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if err := res.Body.Close(); err != nil || res.StatusCode == http.StatusOK {
			return err
		}
		return errors.New(res.Status)
	})
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) close() error { return term(w.hive) }

func term(p *kit.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return p.Term(ctx)
}

// machine has a pool and a daemon.
type machine struct {
	dir, socket string
	pool        *kit.LoopPool
	daemon      *kit.Process
	api         *control.Client
}

func (w *world) machine(ctx context.Context, name string) (_ *machine, err error) {
	m := &machine{dir: filepath.Join(w.dir, name)}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	if m.pool, err = kit.NewPool(m.dir, kit.PoolSize); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	m.socket = filepath.Join(m.dir, "s")
	url := "http://" + w.addr
	m.daemon, err = kit.Start(kit.ProcessOptions{
		Path: w.binary,
		Args: []string{"run", "--root", m.pool.Dir, "--socket", m.socket, "--hive", url, "--ipfs", url, "--interval", "off"},
		Env:  []string{"FRACTAL_TOKEN=" + w.token}, Log: filepath.Join(w.dir, name+".log"),
	})
	if err != nil {
		return nil, err
	}
	m.api = control.NewClient(m.socket)
	return m, m.daemon.WaitHealthy(ctx, func(ctx context.Context) error {
		_, err := m.api.List(ctx)
		return err
	})
}

// close ends the daemon, and takes the machine away.
func (m *machine) close() error {
	if m.api != nil {
		m.api.Close()
	}
	var err error
	if m.daemon != nil {
		err = term(m.daemon)
	}
	mounts, gerr := filepath.Glob(filepath.Join(m.pool.Dir, "mnt", "*"))
	err = errors.Join(err, gerr)
	for _, p := range mounts {
		if uerr := unix.Unmount(p, unix.MNT_DETACH); uerr != nil && uerr != unix.EINVAL {
			err = errors.Join(err, fmt.Errorf("take away %s: %w", p, uerr))
		}
	}
	return errors.Join(err, m.pool.Close(), os.RemoveAll(m.dir))
}
