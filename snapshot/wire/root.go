package wire

import (
	"fmt"
	"math/bits"
	"sort"

	"github.com/ipfs/go-cid"
)

// Bits of Root.Features.
const (
	// FeaturePatches: windows of the tree may have a Patch.
	FeaturePatches uint64 = 1 << 0

	// KnownFeatures has a bit for every one that this version reads.
	KnownFeatures = FeaturePatches
)

type rootWire struct {
	Features uint64     `cbor:"1,keyasint"`
	Chunk    uint8      `cbor:"2,keyasint"` // log2
	Attr     attrWire   `cbor:"3,keyasint"`
	Dir      dirRefWire `cbor:"4,keyasint"`
	Trace    *uint64    `cbor:"5,keyasint,omitempty"`
}

// EncodeRoot encodes a root.
func EncodeRoot(r *Root) (links []cid.Cid, payload []byte, err error) {
	if err := r.Check(); err != nil {
		return nil, nil, err
	}
	var t table
	w := rootWire{
		Features: r.Features, Chunk: uint8(bits.TrailingZeros32(r.ChunkSize)),
		Attr: r.Attr.wire(), Dir: *t.dirRef(&r.Dir),
	}
	if r.Trace.Defined() {
		i := t.add(r.Trace)
		w.Trace = &i
	}
	if payload, err = enc.Marshal(w); err != nil {
		return nil, nil, malformed("%v", err)
	}
	return t.links, payload, nil
}

// Check returns ErrFormat where r is not valid, ErrFeature where it has a
// feature that is not known here.
func (r *Root) Check() error {
	if unknown := r.Features &^ KnownFeatures; unknown != 0 {
		return fmt.Errorf("%w: %#x", ErrFeature, unknown)
	}
	if !ValidChunk(r.ChunkSize) || r.Mode&ModeType != ModeDir {
		return malformed("chunk size %d or mode %#o of a root", r.ChunkSize, r.Mode)
	}
	if err := r.Attr.Check(); err != nil {
		return err
	}
	// The root's attributes are bounded like an entry's.
	if e := (Entry{Attr: r.Attr}); e.Weight() > MaxEntry {
		return malformed("root of weight %d, at most %d is allowed", e.Weight(), MaxEntry)
	}
	if r.Trace.Defined() {
		if err := checkLink(r.Trace, codecNode); err != nil {
			return err
		}
	}
	return r.Dir.Check()
}

// DecodeRoot reads a root.
func DecodeRoot(links []cid.Cid, payload []byte) (*Root, error) {
	if len(payload) > MaxPayload {
		return nil, malformed("%d bytes, at most %d are allowed", len(payload), MaxPayload)
	}
	// The features first: with an unknown one there may be other fields.
	var f struct {
		Features uint64 `cbor:"1,keyasint"`
	}
	if err := decPart.Unmarshal(payload, &f); err != nil {
		return nil, malformed("%v", err)
	}
	if unknown := f.Features &^ KnownFeatures; unknown != 0 {
		return nil, fmt.Errorf("%w: %#x", ErrFeature, unknown)
	}
	var w rootWire
	if err := unmarshal(payload, MaxPayload, &w); err != nil {
		return nil, err
	}
	dir, err := w.Dir.dirRef(links)
	if err != nil {
		return nil, err
	}
	if w.Chunk > 31 {
		return nil, malformed("chunk size of a root")
	}
	r := &Root{Features: w.Features, ChunkSize: 1 << w.Chunk, Attr: w.Attr.attr(), Dir: *dir}
	if w.Trace != nil {
		if r.Trace, err = linkAt(links, *w.Trace); err != nil {
			return nil, err
		}
	}
	again, payloadAgain, err := EncodeRoot(r)
	if err != nil {
		return nil, err
	}
	return r, same(links, again, payload, payloadAgain)
}

// EncodeTrace encodes a trace. Its links stand in the order of their bytes:
// the order of use is in the payload alone.
func EncodeTrace(t *Trace) (links []cid.Cid, payload []byte, err error) {
	if len(t.Blocks) == 0 || len(t.Blocks) > MaxTrace {
		return nil, nil, malformed("trace of %d blocks", len(t.Blocks))
	}
	order := make([]uint64, len(t.Blocks)) // first: which use has the link of each number
	for i, c := range t.Blocks {
		if err := checkAnyLink(c); err != nil {
			return nil, nil, err
		}
		order[i] = uint64(i)
	}
	sort.Slice(order, func(a, b int) bool {
		return t.Blocks[order[a]].KeyString() < t.Blocks[order[b]].KeyString()
	})
	uses := make([]uint64, len(order)) // the link of each use, in order of use
	for n, use := range order {
		c := t.Blocks[use]
		if n > 0 && c.Equals(links[n-1]) {
			return nil, nil, malformed("a block stands twice in a trace")
		}
		links = append(links, c)
		uses[use] = uint64(n)
	}
	if payload, err = enc.Marshal(uses); err != nil {
		return nil, nil, malformed("%v", err)
	}
	return links, payload, nil
}

// DecodeTrace reads a trace.
func DecodeTrace(links []cid.Cid, payload []byte) (*Trace, error) {
	var uses []uint64
	if err := unmarshal(payload, MaxPayload, &uses); err != nil {
		return nil, err
	}
	t := new(Trace)
	for _, n := range uses {
		c, err := linkAt(links, n)
		if err != nil {
			return nil, err
		}
		t.Blocks = append(t.Blocks, c)
	}
	again, payloadAgain, err := EncodeTrace(t)
	if err != nil {
		return nil, err
	}
	return t, same(links, again, payload, payloadAgain)
}
