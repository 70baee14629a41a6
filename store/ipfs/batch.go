package ipfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A batch is committed when it has so many blocks or bytes. Larger ones cost
// fewer syncs of folders; a smaller one shows its blocks sooner.
const (
	batchBlocks = 512
	batchBytes  = 64 << 20
)

const (
	// syncGroup is how many files are synced at a time. The first of them makes the file system write its journal, with
	// what it has of all the others; theirs then cost next to nothing, and flushes of the disk that are asked for at once are made one.
	syncGroup = 64
	// syncsAtOnce is how many syncs a node asks for at once, each of which holds a thread. With 16, batches of small blocks took 1.4 times
	// as long on a disk whose flush takes 5 ms.
	syncsAtOnce = 64
)

// tempDir is where flatfs has files that are being written; opening clears it.
const tempDir = ".temp"

// batch collects blocks for one round of syncs. It is used by one goroutine
// and ended by either commit or discard.
//
// flatfs has batches of its own. They sync each file as it comes and then folder by folder: where a flush of the disk takes some
// milliseconds, a batch of 100 small blocks waited for 40 of them, one after the other.
type batch struct {
	b     *blockFiles
	keys  []datastore.Key
	names []string // of their files, as long as these are not in place
	bytes int

	open    []*os.File // written, and not given to syncing yet
	syncing *errgroup.Group
	failed  error // of the disk; nothing is committed any more
}

// add writes a verified block, unless it is durable already.
func (t *batch) add(ctx context.Context, c cid.Cid, data []byte) error {
	key := keyOf(c)
	t.b.sweep.RLock()
	size, present, err := t.b.touchLocked(key)
	t.b.sweep.RUnlock()
	if err != nil {
		return err
	}
	if present && size == len(data) && !t.b.isUnsynced(key) {
		return nil
	}
	if err := errors.Join(t.failed, ctx.Err()); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(t.b.dir, tempDir), "block-*")
	if err != nil {
		t.failed = err
		return err
	}
	t.keys, t.names = append(t.keys, key), append(t.names, f.Name())
	t.open = append(t.open, f)
	t.bytes += len(data)
	if _, err := f.Write(data); err != nil {
		t.failed = err
		return err
	}
	// The disk begins to write while the next block arrives; that it is written is what Sync says.
	_ = unix.SyncFileRange(int(f.Fd()), 0, int64(len(data)), unix.SYNC_FILE_RANGE_WRITE)
	if len(t.keys) >= batchBlocks || t.bytes >= batchBytes {
		return t.commit()
	}
	if len(t.open) >= syncGroup {
		return t.sync()
	}
	return nil
}

// sync begins to sync what was written, after what is being synced.
func (t *batch) sync() error {
	if err := t.wait(); err != nil {
		return err
	}
	files := t.open
	t.open, t.syncing = nil, new(errgroup.Group)
	t.syncing.Go(func() error {
		var g errgroup.Group
		for _, f := range files {
			g.Go(func() error { return errors.Join(t.b.atOnce(f.Sync), f.Close()) })
		}
		return g.Wait()
	})
	return nil
}

// wait waits for what is being synced.
func (t *batch) wait() error {
	if t.syncing == nil {
		return nil
	}
	err := t.syncing.Wait()
	t.syncing = nil
	if err != nil {
		t.failed = err
	}
	return err
}

// commit makes everything that was added durable and visible, but where the disk failed on any of it.
func (t *batch) commit() error {
	if t.failed != nil || len(t.keys) == 0 {
		return t.failed
	}
	// Order:
	//  1. the bytes are synced in files of another name; a crash leaves
	//     those, and opening removes them.
	//  2. marked as unsynced: who finds one of the blocks from here on does
	//     not take it for durable.
	//  3. renamed into place, the folders synced, and the top folder, which
	//     has the names of those.
	//  4. the mark goes.
	if err := errors.Join(t.sync(), t.wait()); err != nil {
		return err
	}
	t.b.mu.Lock()
	for _, k := range t.keys {
		t.b.unsynced[k]++
	}
	t.b.mu.Unlock()
	if err := t.place(); err != nil {
		t.failed = err
		return err // the marks stay
	}
	t.b.mu.Lock()
	for _, k := range t.keys {
		if t.b.unsynced[k]--; t.b.unsynced[k] == 0 {
			delete(t.b.unsynced, k)
		}
	}
	t.b.mu.Unlock()
	t.keys, t.names, t.bytes = nil, nil, 0
	return nil
}

// place renames the files to what flatfs calls them, and makes that durable.
func (t *batch) place() error {
	t.b.sweep.RLock()
	defer t.b.sweep.RUnlock()
	folders := map[string]bool{t.b.dir: true}
	for i, k := range t.keys {
		path := t.b.path(k)
		dir := filepath.Dir(path)
		if !folders[dir] {
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			folders[dir] = true
		}
		if err := os.Rename(t.names[i], path); err != nil {
			return fmt.Errorf("put block in place: %w", err)
		}
	}
	var g errgroup.Group
	for dir := range folders {
		g.Go(func() error { return t.b.atOnce(func() error { return syncDir(dir) }) })
	}
	return g.Wait()
}

// discard drops what was added and not committed.
func (t *batch) discard() {
	_ = t.wait()
	for _, f := range t.open {
		_ = f.Close()
	}
	for _, name := range t.names {
		_ = os.Remove(name) // what stays, opening removes
	}
	t.keys, t.names, t.open, t.bytes = nil, nil, nil, 0
}
