package replica

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// Bounds of the node cache.
const (
	maxNodes  = 256 << 20 // bytes
	keepNodes = maxNodes / 8 * 7
	nodeTouch = time.Hour // how stale the time of a node's last use may be
)

// CachedNodes reads the cache that a Publisher keeps in the folder Dir, and nothing else: a node that is not there is store.ErrNotFound.
type CachedNodes struct{ Dir string }

var _ snapshot.Getter = CachedNodes{}

// Get implements snapshot.Getter. What it returns matches its CID.
func (n CachedNodes) Get(_ context.Context, c cid.Cid) ([]byte, error) {
	cache := nodes{dir: n.Dir}
	if !cache.caches(c) {
		return nil, store.ErrNotFound
	}
	data, err := readNode(cache.path(c))
	if err != nil || store.Verify(c, data) != nil {
		return nil, store.ErrNotFound
	}
	return data, nil
}

// Keep puts a tree node, a block that matches c, into the cache; other blocks are ignored. It cannot fail: what is not kept is fetched again.
func (p *Publisher) Keep(c cid.Cid, node []byte) { p.nodes.put(c, node) }

// nodes is a getter with a cache of tree nodes (dag-cbor blocks, sealed as they are everywhere) in a folder: a file each, named by
// its CID, in folders by the CID's last two characters. The walk of a base reads all of its nodes, every time.
//
// The cache cannot fail a Job: a file that does not match its CID is a miss and deleted, and one that cannot be written is left
// out. Safe for concurrent use; two processes may share the folder.
type nodes struct {
	dir   string // empty: no cache
	store snapshot.Getter
	log   zerolog.Logger

	mu      sync.Mutex
	counted bool  // total is known
	total   int64 // bytes in dir, about
	warned  bool  // a failed write was logged
}

var _ snapshot.Getter = (*nodes)(nil)

// Get returns the block c, from the cache where it is a node.
func (n *nodes) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if !n.caches(c) {
		return n.store.Get(ctx, c)
	}
	path := n.path(c)
	data, err := readNode(path)
	if err == nil && store.Verify(c, data) == nil {
		return data, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		os.Remove(path) // torn by a crash; fetched again
	}
	data, err = n.store.Get(ctx, c)
	if err == nil {
		n.put(c, data)
	}
	return data, err
}

// put caches a node; other blocks are ignored.
func (n *nodes) put(c cid.Cid, data []byte) {
	if !n.caches(c) {
		return
	}
	err := writeNode(n.path(c), data)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case errors.Is(err, fs.ErrExist):
	case err != nil:
		if !n.warned {
			n.warned = true
			n.log.Warn().Err(err).Str("op", "cache nodes").Msg("tree nodes are not cached")
		}
	default:
		n.total += int64(len(data))
		if !n.counted || n.total > maxNodes {
			n.trimLocked()
		}
	}
}

func (n *nodes) caches(c cid.Cid) bool {
	return n.dir != "" && c.Defined() && c.Prefix().Codec == store.DagCBOR
}

func (n *nodes) path(c cid.Cid) string {
	name := c.String()
	return filepath.Join(n.dir, name[len(name)-2:], name)
}

// trimLocked counts what is there and, over the bound, removes what was not used for the longest time.
func (n *nodes) trimLocked() {
	type node struct {
		path string
		size int64
		used time.Time
	}
	var all []node
	var total int64
	_ = filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be seen is not counted
		}
		if info, err := d.Info(); err == nil {
			all = append(all, node{path, info.Size(), info.ModTime()})
			total += info.Size()
		}
		return nil
	})
	if total > maxNodes {
		slices.SortFunc(all, func(a, b node) int { return a.used.Compare(b.used) })
		for _, f := range all {
			if total <= keepNodes {
				break
			}
			if os.Remove(f.path) == nil {
				total -= f.size
			}
		}
	}
	n.total, n.counted = total, true
}

// readNode reads a cached file and notes that it was used.
func readNode(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > store.MaxBlock {
		return nil, store.ErrTooLarge
	}
	if now := time.Now(); now.Sub(info.ModTime()) > nodeTouch {
		_ = os.Chtimes(path, now, now)
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(f, data)
	return data, err
}

// writeNode writes a file under another name and renames it, without fsync: what a crash tears is found by its CID.
func writeNode(path string, data []byte) error {
	if _, err := os.Stat(path); err == nil {
		return fs.ErrExist
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// known is the set of nodes that a walk read of its base: the store has them, so equal ones need not be put.
type known struct {
	nodes snapshot.Getter

	mu  sync.Mutex
	set map[[32]byte]struct{} // SHA-256 of dag-cbor blocks
}

var _ snapshot.Getter = (*known)(nil)

// Get implements snapshot.Getter.
func (k *known) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := k.nodes.Get(ctx, c)
	if err == nil && c.Prefix().Codec == store.DagCBOR {
		k.mu.Lock()
		k.set[digest(c)] = struct{}{}
		k.mu.Unlock()
	}
	return data, err
}

func (k *known) has(c cid.Cid) bool {
	if c.Prefix().Codec != store.DagCBOR {
		return false
	}
	k.mu.Lock()
	_, ok := k.set[digest(c)]
	k.mu.Unlock()
	return ok
}

// digest returns the hash in a CID that store.Check lets pass.
func digest(c cid.Cid) (d [32]byte) {
	h := c.Hash()
	copy(d[:], h[len(h)-len(d):])
	return d
}
