package ipfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	flatfs "github.com/ipfs/go-ds-flatfs"
	format "github.com/ipfs/go-ipld-format"
)

// shards is flatfs's own default less one letter: 32 folders, since every
// batch syncs each folder that it touched. 10 million blocks make 312,000
// names a folder, which ext4, XFS and BTRFS index well.
var shards = flatfs.NextToLast(1)

// blockFiles keeps blocks as files, one each, in the layout of flatfs, which reads and deletes them; batch writes them. On top of it
// comes what an acknowledged block needs: it is durable, and it is spared by
// collection for a while.
type blockFiles struct {
	ds    *flatfs.Datastore
	dir   string
	shard flatfs.ShardFunc
	grace time.Duration
	syncs chan struct{} // under way, of all batches

	// sweep is held shared while a block is found present or put in its
	// place, and alone while a collection looks at a block's age and deletes
	// it; so no block goes away between being found and being touched.
	sweep sync.RWMutex

	// mu guards unsynced: blocks whose names are visible but may not yet be
	// durable, with the number of batches that have them. Finding such a
	// block is no reason to leave it out. A batch that failed never takes
	// its blocks out again, so that they are written again.
	mu       sync.Mutex
	unsynced map[datastore.Key]int
}

func openBlockFiles(dir string, grace time.Duration) (*blockFiles, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := createBlockFiles(dir); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	id, err := flatfs.ReadShardFunc(dir)
	if err != nil {
		return nil, err
	}
	ds, err := flatfs.Open(dir, true)
	if err != nil {
		return nil, err
	}
	return &blockFiles{ds: ds, dir: dir, shard: id.Func(), grace: grace, unsynced: map[datastore.Key]int{},
		syncs: make(chan struct{}, syncsAtOnce)}, nil
}

// createBlockFiles makes the folder aside and moves it into place: flatfs
// does not open a folder whose creation was cut off.
func createBlockFiles(dir string) error {
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := flatfs.Create(tmp, shards); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(tmp, flatfs.SHARDING_FN))
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), syncDir(tmp)); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func (b *blockFiles) close() error { return b.ds.Close() }

func keyOf(c cid.Cid) datastore.Key { return dshelp.MultihashToDsKey(c.Hash()) }

// path is where flatfs has, or would have, the block.
func (b *blockFiles) path(key datastore.Key) string {
	name := key.String()[1:]
	return filepath.Join(b.dir, b.shard(name), name+".data")
}

// get returns a block's bytes, or an error that wraps format.ErrNotFound.
func (b *blockFiles) get(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := b.ds.Get(ctx, keyOf(c))
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, notFound(c)
	}
	return data, err
}

// size returns a block's length without touching it.
func (b *blockFiles) size(ctx context.Context, c cid.Cid) (int, error) {
	size, err := b.ds.GetSize(ctx, keyOf(c))
	if errors.Is(err, datastore.ErrNotFound) {
		return 0, notFound(c)
	}
	return size, err
}

// atOnce runs a sync when fewer than syncsAtOnce are under way.
func (b *blockFiles) atOnce(sync func() error) error {
	b.syncs <- struct{}{}
	defer func() { <-b.syncs }()
	return sync()
}

// count returns how many blocks there are, and their bytes. What comes or goes meanwhile may be in it or not.
func (b *blockFiles) count(ctx context.Context) (blocks, bytes uint64, err error) {
	shards, err := os.ReadDir(b.dir)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range shards {
		if !s.IsDir() || s.Name() == tempDir {
			continue
		}
		files, err := os.ReadDir(filepath.Join(b.dir, s.Name()))
		if err != nil {
			return 0, 0, err
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return 0, 0, err
			}
			info, err := f.Info()
			if errors.Is(err, fs.ErrNotExist) { // collected
				continue
			}
			if err != nil {
				return 0, 0, err
			}
			blocks, bytes = blocks+1, bytes+uint64(info.Size())
		}
	}
	return blocks, bytes, nil
}

// stat is size for those who will rely on the answer: from here on the block
// is spared by collection as if it had just been written. One that may not be
// durable yet is not there, for batch.add the same: it is sent once more.
func (b *blockFiles) stat(c cid.Cid) (int, error) {
	b.sweep.RLock()
	defer b.sweep.RUnlock()
	key := keyOf(c)
	size, ok, err := b.touchLocked(key)
	if err == nil && (!ok || b.isUnsynced(key)) {
		err = notFound(c)
	}
	return size, err
}

// touchLocked returns the size of a block that is there and renews its age.
// The caller holds sweep.
func (b *blockFiles) touchLocked(key datastore.Key) (size int, ok bool, err error) {
	path := b.path(key)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	// An eighth of the grace is not worth a write; expired adds it again.
	now := time.Now()
	if now.Sub(info.ModTime()) > b.grace/8 {
		if err := os.Chtimes(path, time.Time{}, now); err != nil {
			return 0, false, err
		}
	}
	return int(info.Size()), true, nil
}

func (b *blockFiles) isUnsynced(key datastore.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unsynced[key] > 0
}

// notFound is the error of Kubo, word for word: clients read it.
func notFound(c cid.Cid) error {
	return fmt.Errorf("block was not found locally (offline): %w", format.ErrNotFound{Cid: c})
}
