package snapshot

import (
	"context"
	"iter"
	"sort"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// Windows yields the windows of c with from <= Index < to, ascending. Index
// nodes that were used lately cost nothing. An error is the last thing it
// yields. The windows are shared: their Data must not be changed.
func (r *Reader) Windows(ctx context.Context, c *wire.Content, from, to uint64) iter.Seq2[wire.Window, error] {
	return func(yield func(wire.Window, error) bool) {
		if c.Depth == 0 {
			emitWindows(c.Windows, from, to, yield)
			return
		}
		if from >= to {
			return
		}
		pos := wire.FilePos{Size: c.Size, ChunkSize: c.ChunkSize, Level: c.Depth}
		r.walkIndex(ctx, c.Index, pos, from, to, yield)
	}
}

func emitWindows(windows []wire.Window, from, to uint64, yield func(wire.Window, error) bool) bool {
	start := sort.Search(len(windows), func(i int) bool { return windows[i].Index >= from })
	for i := start; i < len(windows) && windows[i].Index < to; i++ {
		if !yield(windows[i], nil) {
			return false
		}
	}
	return true
}

func (r *Reader) walkIndex(ctx context.Context, node cid.Cid, pos wire.FilePos, from, to uint64, yield func(wire.Window, error) bool) bool {
	f, err := r.index(ctx, node, pos)
	if err != nil {
		yield(wire.Window{}, err)
		return false
	}
	if pos.Level == 1 {
		return emitWindows(f.Windows, from, to, yield)
	}
	below := wire.Covers(pos.Level - 1)
	start := sort.Search(len(f.Children), func(i int) bool { return f.Children[i].First+below > from })
	for _, child := range f.Children[start:] {
		if child.First >= to {
			break
		}
		down := pos
		down.Level, down.First = pos.Level-1, child.First
		if !r.walkIndex(ctx, child.Node, down, from, to, yield) {
			return false
		}
	}
	return true
}

// index returns an opened index node, from the cache where it is there.
func (r *Reader) index(ctx context.Context, node cid.Cid, pos wire.FilePos) (*wire.FileIndex, error) {
	key := indexKey{node, pos}
	f, ok := r.indexes.Get(key)
	if r.Observe != nil {
		r.Observe(ok)
	}
	if ok {
		return f, nil
	}
	f, err := decodeNode(ctx, r, seal.KindFileIndex, node, func(l []cid.Cid, b []byte) (*wire.FileIndex, error) {
		return wire.DecodeFileIndex(pos, l, b)
	})
	if err != nil {
		return nil, err
	}
	r.indexes.Add(key, f)
	return f, nil
}
