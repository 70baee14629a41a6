package snapshot

import (
	"fmt"
	"slices"

	"fractal-lazy/snapshot/wire"
)

// Before is a window in an earlier snapshot, and what changed of it since.
type Before struct {
	Window wire.Window
	Span   uint64 // its length then
	// Changed are the bytes that may be others now, from the window's start on, ascending and merged. What is not among them, and is data
	// now as it was then, is the same.
	Changed []wire.Range
}

// patchShare: of a window at most one byte in so many comes from a patch, so that a file in which much changes is soon in
// one block a window again.
const patchShare = 4

// patchOf decides whether a window with the given data, of span bytes, is written as a patch, and returns that, without block and sum: nil
// where it is to be written whole.
func patchOf(b *Before, data []wire.Range, span uint64) *wire.Patch {
	w := &b.Window
	if w.Off != 0 || b.Span > span || w.BaseBytes(b.Span) <= wire.MaxPacked {
		return nil
	}
	base := slices.Clone(w.BaseRanges(b.Span))
	if last := &base[len(base)-1]; b.Span < span && (last.Off+last.Len)%wire.Sector != 0 {
		// The file ended there. The rest of that sector is not in the base.
		if last.Len -= (last.Off + last.Len) % wire.Sector; last.Len == 0 {
			base = base[:len(base)-1]
		}
	}
	if len(base) == 0 || len(wire.Subtract(base, data)) > 0 { // a hole came into it
		return nil
	}
	var changed []wire.Range
	for _, r := range b.Changed {
		changed = wire.Union(changed, sectorsOf(r, span))
	}
	if w.Patch != nil {
		for _, r := range w.Patch.Data {
			changed = wire.Union(changed, sectorsOf(r, span))
		}
	}
	p := &wire.Patch{Data: wire.Union(wire.Intersect(data, changed), wire.Subtract(data, base))}
	n := uint64(0)
	for _, r := range data {
		n += r.Len
	}
	if len(p.Data) == 0 || p.Bytes() > min(n/patchShare, wire.MaxPatch) {
		return nil
	}
	if !slices.Equal(base, data) {
		p.Base = base
	}
	return p
}

// sectorsOf returns the sectors that r touches, of those in span bytes.
func sectorsOf(r wire.Range, span uint64) []wire.Range {
	off := r.Off &^ (wire.Sector - 1)
	end := min(r.Off+r.Len, span)
	end = min((end+wire.Sector-1)&^(wire.Sector-1), span)
	if off >= end {
		return nil
	}
	return []wire.Range{{Off: off, Len: end - off}}
}

// patch writes of a window only what changed, and reports whether it did. ranges are its data.
func (fb *fileBuild) patch(w *wire.Window, ranges []wire.Range, owner *join) (bool, error) {
	b, chunk := fb.b, fb.content.ChunkSize
	if b.opt.NoPatches {
		return false, nil
	}
	before, err := fb.f.Before(b.ctx, w.Index, chunk)
	if err != nil {
		return false, fmt.Errorf("window %d before: %w", w.Index, err)
	}
	if before == nil {
		return false, nil
	}
	span := fb.content.Span(w.Index)
	p := patchOf(before, ranges, span)
	if p == nil {
		return false, nil
	}
	w.Block, w.Patch = before.Window.Block, p
	b.refer(w)
	n, start := w.Bytes(span), w.Index*uint64(chunk)
	return true, b.addPiece(fb.f, fb.name, piece{&p.Block, owner}, &p.Off, p.Bytes(), func(wk *worker, into []byte) error {
		data := wk.content(b, n)
		if err := b.read(fb.f, data, ranges, start); err != nil {
			return err
		}
		p.Sum = Sum(data)
		take(into, p.Data, data, ranges)
		return nil
	})
}

// refer notes what the root has to say of a window that is taken over, as a whole or as a base.
func (b *builder) refer(w *wire.Window) {
	if w.Patch != nil {
		b.patched.Store(true)
	}
}

// referContent is refer for a file that is taken over.
func (b *builder) referContent(c *wire.Content) {
	for i := range c.Windows {
		b.refer(&c.Windows[i])
	}
	if c.Depth > 0 {
		b.unseen.Store(true)
	}
}

// features are those of the root.
func (b *builder) features() uint64 {
	out := b.opt.Features
	if b.patched.Load() || b.unseen.Load() && b.opt.Unsure {
		out |= wire.FeaturePatches
	}
	return out
}
