package replica

import (
	"context"

	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
)

var _ snapshot.File = (*changedFile)(nil)

// changedFile is a regular file of which it is known what changed since the base.
type changedFile struct {
	snapshot.File
	was     *remote      // the content in the base
	changed []wire.Range // ascending, merged
}

// Known implements snapshot.File: a window that no change touches, and that ends where it did, is what it was.
func (f *changedFile) Known(ctx context.Context, index uint64, chunkSize uint32) (wire.Window, bool, error) {
	if f.same(index, chunkSize) {
		if w, ok, err := f.was.window(ctx, index); ok || err != nil {
			return w, ok, err
		}
	}
	return f.File.Known(ctx, index, chunkSize)
}

func (f *changedFile) same(index uint64, chunkSize uint32) bool {
	c := f.was.content
	if c.ChunkSize != chunkSize {
		return false
	}
	off := index * uint64(chunkSize)
	end := off + uint64(chunkSize)
	return off < c.Size && min(end, c.Size) == min(end, f.Size()) && !overlaps(f.changedFrom(off), off, end)
}

// changedFrom returns the changes from the one on that ends behind off.
func (f *changedFile) changedFrom(off uint64) []wire.Range {
	lo, hi := 0, len(f.changed)
	for lo < hi {
		mid := (lo + hi) / 2
		if f.changed[mid].Off+f.changed[mid].Len > off {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return f.changed[lo:min(lo+1, len(f.changed))]
}
