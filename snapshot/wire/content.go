package wire

import (
	"bytes"
	"fmt"
	"math/bits"

	"github.com/ipfs/go-cid"
)

// maxRefBytes bounds a Content or DirRef that stands by itself; four windows
// with the most ranges, and patches, take less than 3 KiB.
const maxRefBytes = 8 << 10

type contentWire struct {
	Size    uint64       `cbor:"1,keyasint"`
	Chunk   uint8        `cbor:"2,keyasint"` // log2
	Data    uint64       `cbor:"3,keyasint,omitempty"`
	Windows []windowWire `cbor:"4,keyasint,omitempty"`
	Index   *uint64      `cbor:"5,keyasint,omitempty"`
	Depth   uint8        `cbor:"6,keyasint,omitempty"`
	Patches []patchWire  `cbor:"7,keyasint,omitempty"`
}

type windowWire struct {
	_     struct{} `cbor:",toarray"`
	Index uint64   // relative to the node's first
	Block uint64   // link
	Off   uint32
	Data  []uint64 // offset, length, offset, length, ... in sectors; empty: the whole window
}

// Span returns the length in bytes of the window at index, of a file of size
// bytes: chunkSize, or less where the file ends in it, or 0 behind the end.
func Span(size uint64, chunkSize uint32, index uint64) uint64 {
	if index > MaxFileSize/uint64(chunkSize) {
		return 0
	}
	start := index * uint64(chunkSize)
	if start >= size {
		return 0
	}
	return min(uint64(chunkSize), size-start)
}

// Span returns the length in bytes of the window at index.
func (c *Content) Span(index uint64) uint64 { return Span(c.Size, c.ChunkSize, index) }

// Bytes returns how many bytes of data w has in a window of span bytes.
func (w *Window) Bytes(span uint64) uint64 {
	if w.Data == nil {
		return span
	}
	return bytesOf(w.Data)
}

func bytesOf(list []Range) (n uint64) {
	for _, r := range list {
		n += r.Len
	}
	return n
}

// Ranges returns the data ranges of w in a window of span bytes; Data itself
// where it is set.
func (w *Window) Ranges(span uint64) []Range {
	if w.Data == nil {
		return []Range{{Off: 0, Len: span}}
	}
	return w.Data
}

// MinDepth returns the levels of index nodes that a file of size bytes has
// where its windows do not stand in the entry.
func MinDepth(size uint64, chunkSize uint32) uint8 {
	last := uint64(0)
	if size > 0 {
		last = (size - 1) / uint64(chunkSize)
	}
	d := uint8(1)
	for last >= Covers(d) {
		d++
	}
	return d
}

// Covers returns how many windows an index node of a file covers: IndexFanout
// in a leaf, which is level 1, and IndexFanout times more with each level.
func Covers(level uint8) uint64 {
	const bitsPerLevel = 10 // log2 IndexFanout
	if shift := bitsPerLevel * uint(level); shift < 64 {
		return 1 << shift
	}
	return 1<<64 - 1
}

// ValidChunk tells whether n may be a chunk size: a power of two from MinChunk to MaxChunk.
func ValidChunk(n uint32) bool { return n >= MinChunk && n <= MaxChunk && n&(n-1) == 0 }

// Check returns ErrFormat where w is not a valid window of a file of size bytes.
func (w *Window) Check(size uint64, chunkSize uint32) error {
	span := Span(size, chunkSize, w.Index)
	if span == 0 {
		return malformed("window behind the end of the file")
	}
	if err := checkLink(w.Block, codecData); err != nil {
		return err
	}
	if w.Data != nil && len(w.Data) == 0 {
		return malformed("window without data")
	}
	if err := checkRanges(w.Data, span); err != nil {
		return err
	}
	if len(w.Data) == 1 && w.Data[0].Len == span {
		return malformed("data ranges of a whole window must be left out")
	}
	if w.Patch != nil {
		if err := w.checkPatch(span); err != nil {
			return err
		}
	}
	if uint64(w.Off)+w.BaseBytes(span) > MaxPack {
		return malformed("window reaches behind its block")
	}
	return nil
}

