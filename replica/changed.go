package replica

import (
	"context"
	"slices"

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
	return off < c.Size && min(end, c.Size) == min(end, f.Size()) && len(f.changedIn(off, end)) == 0
}

// Before implements snapshot.File.
func (f *changedFile) Before(ctx context.Context, index uint64, chunkSize uint32) (*snapshot.Before, error) {
	if f.was.content.ChunkSize != chunkSize {
		return nil, nil
	}
	w, ok, err := f.was.window(ctx, index)
	if !ok || err != nil {
		return nil, err
	}
	off := index * uint64(chunkSize)
	b := &snapshot.Before{Window: w, Span: f.was.content.Span(index)}
	for _, r := range f.changedIn(off, off+uint64(chunkSize)) {
		start, end := max(r.Off, off), min(r.Off+r.Len, off+uint64(chunkSize))
		b.Changed = append(b.Changed, wire.Range{Off: start - off, Len: end - start})
	}
	return b, nil
}

// changedIn returns the changes that have a byte in [off, end).
func (f *changedFile) changedIn(off, end uint64) []wire.Range {
	from, _ := slices.BinarySearchFunc(f.changed, off, func(r wire.Range, off uint64) int {
		if r.Off+r.Len > off {
			return 1
		}
		return -1
	})
	to := from
	for to < len(f.changed) && f.changed[to].Off < end {
		to++
	}
	return f.changed[from:to]
}
