package mark

import (
	"bytes"
	"errors"
	"fmt"

	"fractal-lazy/snapshot/wire"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

type treeWire struct {
	_                  struct{} `cbor:",toarray"`
	Version            uint8
	Root               []byte
	Files, Dirs, Bytes uint64
}

type sourceWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Pubkey  []byte
}

type fileWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	State   uint8
	Content []byte
	Valid   uint64
	Zero    []rangeWire
	Kept    bool
	Mtime   timeWire
	Caps    []byte
	Flags   uint32
	Ctime   timeWire
	Done    timeWire
}

type dirWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Ref     []byte
	Mtime   timeWire
	Flags   uint32
}

type linkWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	ID      uint64
	Pending uint32
	Hidden  bool
}

type liftedWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Ino     uint64
	Flags   uint32
}

type rangeWire struct {
	_   struct{} `cbor:",toarray"`
	Off uint64
	Len uint64
}

type timeWire struct {
	_    struct{} `cbor:",toarray"`
	Sec  int64
	Nsec uint32
}

var (
	enc = must(cbor.EncOptions{
		Sort:          cbor.SortCanonical,
		IndefLength:   cbor.IndefLengthForbidden,
		NilContainers: cbor.NilContainerAsEmpty,
	}.EncMode())
	// dec is strict; what it still lets pass, such as integers that are longer
	// than needed, is found by encoding again.
	dec = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxArrayElements:  1024,
		MaxNestedLevels:   8,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (t timeWire) time() wire.Time { return wire.Time{Sec: t.Sec, Nsec: t.Nsec} }

func timeOf(t wire.Time) timeWire { return timeWire{Sec: t.Sec, Nsec: t.Nsec} }

// Encode returns the bytes of the attribute, ErrFull, or ErrFormat for what a
// decoder would refuse.
func (f *File) Encode() ([]byte, error) {
	if len(f.Zero) > MaxZero {
		return nil, ErrFull
	}
	if err := f.Content.Check(); err != nil {
		return nil, formatError("file", err)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	w := fileWire{Version: version, State: uint8(f.State), Content: wire.EncodeContent(&f.Content)}
	switch {
	case f.State == Clean:
		w.Ctime, w.Done = timeOf(f.Ctime), timeOf(f.Done)
	case f.Kept:
		w.Kept, w.Mtime, w.Caps, w.Flags, w.Ctime = true, timeOf(f.Mtime), f.Caps, f.Flags, timeOf(f.Ctime)
	case f.Held:
		w.State, w.Mtime, w.Caps, w.Flags = uint8(held), timeOf(f.Mtime), f.Caps, f.Flags
	}
	if f.State == Pending {
		w.Valid = f.Valid
		for _, z := range f.Zero {
			w.Zero = append(w.Zero, rangeWire{Off: z.Off, Len: z.Len})
		}
	}
	return encode(&w)
}

// DecodeFile is the reverse of File.Encode.
func DecodeFile(b []byte) (*File, error) {
	var w fileWire
	if err := decode(b, &w, "file"); err != nil {
		return nil, err
	}
	c, err := wire.DecodeContent(w.Content)
	if err != nil {
		return nil, formatError("file", err)
	}
	f := &File{
		State: State(w.State), Content: *c, Valid: w.Valid, Kept: w.Kept, Caps: w.Caps, Flags: w.Flags,
		Mtime: w.Mtime.time(), Ctime: w.Ctime.time(), Done: w.Done.time(),
	}
	if f.State == held {
		f.State, f.Held = Pending, true
	}
	if len(f.Caps) == 0 {
		f.Caps = nil
	}
	for _, z := range w.Zero {
		f.Zero = append(f.Zero, wire.Range{Off: z.Off, Len: z.Len})
	}
	return same(b, f, "file")
}

func (f *File) check() error {
	if f.State != Pending && f.State != Clean {
		return fmt.Errorf("%w: file, state %d", ErrFormat, f.State)
	}
	if f.State == Pending && f.Kept && f.Held {
		return fmt.Errorf("%w: file, kept and held", ErrFormat)
	}
	if f.Valid > f.Content.Size || len(f.Caps) > MaxCaps || f.Flags&^protecting != 0 {
		return fmt.Errorf("%w: file, field out of bounds", ErrFormat)
	}
	if f.Mtime.Nsec >= 1e9 || f.Ctime.Nsec >= 1e9 || f.Done.Nsec >= 1e9 {
		return fmt.Errorf("%w: file, nanoseconds", ErrFormat)
	}
	var end uint64
	for i, z := range f.Zero {
		if z.Len == 0 || z.Off > wire.MaxFileSize || z.Len > wire.MaxFileSize-z.Off || (i > 0 && z.Off <= end) ||
			z.Off%wire.Sector != 0 || z.Len%wire.Sector != 0 {
			return fmt.Errorf("%w: file, zero-list", ErrFormat)
		}
		end = z.Off + z.Len
	}
	return nil
}

const protecting = wire.FlagImmutable | wire.FlagAppend

// Encode returns the bytes of the attribute, or ErrFormat for what a decoder
// would refuse.
func (d *Dir) Encode() ([]byte, error) {
	if err := d.Ref.Check(); err != nil {
		return nil, formatError("directory", err)
	}
	if d.Mtime.Nsec >= 1e9 || d.Flags&^protecting != 0 {
		return nil, fmt.Errorf("%w: directory, field out of bounds", ErrFormat)
	}
	return encode(&dirWire{Version: version, Ref: wire.EncodeDirRef(&d.Ref), Mtime: timeOf(d.Mtime), Flags: d.Flags})
}

// DecodeDir is the reverse of Dir.Encode.
func DecodeDir(b []byte) (*Dir, error) {
	var w dirWire
	if err := decode(b, &w, "directory"); err != nil {
		return nil, err
	}
	ref, err := wire.DecodeDirRef(w.Ref)
	if err != nil {
		return nil, formatError("directory", err)
	}
	return same(b, &Dir{Ref: *ref, Mtime: w.Mtime.time(), Flags: w.Flags}, "directory")
}

// Encode returns the bytes of the attribute, or ErrFormat for what a decoder
// would refuse.
func (l *Link) Encode() ([]byte, error) {
	if l.ID == 0 {
		return nil, fmt.Errorf("%w: link without a number", ErrFormat)
	}
	return encode(&linkWire{Version: version, ID: l.ID, Pending: l.Pending, Hidden: l.Hidden})
}

// DecodeLink is the reverse of Link.Encode.
func DecodeLink(b []byte) (*Link, error) {
	var w linkWire
	if err := decode(b, &w, "link"); err != nil {
		return nil, err
	}
	return same(b, &Link{ID: w.ID, Pending: w.Pending, Hidden: w.Hidden}, "link")
}

// rootForm is what the CID of a snapshot's root looks like: that of a node, with a SHA-256.
var rootForm = cid.Prefix{Version: 1, Codec: cid.DagCBOR, MhType: 0x12, MhLength: 32}

// Encode returns the bytes of the attribute, or ErrFormat for what a decoder
// would refuse.
func (t *Tree) Encode() ([]byte, error) {
	if !t.Root.Defined() || t.Root.Prefix() != rootForm {
		return nil, fmt.Errorf("%w: tree, root of a foreign form", ErrFormat)
	}
	return encode(&treeWire{Version: version, Root: t.Root.Bytes(), Files: t.Files, Dirs: t.Dirs, Bytes: t.Bytes})
}

// DecodeTree is the reverse of Tree.Encode.
func DecodeTree(b []byte) (*Tree, error) {
	var w treeWire
	if err := decode(b, &w, "tree"); err != nil {
		return nil, err
	}
	c, err := cid.Cast(w.Root)
	if err != nil {
		return nil, formatError("tree", err)
	}
	return same(b, &Tree{Root: c, Files: w.Files, Dirs: w.Dirs, Bytes: w.Bytes}, "tree")
}

// Encode returns the bytes of the mark.
func (s *Source) Encode() ([]byte, error) {
	return encode(&sourceWire{Version: version, Pubkey: s.Pubkey[:]})
}

// DecodeSource is the reverse of Source.Encode.
func DecodeSource(b []byte) (*Source, error) {
	var w sourceWire
	if err := decode(b, &w, "source"); err != nil {
		return nil, err
	}
	var s Source
	if len(w.Pubkey) != len(s.Pubkey) {
		return nil, fmt.Errorf("%w: source, key of %d bytes", ErrFormat, len(w.Pubkey))
	}
	copy(s.Pubkey[:], w.Pubkey)
	return same(b, &s, "source")
}

// Encode returns the bytes of the attribute, or ErrFormat for what a decoder
// would refuse.
func (l *Lifted) Encode() ([]byte, error) {
	if l.Ino == 0 || l.Flags == 0 || l.Flags&^protecting != 0 {
		return nil, fmt.Errorf("%w: lifted, field out of bounds", ErrFormat)
	}
	return encode(&liftedWire{Version: version, Ino: l.Ino, Flags: l.Flags})
}

// DecodeLifted is the reverse of Lifted.Encode.
func DecodeLifted(b []byte) (*Lifted, error) {
	var w liftedWire
	if err := decode(b, &w, "lifted"); err != nil {
		return nil, err
	}
	return same(b, &Lifted{Ino: w.Ino, Flags: w.Flags}, "lifted")
}

func encode(v any) ([]byte, error) {
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode mark: %w", err)
	}
	if len(b) > MaxSize {
		return nil, ErrFull
	}
	return b, nil
}

func decode(b []byte, v any, what string) error {
	if len(b) > MaxSize {
		return fmt.Errorf("%w: %s of %d bytes", ErrFormat, what, len(b))
	}
	// The version first: a later one may have other fields.
	if len(b) >= 2 && b[0]>>5 == 4 && b[1] < 24 && b[1] != version {
		return fmt.Errorf("%w: %s of version %d, known is %d", ErrFormat, what, b[1], version)
	}
	if err := dec.Unmarshal(b, v); err != nil {
		return formatError(what, err)
	}
	return nil
}

// same returns m, which b was decoded to, if b is the one encoding of it.
func same[T any, P interface {
	*T
	Encode() ([]byte, error)
}](b []byte, m P, what string) (P, error) {
	again, err := m.Encode()
	if err != nil {
		return nil, formatError(what, err)
	}
	if !bytes.Equal(b, again) {
		return nil, fmt.Errorf("%w: %s is not in canonical form", ErrFormat, what)
	}
	return m, nil
}

func formatError(what string, err error) error {
	if errors.Is(err, ErrFormat) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrFormat, what, err)
}
