package snapshot

import (
	"context"
	"sort"

	"fractal-lazy/snapshot/wire"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
)

// Sizes of a Finder's caches, in nodes.
const (
	foundPages   = 64
	foundIndexes = 32
)

// Finder looks single names up in directories, and keeps the pages and index
// nodes that it came by last. It is used by one goroutine.
type Finder struct {
	r       *Reader
	pages   *lru.Cache[cid.Cid, []wire.Entry]
	indexes *lru.Cache[cid.Cid, []wire.DirChild]
}

// NewFinder returns a Finder that reads with r.
func NewFinder(r *Reader) *Finder {
	pages, err := lru.New[cid.Cid, []wire.Entry](foundPages)
	if err != nil { // the sizes are constants above 0
		panic(err)
	}
	indexes, err := lru.New[cid.Cid, []wire.DirChild](foundIndexes)
	if err != nil {
		panic(err)
	}
	return &Finder{r, pages, indexes}
}

// Find returns the entry of a name, nil where there is none. It must not be changed.
func (f *Finder) Find(ctx context.Context, ref wire.DirRef, name string) (*wire.Entry, error) {
	at := wire.DirChild{Node: ref.Node, Files: ref.Files, Dirs: ref.Dirs, Bytes: ref.Bytes}
	for level := ref.Depth; level > 0; level-- {
		children, ok := f.indexes.Get(at.Node)
		if !ok {
			var err error
			if children, err = f.r.dirIndex(ctx, at, level); err != nil {
				return nil, err
			}
			f.indexes.Add(at.Node, children)
		}
		i := sort.Search(len(children), func(i int) bool { return children[i].First > name })
		if i == 0 {
			return nil, nil
		}
		at = children[i-1]
	}
	entries, ok := f.pages.Get(at.Node)
	if !ok {
		var err error
		if entries, err = f.r.page(ctx, at); err != nil {
			return nil, err
		}
		f.pages.Add(at.Node, entries)
	}
	i := sort.Search(len(entries), func(i int) bool { return entries[i].Name >= name })
	if i == len(entries) || entries[i].Name != name {
		return nil, nil
	}
	return &entries[i], nil
}
