package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"fractal-lazy/hive"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
)

// Bounds of what a file may say, in bytes.
const (
	maxHeader  = 1024
	headerSize = 1 + 2 + 5 + 1 + 2*(5+36) + 1 + 7 + 1 // with its length in front
	maxSection = store.MaxBlock + 64                  // a block with its CID
)

// Errors of a Reader.
var (
	// ErrFormat: it is no file of this kind.
	ErrFormat = errors.New("not the offline copy of a snapshot")
	// ErrKey: the snapshot is of another volume.
	ErrKey = errors.New("the snapshot is of another volume: it is not signed by this volume's key")
	// ErrCut: the file ends before its snapshot does.
	ErrCut = errors.New("the file ends in the middle")
	// ErrDamaged: a block is missing or spoilt.
	ErrDamaged = errors.New("the file is damaged")
)

// Reader reads a file as it streams in.
type Reader struct {
	// Manifest is of the snapshot; Signed its bytes with the signature. Root is where the walk begins.
	Manifest *hive.Manifest
	Signed   []byte
	Root     cid.Cid

	src   *source
	in    *bufio.Reader
	car   *car.BlockReader
	walk  *walk
	stats Stats
}

// NewReader reads the head of a file. Errors: ErrFormat, ErrKey, ErrCut, ErrDamaged, and those of r.
func NewReader(r io.Reader, pub seal.Pubkey) (*Reader, error) {
	src := &source{r: r}
	x := &Reader{src: src, in: bufio.NewReaderSize(src, 256<<10)}
	front, err := x.in.Peek(headerSize)
	front = bytes.Clone(front)
	if src.err != nil {
		return nil, src.err
	}
	x.car, err = car.NewBlockReader(x.in, car.MaxAllowedHeaderSize(maxHeader), car.MaxAllowedSectionSize(maxSection), car.ZeroLengthSectionAsEOF(false))
	switch {
	case src.err != nil:
		return nil, src.err
	case len(front) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrCut)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	case x.car.Version != 1 || len(x.car.Roots) != 2:
		return nil, fmt.Errorf("%w: it is a CAR, but not of version 1 with two roots", ErrFormat)
	}
	var only bytes.Buffer // a header that a lenient decoder takes is not the one that Write writes
	if err := store.WriteCARHeader(&only, x.car.Roots...); err != nil || !bytes.Equal(front, only.Bytes()) {
		return nil, fmt.Errorf("%w: its header is not of the one form", ErrFormat)
	}
	c, data, err := x.block()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if !c.Equals(x.car.Roots[1]) {
		return nil, fmt.Errorf("%w: its manifest does not come first", ErrFormat)
	}
	x.Manifest, err = hive.Open(pub, data)
	switch {
	case errors.Is(err, hive.ErrSignature):
		return nil, fmt.Errorf("%w (%w)", ErrKey, err)
	case err != nil:
		return nil, fmt.Errorf("%w: manifest: %w", ErrFormat, err)
	}
	x.Root, err = replica.ParseRoot(x.Manifest.Data)
	if err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrFormat, err)
	}
	if !x.Root.Equals(x.car.Roots[0]) {
		return nil, fmt.Errorf("%w: it begins with another root than its manifest names", ErrDamaged)
	}
	x.Signed, x.walk = data, newWalk(x.Root)
	return x, nil
}

// Stats counts the blocks that Next has returned.
func (x *Reader) Stats() Stats { return x.stats }

// Next returns the next block, which matches its CID and is the one that has to come here. The caller owns it. io.EOF: the file was whole.
// Errors: ErrCut, ErrDamaged, ErrFormat, and those of the reader below.
func (x *Reader) Next() (store.Block, error) {
	want, _, more := x.walk.next(nil)
	if !more {
		_, err := x.in.ReadByte()
		switch {
		case x.src.err != nil:
			return store.Block{}, x.src.err
		case err == nil:
			return store.Block{}, fmt.Errorf("%w: more comes after its end", ErrDamaged)
		}
		return store.Block{}, io.EOF
	}
	c, data, err := x.block()
	if err != nil {
		return store.Block{}, fmt.Errorf("after %d blocks: %w", x.stats.Blocks, err)
	}
	if !c.Equals(want) {
		return store.Block{}, fmt.Errorf("after %d blocks: %w: block %s is missing; %s stands in its place", x.stats.Blocks, ErrDamaged, want, c)
	}
	if err := x.walk.took(c, data); err != nil {
		return store.Block{}, fmt.Errorf("after %d blocks: %w: %w", x.stats.Blocks, ErrDamaged, err)
	}
	x.stats.Blocks++
	x.stats.Bytes += uint64(len(data))
	return store.Block{CID: c, Data: data}, nil
}

// block reads one section.
func (x *Reader) block() (cid.Cid, []byte, error) {
	b, err := x.car.Next() // hashes the bytes
	src := x.src
	switch {
	case src.err != nil:
		return cid.Undef, nil, src.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err != nil && src.ended && x.in.Buffered() == 0:
		return cid.Undef, nil, ErrCut
	case err != nil:
		return cid.Undef, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	// Identity and short hashes would pass the reader's test.
	if err := store.Check(b.Cid()); err != nil {
		return cid.Undef, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(b.RawData()) > store.MaxBlock {
		return cid.Undef, nil, fmt.Errorf("%w: %w", ErrDamaged, store.ErrTooLarge)
	}
	return b.Cid(), b.RawData(), nil
}

// source keeps what went wrong below, so that a network or a disk that fails is not taken for a spoilt file.
type source struct {
	r     io.Reader
	err   error
	ended bool
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		s.ended = true
	case err != nil:
		s.err = err
	}
	return n, err
}