func checkRanges(list []Range, span uint64) error {
	end := uint64(0)
	for i, r := range list {
		if r.Len == 0 || r.Off%Sector != 0 || r.Off > span || r.Len > span-r.Off || (i > 0 && r.Off <= end) {
			return malformed("data range outside its window, out of order or off its sectors")
		}
		if end = r.Off + r.Len; end%Sector != 0 && end != span {
			return malformed("data range ends inside a sector")
		}
	}
	return nil
}

// Check returns ErrFormat where c is not valid.
func (c *Content) Check() error {
	if c.Size > MaxFileSize || !ValidChunk(c.ChunkSize) || c.Data > c.Size {
		return malformed("file size or chunk size")
	}
	if c.Depth > 0 {
		if len(c.Windows) != 0 || c.Data == 0 || c.Depth != MinDepth(c.Size, c.ChunkSize) {
			return malformed("file index of %d levels", c.Depth)
		}
		return checkLink(c.Index, codecNode)
	}
	if c.Index.Defined() || len(c.Windows) > MaxInline {
		return malformed("%d windows in an entry", len(c.Windows))
	}
	var sum uint64
	for i := range c.Windows {
		w := &c.Windows[i]
		if err := w.Check(c.Size, c.ChunkSize); err != nil {
			return err
		}
		if i > 0 && w.Index <= c.Windows[i-1].Index {
			return malformed("windows out of order")
		}
		sum += w.Bytes(c.Span(w.Index))
	}
	if sum != c.Data {
		return malformed("windows of %d bytes in a file of %d bytes of data", sum, c.Data)
	}
	return nil
}

func (t *table) window(w *Window, first uint64) windowWire {
	return windowWire{Index: w.Index - first, Block: t.add(w.Block), Off: w.Off, Data: sectors(w.Data)}
}

// sectors returns offset, length, offset, length, ... of ranges that pass checkRanges.
func sectors(list []Range) (out []uint64) {
	for _, r := range list {
		out = append(out, r.Off/Sector, (r.Len+Sector-1)/Sector)
	}
	return out
}

// rangesOf undoes sectors, for a window of span bytes. It is not checked whether they are in order.
func rangesOf(list []uint64, span uint64) (out []Range, err error) {
	if len(list)%2 != 0 {
		return nil, malformed("window")
	}
	for i := 0; i < len(list); i += 2 {
		off, n := list[i], list[i+1]
		if off >= MaxChunk/Sector || n > MaxChunk/Sector || off*Sector >= span {
			return nil, malformed("data range outside its window")
		}
		// A file may end inside of its last sector.
		out = append(out, Range{Off: off * Sector, Len: min((off+n)*Sector, span) - off*Sector})
	}
	return out, nil
}

// window undoes table.window. The result is not checked.
func (w *windowWire) window(links []cid.Cid, first uint64, size uint64, chunkSize uint32) (Window, error) {
	out := Window{Index: first + w.Index, Off: w.Off}
	if out.Index < first {
		return out, malformed("window")
	}
	var err error
	if out.Block, err = linkAt(links, w.Block); err != nil {
		return out, err
	}
	out.Data, err = rangesOf(w.Data, Span(size, chunkSize, out.Index))
	return out, err
}

func (t *table) content(c *Content) *contentWire {
	out := &contentWire{Size: c.Size, Chunk: uint8(bits.TrailingZeros32(c.ChunkSize)), Data: c.Data, Depth: c.Depth}
	for i := range c.Windows {
		out.Windows = append(out.Windows, t.window(&c.Windows[i], 0))
	}
	out.Patches = t.patches(c.Windows)
	if c.Depth > 0 {
		i := t.add(c.Index)
		out.Index = &i
	}
	return out
}

