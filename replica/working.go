package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"fractal-lazy/backing"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// Working is what applications needed when they began to work with the volume. It goes with a snapshot as its working set: what a machine that mounts it
// does well to fetch before anybody asks.
type Working struct {
	Subvolume [16]byte // UUID of the subvolume that the inode numbers are of: it counts for snapshots of that one only
	Files     []Used   // in the order of their first use
}

// Used is a file of a working set.
type Used struct {
	Ino  uint64
	Data []wire.Range // what was used of it, in bytes, ascending; nil: all
}

// Bounds of a working set that is published. It costs its own size with each snapshot that changes a block of it, 36 bytes a block, and the machine that uses it
// as much memory as its content, for a while.
const (
	maxWorkingBlocks = 2048
	maxWorkingBytes  = 32 << 20
)

// workingSet returns what names the working set of the snapshot in tree, for snapshot.Options. It is only of use, never needed: what of it cannot be found is left
// out, and where nothing is known of this machine the one of the base stays. nodes has what was built.
func workingSet(j *Job, tree *backing.Tree, info *backing.Subvolume, base *wire.Root, nodes snapshot.Getter, s *seal.Sealer) func(context.Context, *wire.DirRef, snapshot.PutTrace) (cid.Cid, error) {
	return func(ctx context.Context, dir *wire.DirRef, put snapshot.PutTrace) (cid.Cid, error) {
		before := cid.Undef
		if base != nil {
			before = base.Trace
			if *dir == base.Dir { // the same tree: a snapshot that only knows better what is used is not worth publishing
				return before, nil
			}
		}
		if j.Working == nil || info.ParentUUID != j.Working.Subvolume || info.ParentUUID == [16]byte{} {
			return before, nil
		}
		g := newGathering(nodes, s, dir)
		for _, u := range j.Working.Files {
			if g.full() {
				break
			}
			if err := g.file(ctx, tree, u); err != nil {
				return cid.Undef, fmt.Errorf("inode %d: %w", u.Ino, err)
			}
		}
		if len(g.blocks) == 0 {
			return before, nil
		}
		return put(&wire.Trace{Blocks: g.blocks})
	}
}

// gathering collects the blocks that lead to the files of a working set, and theirs, in the order in which a machine without any of them would ask for them.
type gathering struct {
	reader *snapshot.Reader
	finder *snapshot.Finder
	root   wire.DirRef
	seen   map[cid.Cid]struct{}
	blocks []cid.Cid
	bytes  uint64 // of content; an estimate, since a pack is fetched whole
}

func newGathering(nodes snapshot.Getter, s *seal.Sealer, root *wire.DirRef) *gathering {
	g := &gathering{root: *root, seen: map[cid.Cid]struct{}{}}
	g.reader = snapshot.NewReader(noting{nodes, g}, s)
	g.finder = snapshot.NewFinder(g.reader)
	return g
}

// noting is a getter that adds to a gathering what is got.
type noting struct {
	snapshot.Getter
	g *gathering
}

// Get implements snapshot.Getter.
func (n noting) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	n.g.add(c)
	return n.Getter.Get(ctx, c)
}

// sentFirst is a getter of what is being uploaded: it has all of that sent where a node is not in the cache, as on a disk that is full.
type sentFirst struct {
	*nodes
	up *uploader
}

// Get implements snapshot.Getter.
func (s sentFirst) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := s.nodes.Get(ctx, c)
	if !errors.Is(err, store.ErrNotFound) {
		return b, err
	}
	if err := s.up.Flush(); err != nil {
		return nil, err
	}
	return s.nodes.Get(ctx, c)
}

func (g *gathering) full() bool {
	return len(g.blocks) >= maxWorkingBlocks || g.bytes >= maxWorkingBytes
}

func (g *gathering) add(c cid.Cid) (isNew bool) {
	if _, ok := g.seen[c]; ok || len(g.blocks) >= maxWorkingBlocks {
		return false
	}
	g.seen[c] = struct{}{}
	g.blocks = append(g.blocks, c)
	return true
}

// file adds one file, under the first of its names that the tree has.
func (g *gathering) file(ctx context.Context, tree *backing.Tree, u Used) error {
	paths, _ := tree.Paths(u.Ino) // one that cannot be told is left out, as one that was removed
	for _, path := range paths {
		e, err := g.find(ctx, path)
		if err != nil {
			return err
		}
		if e != nil && e.Content != nil {
			return g.content(ctx, e.Content, u.Data)
		}
	}
	return nil
}

// find returns the entry at a path below the root, nil where there is none.
func (g *gathering) find(ctx context.Context, path string) (e *wire.Entry, err error) {
	at := &g.root
	for name := range strings.SplitSeq(path, "/") {
		if at == nil {
			return nil, nil
		}
		if e, err = g.finder.Find(ctx, *at, name); e == nil || err != nil {
			return nil, err
		}
		at = e.Dir
	}
	return e, nil
}

func (g *gathering) content(ctx context.Context, c *wire.Content, used []wire.Range) error {
	if used == nil {
		used = []wire.Range{{Len: c.Size}}
	}
	size := uint64(c.ChunkSize)
	for _, r := range used {
		if r.Off >= c.Size || r.Len == 0 {
			continue
		}
		last := (min(r.Off+r.Len, c.Size) - 1) / size
		for w, err := range g.reader.Windows(ctx, c, r.Off/size, last+1) {
			if err != nil {
				return err
			}
			if g.full() {
				return nil
			}
			if g.add(w.Block) {
				g.bytes += min(c.Data, size)
			}
			if w.Patch != nil && g.add(w.Patch.Block) {
				g.bytes += w.Patch.Bytes()
			}
		}
	}
	return nil
}
