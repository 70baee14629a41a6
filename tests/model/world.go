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
	"fractal-lazy/hive"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
	"fractal-lazy/store/ipfs"
	"fractal-lazy/tests/kit"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

const (
	poolSize  = 1536 << 20
	chunkSize = 64 << 10
	token     = "11111111-1111-4111-8111-111111111111"
)

// world has the pool, and the Hive; and for one sequence its key, its block
// node with faults before it, and its subvolumes.
type world struct {
	dir  string
	pool *kit.LoopPool
	hive *hive.Client
	undo []func() error

	key    seal.Privkey
	faults *faulty.Faults
	node   string // URL
	store  store.Store
	base   replica.Base
	subs   []string
	n      int
	ended  []func() error // of the sequence
}

func newWorld(dir string) (w *world, err error) {
	w = &world{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.pool, err = kit.NewPool(dir, poolSize); err != nil {
		return w, err
	}
	w.undo = append(w.undo, w.pool.Close)
	db, err := hive.NewServer(filepath.Join(dir, "hive.db"), nil, nil)
	if err != nil {
		return w, err
	}
	w.undo = append(w.undo, db.Close)
	url, stop, err := listen(db.Handler())
	if err != nil {
		return w, err
	}
	w.undo = append(w.undo, stop)
	w.hive, err = hive.NewClient(url, token, nil)
	return w, err
}

func (w *world) close() error { return unwind(&w.undo) }

func unwind(undo *[]func() error) error {
	var errs []error
	for i := len(*undo) - 1; i >= 0; i-- {
		errs = append(errs, (*undo)[i]())
	}
	*undo = nil
	return errors.Join(errs...)
}

// listen serves h on loopback until stop.
func listen(h http.Handler) (url string, stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	web := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(l) // always an error: that it was closed
	}()
	return "http://" + l.Addr().String(), func() error { err := web.Close(); <-done; return err }, nil
}

// begin makes what a sequence needs; end takes it away.
func (w *world) begin() (err error) {
	if w.key, err = seal.GeneratePrivkey(); err != nil {
		return err
	}
	if err := w.hive.Create(context.Background(), w.key.Public()); err != nil {
		return err
	}
	w.faults, w.base = &faulty.Faults{}, replica.Base{}
	dir, err := os.MkdirTemp(w.dir, "node-")
	if err != nil {
		return err
	}
	w.ended = append(w.ended, func() error { return os.RemoveAll(dir) })
	node, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: dir})
	if err != nil {
		return err
	}
	w.ended = append(w.ended, node.Close)
	url, stop, err := listen(w.faults.Handler(node.Handler()))
	if err != nil {
		return err
	}
	w.ended = append(w.ended, stop)
	w.node = url
	w.store, err = ipfs.NewClient(ipfs.Options{RPC: url, Token: token})
	return err
}

func (w *world) end() error {
	err := w.drop(w.subs...)
	w.subs = nil
	return errors.Join(err, unwind(&w.ended))
}

// drop deletes subvolumes.
func (w *world) drop(subs ...string) error {
	var errs []error
	for _, s := range subs {
		errs = append(errs, backing.DeleteSubvolume(s))
		for i := range w.subs {
			if w.subs[i] == s {
				w.subs = append(w.subs[:i:i], w.subs[i+1:]...)
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (w *world) path(what string) string {
	w.n++
	p := filepath.Join(w.pool.Dir, fmt.Sprintf("%s%d", what, w.n))
	w.subs = append(w.subs, p)
	return p
}

func (w *world) subvolume(what string) (string, error) {
	p := w.path(what)
	return p, backing.CreateSubvolume(p)
}

// publish uploads the snapshot on top of the one before. whole: as one who has nothing of that.
func (w *world) publish(snap string, whole bool) (cid.Cid, error) {
	p := replica.New(replica.Deps{Store: w.store, Hive: w.hive, Log: zerolog.New(os.Stderr).Level(zerolog.WarnLevel)})
	base := w.base
	if whole {
		base.Local = ""
	}
	r, err := p.Publish(context.Background(), replica.Job{
		Volume: "model", Key: w.key, Machine: uuid.UUID{1}, Snapshot: snap, Created: time.Now(), Base: base, ChunkSize: chunkSize,
	})
	if err != nil {
		return cid.Undef, fmt.Errorf("publish %s: %w", snap, err)
	}
	w.base = r.Base
	return r.Base.Root, nil
}

// volume makes a subvolume that shows the published snapshot.
func (w *world) volume(root cid.Cid) (string, error) {
	p, err := w.subvolume("volume")
	if err != nil {
		return p, err
	}
	_, err = lazy.Create(context.Background(), p, w.store, w.key.Sealer(), root)
	return p, err
}