func (w *contentWire) content(links []cid.Cid) (*Content, error) {
	if w.Chunk > 31 || len(w.Windows) > MaxInline {
		return nil, malformed("chunk size or number of windows")
	}
	c := &Content{Size: w.Size, ChunkSize: 1 << w.Chunk, Data: w.Data, Depth: w.Depth}
	if c.Size > MaxFileSize || !ValidChunk(c.ChunkSize) {
		return nil, malformed("file size or chunk size")
	}
	for i := range w.Windows {
		win, err := w.Windows[i].window(links, 0, c.Size, c.ChunkSize)
		if err != nil {
			return nil, err
		}
		c.Windows = append(c.Windows, win)
	}
	if err := setPatches(c.Windows, w.Patches, links, c.Size, c.ChunkSize); err != nil {
		return nil, err
	}
	if w.Index != nil {
		var err error
		if c.Index, err = linkAt(links, *w.Index); err != nil {
			return nil, err
		}
	}
	return c, c.Check()
}

// refWire is a Content or a DirRef by itself: version, links, the value.
type refWire[T any] struct {
	_       struct{} `cbor:",toarray"`
	Version uint64
	Links   [][]byte
	Value   T
}

// refPatched is the version of a Content by itself in which a window has a patch: who knows version 1 only must refuse it.
const refPatched = 2

func encodeRef[T any](version uint64, links []cid.Cid, v T) []byte {
	w := refWire[T]{Version: version, Value: v}
	for _, c := range links {
		w.Links = append(w.Links, c.Bytes())
	}
	return must(enc.Marshal(w)) // plain integers and byte strings always encode
}

func decodeRef[T any](b []byte, newest uint64) (v T, links []cid.Cid, err error) {
	if len(b) > maxRefBytes {
		return v, nil, malformed("%d bytes, at most %d are allowed", len(b), maxRefBytes)
	}
	// The version first: a later one may have other fields.
	if len(b) >= 2 && b[0] == 0x83 && b[1] < 0x18 && (b[1] < Version || uint64(b[1]) > newest) {
		return v, nil, badVersion(uint64(b[1]))
	}
	var w refWire[T]
	if err := unmarshal(b, maxRefBytes, &w); err != nil {
		return v, nil, err
	}
	if w.Version < Version || w.Version > newest {
		return v, nil, badVersion(w.Version)
	}
	for _, l := range w.Links {
		c, err := cid.Cast(l)
		if err != nil {
			return v, nil, malformed("link of a foreign form")
		}
		links = append(links, c)
	}
	return w.Value, links, nil
}

func badVersion(v uint64) error { return fmt.Errorf("%w: %d, known is %d", ErrVersion, v, Version) }

// EncodeContent encodes a Content by itself, its CIDs in binary inside, in at
// most 3 KiB: for marks. It panics where c.Check fails; what a decoder or
// Build returned never does.
func EncodeContent(c *Content) []byte {
	if err := c.Check(); err != nil {
		panic(err)
	}
	var t table
	v := t.content(c)
	version := uint64(Version)
	if len(v.Patches) > 0 {
		version = refPatched
	}
	return encodeRef(version, t.links, *v)
}

// DecodeContent reads what EncodeContent made.
func DecodeContent(b []byte) (*Content, error) {
	v, links, err := decodeRef[contentWire](b, refPatched)
	if err != nil {
		return nil, err
	}
	c, err := v.content(links)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, EncodeContent(c)) {
		return nil, malformed("not in canonical form")
	}
	return c, nil
}

// EncodeDirRef encodes a DirRef by itself: for marks. It panics where d.Check
// fails; what a decoder or Build returned never does.
func EncodeDirRef(d *DirRef) []byte {
	if err := d.Check(); err != nil {
		panic(err)
	}
	var t table
	v := t.dirRef(d)
	return encodeRef(Version, t.links, *v)
}

// DecodeDirRef reads what EncodeDirRef made.
func DecodeDirRef(b []byte) (*DirRef, error) {
	v, links, err := decodeRef[dirRefWire](b, Version)
	if err != nil {
		return nil, err
	}
	d, err := v.dirRef(links)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, EncodeDirRef(d)) {
		return nil, malformed("not in canonical form")
	}
	return d, nil
}
