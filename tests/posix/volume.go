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

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/hive"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store/memory"
	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// stage is a pool, and the blocks of the snapshots that were published from it.
type stage struct {
	dir    string
	pool   *kit.LoopPool
	blocks *memory.Store
	key    seal.Privkey
	log    zerolog.Logger
}

// chunk is small, so that files of modest size have many.
const chunk = 64 << 10

func newStage(dir string, size uint64, log zerolog.Logger) (*stage, error) {
	key, err := seal.GeneratePrivkey()
	if err != nil {
		return nil, err
	}
	pool, err := kit.NewPool(dir, size)
	if err != nil {
		return nil, err
	}
	return &stage{dir: dir, pool: pool, blocks: memory.New(), key: key, log: log}, nil
}

func (s *stage) close() error { return s.pool.Close() }

func (s *stage) path(name string) string { return filepath.Join(s.pool.Dir, name) }

// plain makes a subvolume that is not mounted through us.
func (s *stage) plain(name string) (string, error) {
	path := s.path(name)
	return path, backing.CreateSubvolume(path)
}

// volume makes the volume name that shows a snapshot of what fill writes. Nothing of it is here yet.
func (s *stage) volume(name string, fill func(dir string) error) error {
	source, err := s.plain(name + "-source")
	if err != nil {
		return err
	}
	if err := fill(source); err != nil {
		return fmt.Errorf("fill %s: %w", source, err)
	}
	root, err := s.publish(source)
	if err != nil {
		return err
	}
	path, err := s.plain(name)
	if err != nil {
		return err
	}
	_, err = lazy.Create(context.Background(), path, s.blocks, s.key.Sealer(), root)
	return err
}

// state makes the volume name, without content that a test looks at: complete, or never complete.
func (s *stage) state(ctx context.Context, name, state string) error {
	if state != stateLocal {
		return s.volume(name, remoteTree)
	}
	if err := s.volume(name, func(string) error { return nil }); err != nil {
		return err
	}
	return s.hydrate(ctx, name)
}

// remoteTree is content for a volume that stays incomplete.
func remoteTree(dir string) error {
	for i := range 3 {
		d := filepath.Join(dir, fmt.Sprintf("remote%d", i))
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, "f"), make([]byte, 100), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// publish seals and uploads the subvolume, with a Hive of its own, and deletes it.
func (s *stage) publish(path string) (root cid.Cid, err error) {
	ctx := context.Background()
	file := path + ".hive"
	db, err := hive.NewServer(file, nil, nil)
	if err != nil {
		return root, err
	}
	defer func() { err = errors.Join(err, db.Close(), os.Remove(file)) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return root, err
	}
	web := &http.Server{Handler: db.Handler(), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(l) // always an error: that it was closed
	}()
	defer func() { err = errors.Join(err, web.Close()); <-done }()
	client, err := hive.NewClient("http://"+l.Addr().String(), uuid.NewString(), nil)
	if err != nil {
		return root, err
	}
	if err := client.Create(ctx, s.key.Public()); err != nil {
		return root, err
	}
	snap := path + "-snapshot"
	if err := errors.Join(backing.SyncFS(path), backing.Snapshot(path, snap, true)); err != nil {
		return root, err
	}
	defer func() { err = errors.Join(err, backing.DeleteSubvolume(snap), backing.DeleteSubvolume(path)) }()
	p := replica.New(replica.Deps{Store: s.blocks, Hive: client, Log: s.log})
	r, err := p.Publish(ctx, replica.Job{
		Volume: filepath.Base(path), Key: s.key, Machine: uuid.New(), Snapshot: snap, Created: time.Now(), ChunkSize: chunk,
	})
	return r.Base.Root, err
}

// mounted is a volume that is open and mounted.
type mounted struct {
	bt   *backing.Tree
	tree *lazy.Tree
	fs   *fusefs.FS
	dir  string
}

// mount opens the volume name and shows it at dir.
func (s *stage) mount(name, dir string, lopt lazy.Options, opt fusefs.Options) (*mounted, error) {
	bt, err := backing.OpenTree(s.path(name))
	if err != nil {
		return nil, err
	}
	lopt.Volume, lopt.Log = name, s.log
	tree, err := lazy.Open(context.Background(), bt, s.blocks, s.key.Sealer(), lopt)
	if err != nil {
		return nil, errors.Join(err, bt.Close())
	}
	opt.FSName, opt.Log = name, s.log
	fs, err := fusefs.Mount(bt, tree, dir, opt)
	if err != nil {
		return nil, errors.Join(err, tree.Close(), bt.Close())
	}
	return &mounted{bt: bt, tree: tree, fs: fs, dir: dir}, nil
}

// wait returns when the mount is gone and everything of it is closed.
func (m *mounted) wait() error {
	m.fs.Wait()
	return errors.Join(m.tree.Close(), m.bt.Close())
}

// unmount takes the mount away; where something still uses it, by force, which is an error.
func (m *mounted) unmount() error {
	err := m.fs.Unmount()
	if err != nil {
		err = errors.Join(err, m.fs.Abort())
	}
	return errors.Join(err, m.wait())
}

// hydrate fetches everything of the volume name.
func (s *stage) hydrate(ctx context.Context, name string) error {
	bt, err := backing.OpenTree(s.path(name))
	if err != nil {
		return err
	}
	tree, err := lazy.Open(ctx, bt, s.blocks, s.key.Sealer(), lazy.Options{Volume: name, Log: s.log})
	if err != nil {
		return errors.Join(err, bt.Close())
	}
	return errors.Join(tree.Run(ctx), tree.Close(), bt.Close())
}
