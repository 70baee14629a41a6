package snapshot

import (
	"errors"
	"fmt"
	"sync"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
)

// ErrDamaged: a block that opened with the volume's key and is still not what
// its place in the tree asks for.
var ErrDamaged = errors.New("snapshot is damaged")

// Compression is a level: none, fastest, default, better. The zero value is
// the default.
type Compression string

// The levels. Reading does not depend on the level that was written with.
const (
	None    Compression = "none"
	Fastest Compression = "fastest"
	Default Compression = "default"
	Better  Compression = "better"
)

var levels = map[Compression]zstd.EncoderLevel{
	Fastest: zstd.SpeedFastest,
	Default: zstd.SpeedDefault,
	Better:  zstd.SpeedBetterCompression,
}

// ParseCompression reads a level's name; the empty string is the default.
func ParseCompression(s string) (Compression, error) {
	c := Compression(s)
	if c == "" {
		return Default, nil
	}
	if _, ok := levels[c]; !ok && c != None {
		return "", fmt.Errorf("compression %q: want none, fastest, default or better", s)
	}
	return c, nil
}

// The codec byte stands before the content in what is sealed.
const (
	codecPlain = 0
	codecZstd  = 1
)

// maxData bounds an opened KindData block, in bytes.
const maxData = max(wire.MaxChunk, wire.MaxPack)

// encoder compresses for one goroutine.
type encoder struct {
	z   *zstd.Encoder // nil: not at all
	out []byte        // reused
}

func newEncoder(c Compression) (*encoder, error) {
	c, err := ParseCompression(string(c))
	if err != nil {
		return nil, err
	}
	e := new(encoder)
	if c == None {
		return e, nil
	}
	// One goroutine each, so that equal input is equal output; no checksum,
	// the seal is one.
	e.z, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(levels[c]), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	return e, err
}

// encode returns the codec byte and the content, compressed where that saves
// a sixteenth or more. b is the content with one spare byte before it; the
// result is b itself or valid until the next call.
func (e *encoder) encode(b []byte) []byte {
	n := len(b) - 1
	if e.z != nil && n > 0 {
		if cap(e.out) == 0 {
			e.out = make([]byte, 1, 64<<10)
		}
		e.out = e.z.EncodeAll(b[1:], e.out[:1])
		if len(e.out)-1 <= n-(n+15)/16 {
			e.out[0] = codecZstd
			return e.out
		}
	}
	b[0] = codecPlain
	return b
}

// decoders is shared: DecodeAll may be called from many goroutines.
var decoders = sync.OnceValue(func() *zstd.Decoder {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(1<<20),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil { // the options are constants
		panic(err)
	}
	return z
})

// decode undoes encode; the content may have at most max bytes. It may return
// a part of b.
func decode(b []byte, max int) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: no codec byte", ErrDamaged)
	}
	codec, b := b[0], b[1:]
	switch codec {
	case codecPlain:
		if len(b) > max {
			return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrDamaged, len(b), max)
		}
		return b, nil
	case codecZstd:
		// The frame must announce its size, so that no more is allocated
		// than is allowed and needed.
		var h zstd.Header
		if err := h.Decode(b); err != nil || !h.HasFCS || h.Skippable || h.FrameContentSize > uint64(max) {
			return nil, fmt.Errorf("%w: compressed frame without a size, or with one over %d bytes", ErrDamaged, max)
		}
		out, err := decoders().DecodeAll(b, make([]byte, 0, h.FrameContentSize))
		if err != nil || uint64(len(out)) != h.FrameContentSize {
			return nil, fmt.Errorf("%w: compressed frame of %d bytes gave %d: %v", ErrDamaged, h.FrameContentSize, len(out), err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: codec %d", wire.ErrVersion, codec)
}

// sealData makes a KindData block of content, which has one spare byte before it.
func (e *encoder) sealData(s *seal.Sealer, content []byte) []byte {
	plain := e.encode(content)
	return s.Seal(make([]byte, 0, len(plain)+seal.Overhead), seal.KindData, nil, plain)
}

// sealNode makes the block of a node.
func (e *encoder) sealNode(s *seal.Sealer, kind seal.Kind, links []cid.Cid, payload []byte) ([]byte, error) {
	if len(payload) > wire.MaxPayload {
		return nil, fmt.Errorf("%w: node of %d bytes, at most %d are allowed", wire.ErrFormat, len(payload), wire.MaxPayload)
	}
	plain := e.encode(append(make([]byte, 1, 1+len(payload)), payload...))
	sealed := s.Seal(make([]byte, 0, len(plain)+seal.Overhead), kind, wire.AD(links), plain)
	return wire.EncodeNode(links, sealed)
}

// openNode undoes sealNode.
func openNode(s *seal.Sealer, kind seal.Kind, block []byte) (links []cid.Cid, payload []byte, err error) {
	n, err := wire.DecodeNode(block)
	if err != nil {
		return nil, nil, damaged(err)
	}
	plain, err := s.Open(nil, kind, wire.AD(n.Links), n.Sealed)
	if err != nil {
		return nil, nil, err
	}
	payload, err = decode(plain, wire.MaxPayload)
	return n.Links, payload, err
}

// OpenData opens the bytes of a KindData block that the caller holds already,
// verified against its CID. The result does not share memory with block.
func OpenData(s *seal.Sealer, block []byte) ([]byte, error) {
	if len(block) > wire.MaxBlock {
		return nil, fmt.Errorf("%w: block of %d bytes", ErrDamaged, len(block))
	}
	plain, err := s.Open(nil, seal.KindData, nil, block)
	if err != nil {
		return nil, err
	}
	return decode(plain, maxData)
}

// damaged makes a format error match ErrDamaged too. Versions and features
// that are not known are no damage.
func damaged(err error) error {
	if errors.Is(err, wire.ErrFormat) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
