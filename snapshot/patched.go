package snapshot

import (
	"context"
	"fmt"

	"fractal-lazy/snapshot/wire"

	"golang.org/x/crypto/blake2b"
)

// Piece returns the data of window w of c, its ranges one behind the other, from opened blocks: that of w.Block, and of w.Patch.Block where it has a
// patch, else nil. The result may share memory with base. ErrDamaged where a block is shorter than w says, or what w's two
// blocks come to is not what its sum says: a patch with another base is never taken for content.
func Piece(base, patch []byte, c *wire.Content, w wire.Window) ([]byte, error) {
	span := c.Span(w.Index)
	b, err := cut(base, w.Off, w.BaseBytes(span))
	if err != nil || w.Patch == nil {
		return b, err
	}
	p, err := cut(patch, w.Patch.Off, w.Patch.Bytes())
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	return compose(b, p, c, w)
}

// compose is Piece of the base's and the patch's own bytes.
func compose(base, patch []byte, c *wire.Content, w wire.Window) ([]byte, error) {
	span := c.Span(w.Index)
	data := w.Ranges(span)
	out := make([]byte, w.Bytes(span))
	place(out, data, base, w.BaseRanges(span))
	place(out, data, patch, w.Patch.Data)
	if Sum(out) != w.Patch.Sum {
		return nil, fmt.Errorf("%w: window %d, of blocks %s and %s, does not have its sum", ErrDamaged, w.Index, w.Block, w.Patch.Block)
	}
	return out, nil
}

// Sum is what a patched window says of its data.
func Sum(data []byte) (s [16]byte) {
	h, err := blake2b.New(len(s), nil)
	if err != nil { // the size is a constant within its bounds
		panic(err)
	}
	h.Write(data) // a hash never fails
	h.Sum(s[:0])
	return s
}

// cut returns n bytes of an opened block from off on.
func cut(opened []byte, off uint32, n uint64) ([]byte, error) {
	if n > uint64(len(opened)) || uint64(off) > uint64(len(opened))-n {
		return nil, fmt.Errorf("%w: block of %d bytes where a window has %d from %d on", ErrDamaged, len(opened), n, off)
	}
	end := uint64(off) + n
	return opened[off:end:end], nil
}

// place copies the ranges part, whose bytes are from, one behind the other, to where they are in out, which has the ranges all. Each
// of part is within one of all.
func place(out []byte, all []wire.Range, from []byte, part []wire.Range) {
	eachPart(all, part, func(at, n uint64) {
		copy(out[at:at+n], from)
		from = from[n:]
	})
}

// take undoes place: it copies the ranges part of data, which has the ranges all, to out.
func take(out []byte, part []wire.Range, data []byte, all []wire.Range) {
	eachPart(all, part, func(at, n uint64) {
		copy(out, data[at:at+n])
		out = out[n:]
	})
}

// eachPart tells where the ranges part stand among the bytes of the ranges all.
func eachPart(all, part []wire.Range, tell func(at, n uint64)) {
	at := uint64(0) // of all[0]
	for _, r := range part {
		for r.Off >= all[0].Off+all[0].Len {
			at += all[0].Len
			all = all[1:]
		}
		tell(at+r.Off-all[0].Off, r.Len)
	}
}

// Window fetches the data of window w of c, its ranges one behind the other.
func (r *Reader) Window(ctx context.Context, c *wire.Content, w wire.Window) ([]byte, error) {
	base, err := r.Data(ctx, w.Block)
	if err != nil {
		return nil, err
	}
	var patch []byte
	if w.Patch != nil {
		if patch, err = r.Data(ctx, w.Patch.Block); err != nil {
			return nil, err
		}
	}
	return Piece(base, patch, c, w)
}
