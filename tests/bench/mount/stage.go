package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// poolSize is that of a machine's pool; the file is sparse.
const poolSize = 4 << 30

// fileSize is that of each file: not the content is measured, but the tree.
const fileSize = 512

// stage is the Hive of one run, and a folder for the machines.
type stage struct {
	dir, binary string
	token       string
	addr        string
	hive        *kit.Process
	machines    int
}

func (s *stage) close() error {
	if s.hive == nil {
		return nil
	}
	return stop(s.hive)
}

func stop(p *kit.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.Term(ctx)
}

func (s *stage) startHive(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.addr, s.token = l.Addr().String(), uuid.NewString()
	if err := l.Close(); err != nil {
		return err
	}
	s.hive, err = kit.Start(kit.ProcessOptions{
		Path: s.binary, Args: []string{"hive", "--listen", s.addr, "--data", filepath.Join(s.dir, "hive")}, Log: filepath.Join(s.dir, "hive.log"),
	})
	if err != nil {
		return err
	}
	return s.hive.WaitHealthy(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/health", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	})
}

// machine has a pool and a daemon of its own.
type machine struct {
	pool   *kit.LoopPool
	daemon *kit.Process
	api    *control.Client
	dir    string
}

// newMachine starts one that reaches the Hive at addr.
func (s *stage) newMachine(ctx context.Context, addr string) (_ *machine, err error) {
	s.machines++
	m := &machine{dir: filepath.Join(s.dir, fmt.Sprintf("m%d", s.machines))}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	if m.pool, err = kit.NewPool(m.dir, poolSize); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	socket, url := filepath.Join(m.dir, "s"), "http://"+addr
	m.daemon, err = kit.Start(kit.ProcessOptions{
		Path: s.binary,
		Args: []string{"run", "--root", m.pool.Dir, "--socket", socket, "--hive", url, "--ipfs", url, "--interval", "off"},
		Env:  []string{"FRACTAL_TOKEN=" + s.token}, Log: filepath.Join(s.dir, "machines.log"),
	})
	if err != nil {
		return nil, err
	}
	m.api = control.NewClient(socket)
	return m, m.daemon.WaitHealthy(ctx, func(ctx context.Context) error {
		_, err := m.api.List(ctx) // not the status, which asks the Hive: the first question shall be the measured one
		return err
	})
}

// close ends the machine the hard way: what it could still publish is nobody's concern.
func (m *machine) close() error {
	if m.api != nil {
		m.api.Close()
	}
	if m.daemon != nil {
		m.daemon.Kill9()
	}
	mounts, err := filepath.Glob(filepath.Join(m.pool.Dir, "mnt", "*"))
	for _, p := range mounts {
		if uerr := unix.Unmount(p, unix.MNT_DETACH); uerr != nil && uerr != unix.EINVAL {
			err = errors.Join(err, fmt.Errorf("take away %s: %w", p, uerr))
		}
	}
	return errors.Join(err, m.pool.Close(), os.RemoveAll(m.dir))
}

// makeVolumes publishes the trees from a machine of their own.
func (s *stage) makeVolumes(ctx context.Context, trees []*tree) (err error) {
	m, err := s.newMachine(ctx, s.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	for i, t := range trees {
		name := fmt.Sprint("v", i)
		info, err := m.api.Create(ctx, name, nil)
		if err != nil {
			return err
		}
		if t.key, err = m.api.KeyExport(ctx, name); err != nil {
			return err
		}
		if _, err := m.api.Mount(ctx, name, "", nil); err != nil {
			return err
		}
		began := time.Now()
		// Straight into the subvolume: the mount has not been looked at yet.
		if err := t.make(filepath.Join(m.pool.Dir, "volumes", info.Pubkey, "data")); err != nil {
			return err
		}
		made := time.Now()
		if _, err := m.api.Flush(ctx, name, nil); err != nil {
			return err
		}
		fmt.Printf("%s: made in %v, published in %v\n", t.name,
			made.Sub(began).Round(time.Millisecond), time.Since(made).Round(time.Millisecond))
	}
	return nil
}

// make makes the tree's files in dir.
func (t *tree) make(dir string) error {
	dirs := []string{dir}
	for _, n := range t.folders {
		var below []string
		for _, d := range dirs {
			for i := range n {
				p := fmt.Sprintf("%s/folder-%03d", d, i)
				if err := os.Mkdir(p, 0o755); err != nil {
					return err
				}
				below = append(below, p)
			}
		}
		dirs = below
	}
	rnd := rand.NewChaCha8([32]byte{1})
	b := make([]byte, fileSize)
	for i := range t.files {
		if _, err := rnd.Read(b); err != nil {
			return err
		}
		if err := os.WriteFile(fmt.Sprintf("%s/file-%06d", dirs[i%len(dirs)], i), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fresh has a new machine mount the tree over w, and takes the time.
func (s *stage) fresh(ctx context.Context, t *tree, w way, everythingFirst bool) (f figures, err error) {
	addr := s.addr
	if w.link != nil {
		r, err := kit.NewRelay(s.addr, *w.link)
		if err != nil {
			return f, err
		}
		defer r.Close() // an error would be that of closing a listener twice
		addr = r.Addr()
	}
	m, err := s.newMachine(ctx, addr)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, m.close()) }()

	// What the machine before left to be written would be paid for by this one.
	unix.Sync()
	began := time.Now()
	if _, err := m.api.Create(ctx, "v", map[string]string{"privkey": t.key, "takeover": "always"}); err != nil {
		return f, err
	}
	path, err := m.api.Mount(ctx, "v", "", nil)
	if err != nil {
		return f, err
	}
	f.mounted = time.Since(began)
	if everythingFirst {
		if _, err := m.api.Hydrate(ctx, "v", control.HydrateRequest{Wait: true}, nil); err != nil {
			return f, err
		}
	}
	list, err := os.ReadDir(path)
	f.listed = time.Since(began)
	if err == nil && len(list) != t.folders[0] {
		err = fmt.Errorf("the root has %d folders, want %d", len(list), t.folders[0])
	}
	if err != nil {
		return f, err
	}
	file := path
	for range t.folders {
		file += "/folder-003"
	}
	// The files went round the folders.
	number := 3
	if len(t.folders) > 1 {
		number = 3*t.folders[1] + 3
	}
	b, err := os.ReadFile(fmt.Sprintf("%s/file-%06d", file, number))
	f.file = time.Since(began)
	if err == nil && len(b) != fileSize {
		err = fmt.Errorf("a file has %d bytes, want %d", len(b), fileSize)
	}
	return f, err
}
