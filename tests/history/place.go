package main

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store"
	"fractal-lazy/store/ipfs"

	"github.com/ipfs/go-cid"
)

const token = "11111111-1111-4111-8111-111111111111"

// place is a Hive and a block store, both in this process and on loopback.
type place struct {
	dir    string
	db     *hive.Server
	node   *ipfs.Node
	hive   *hive.Client // ours, which no cable is pulled of
	direct *cable       // the same
	undo   []func() error
}

// cable is how one machine reaches a place. Pulled, every connection breaks.
type cable struct {
	hiveURL, ipfsURL string
	pulled           atomic.Bool
}

func newPlace(dir string, now func() time.Time) (p *place, err error) {
	p = &place{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return p, err
	}
	if p.db, err = hive.NewServer(filepath.Join(dir, "hive.db"), nil, now); err != nil {
		return p, err
	}
	p.undo = append(p.undo, p.db.Close)
	if p.node, err = ipfs.OpenNode(ipfs.NodeOptions{Dir: filepath.Join(dir, "ipfs")}); err != nil {
		return p, err
	}
	p.undo = append(p.undo, p.node.Close)
	if p.direct, err = p.cable(); err != nil {
		return p, err
	}
	p.hive, err = hive.NewClient(p.direct.hiveURL, token, nil)
	return p, err
}

func (p *place) close() error {
	var errs []error
	for i := len(p.undo) - 1; i >= 0; i-- {
		errs = append(errs, p.undo[i]())
	}
	p.undo = nil
	return errors.Join(errs...)
}

// cable lays one to the place. It stays until close.
func (p *place) cable() (*cable, error) {
	c := &cable{}
	for to, h := range map[*string]http.Handler{&c.hiveURL: p.db.Handler(), &c.ipfsURL: p.node.Handler()} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.pulled.Load() {
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})}
		done := make(chan struct{})
		go func() { _ = web.Serve(l); close(done) }() // always an error: that it was closed
		p.undo = append(p.undo, func() error { err := web.Close(); <-done; return err })
		*to = "http://" + l.Addr().String()
	}
	return c, nil
}

// rpc asks the block node.
func (p *place) rpc(ctx context.Context, call string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", p.direct.ipfsURL+"/api/v0/"+call, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s: %s: %s", call, res.Status, b)
	}
	return b, err
}

// collect has the node delete all that no pin reaches, of any age.
func (p *place) collect(ctx context.Context) error {
	_, err := p.rpc(ctx, "repo/gc?force=true&silent=true")
	return err
}

func (p *place) pins(ctx context.Context) (map[string]bool, error) {
	b, err := p.rpc(ctx, "pin/ls?type=recursive")
	if err != nil {
		return nil, err
	}
	var answer struct{ Keys map[string]any }
	if err := json.Unmarshal(b, &answer); err != nil {
		return nil, err
	}
	pins := map[string]bool{}
	for k := range answer.Keys {
		pins[k] = true
	}
	return pins, nil
}

// files are the blocks that are there: the name of each one's file, and its path. It looks at the disk and asks no code of the node.
func (p *place) files() (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(filepath.Join(p.dir, "ipfs", "blocks"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".data") {
			all[strings.TrimSuffix(d.Name(), ".data")] = path
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // it went meanwhile
		}
		return err
	})
	return all, err
}

func fileName(c cid.Cid) string {
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(c.Hash())
}

// reach adds all blocks below root to seen, by the names of their files. The error names the first block that is missing or spoilt.
func reach(files map[string]string, root cid.Cid, seen map[string]bool) error {
	todo := []cid.Cid{root}
	for len(todo) > 0 {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		name := fileName(c)
		if seen[name] {
			continue
		}
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("%w: %s below %s", errGone, c, root)
		}
		b, err := os.ReadFile(path)
		if err == nil {
			err = store.Verify(c, b)
		}
		if err != nil {
			return fmt.Errorf("block %s below %s: %w", c, root, err)
		}
		seen[name] = true
		links, err := store.Links(c, b)
		if err != nil {
			return err
		}
		todo = append(todo, links...)
	}
	return nil
}

var errGone = errors.New("a block that a snapshot needs is gone")

// manifests are those of one volume, ascending.
func (p *place) manifests(ctx context.Context, pub seal.Pubkey) ([]*hive.Manifest, error) {
	all, err := p.hive.All(ctx, pub)
	if errors.Is(err, hive.ErrNotFound) {
		return nil, nil
	}
	return all, err
}

func (p *place) writer(ctx context.Context, pub seal.Pubkey) (string, error) {
	v, err := p.hive.Volume(ctx, pub)
	switch {
	case errors.Is(err, hive.ErrNotFound):
		return "", nil
	case err != nil || v.Writer == nil:
		return "", err
	}
	return v.Writer.String(), nil
}
