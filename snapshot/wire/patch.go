package wire

import (
	"slices"

	"github.com/ipfs/go-cid"
)

// patchWire is the patch of one window of a list.
type patchWire struct {
	_      struct{} `cbor:",toarray"`
	Window uint64   // which window of the list, from 0
	Block  uint64   // link
	Off    uint32
	Data   []uint64 // as in windowWire
	Base   []uint64 // empty: all of the window's data
	Sum    []byte
}

// BaseRanges returns the ranges of a window of span bytes that stand in its own Block, from Off on, one behind the other: all of its
// data, but for some where it has a Patch.
func (w *Window) BaseRanges(span uint64) []Range {
	if w.Patch != nil && w.Patch.Base != nil {
		return w.Patch.Base
	}
	return w.Ranges(span)
}

// BaseBytes returns how many bytes those are.
func (w *Window) BaseBytes(span uint64) uint64 {
	if w.Patch != nil && w.Patch.Base != nil {
		return bytesOf(w.Patch.Base)
	}
	return w.Bytes(span)
}

// Bytes returns how many bytes stand in p's Block.
func (p *Patch) Bytes() uint64 { return bytesOf(p.Data) }

// Same tells whether two windows say the same, in the same words: then their bytes are the same, where their spans are.
func (w *Window) Same(o *Window) bool {
	if w.Index != o.Index || w.Block != o.Block || w.Off != o.Off || !sameRanges(w.Data, o.Data) || (w.Patch == nil) != (o.Patch == nil) {
		return false
	}
	if w.Patch == nil {
		return true
	}
	p, q := w.Patch, o.Patch
	return p.Block == q.Block && p.Off == q.Off && p.Sum == q.Sum && sameRanges(p.Data, q.Data) && sameRanges(p.Base, q.Base)
}

func sameRanges(a, b []Range) bool { return (a == nil) == (b == nil) && slices.Equal(a, b) }

// checkPatch returns ErrFormat where the patch of w, whose own ranges passed, is not valid in a window of span bytes.
func (w *Window) checkPatch(span uint64) error {
	p := w.Patch
	if err := checkLink(p.Block, codecData); err != nil {
		return err
	}
	if len(p.Data) == 0 || p.Bytes() > MaxPatch || uint64(p.Off)+p.Bytes() > MaxPack {
		return malformed("patch of %d bytes", p.Bytes())
	}
	if p.Base != nil && len(p.Base) == 0 {
		return malformed("patch of a window without data")
	}
	for _, list := range [][]Range{p.Data, p.Base} {
		if err := checkRanges(list, span); err != nil {
			return err
		}
	}
	data := w.Ranges(span)
	if slices.Equal(p.Base, data) {
		return malformed("ranges of the base that are those of the window must be left out")
	}
	if !slices.Equal(Union(w.BaseRanges(span), p.Data), data) {
		return malformed("a window's data is not that of its base and its patch")
	}
	return nil
}

// patches encodes the patches of windows, whose blocks have their numbers.
func (t *table) patches(windows []Window) (out []patchWire) {
	for i := range windows {
		p := windows[i].Patch
		if p == nil {
			continue
		}
		out = append(out, patchWire{Window: uint64(i), Block: t.add(p.Block), Off: p.Off,
			Data: sectors(p.Data), Base: sectors(p.Base), Sum: slices.Clone(p.Sum[:])})
	}
	return out
}

// setPatches gives windows their patches. The result is not checked.
func setPatches(windows []Window, list []patchWire, links []cid.Cid, size uint64, chunkSize uint32) error {
	if len(list) > len(windows) {
		return malformed("%d patches of %d windows", len(list), len(windows))
	}
	for i := range list {
		e := &list[i]
		if e.Window >= uint64(len(windows)) || windows[e.Window].Patch != nil {
			return malformed("patch of window %d of %d", e.Window, len(windows))
		}
		w := &windows[e.Window]
		p := &Patch{Off: e.Off}
		if copy(p.Sum[:], e.Sum) != len(p.Sum) || len(e.Sum) != len(p.Sum) {
			return malformed("sum of %d bytes", len(e.Sum))
		}
		var err error
		if p.Block, err = linkAt(links, e.Block); err != nil {
			return err
		}
		span := Span(size, chunkSize, w.Index)
		if p.Data, err = rangesOf(e.Data, span); err != nil {
			return err
		}
		if p.Base, err = rangesOf(e.Base, span); err != nil {
			return err
		}
		w.Patch = p
	}
	return nil
}
