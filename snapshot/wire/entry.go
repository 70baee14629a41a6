package wire

import (
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

// File types in Attr.Mode, as st_mode has them; see inode(7).
const (
	ModeType = 0o170000
	ModeSock = 0o140000
	ModeLink = 0o120000
	ModeReg  = 0o100000
	ModeBlk  = 0o060000
	ModeDir  = 0o040000
	ModeChr  = 0o020000
	ModeFIFO = 0o010000
)

// hiddenXattrs is the prefix of attributes that belong to this program and
// never stand in a snapshot.
const hiddenXattrs = "trusted.fractal."

type attrWire struct {
	Mode   uint32      `cbor:"2,keyasint"`
	UID    uint32      `cbor:"3,keyasint,omitempty"`
	GID    uint32      `cbor:"4,keyasint,omitempty"`
	Rdev   uint64      `cbor:"5,keyasint,omitempty"`
	Sec    int64       `cbor:"6,keyasint,omitempty"`
	Nsec   uint32      `cbor:"7,keyasint,omitempty"`
	Flags  uint32      `cbor:"8,keyasint,omitempty"`
	Xattrs []xattrWire `cbor:"9,keyasint,omitempty"`
}

type xattrWire struct {
	_     struct{} `cbor:",toarray"`
	Name  cbor.ByteString
	Value []byte
}

type entryWire struct {
	Name cbor.ByteString `cbor:"1,keyasint"`
	attrWire
	Target  []byte       `cbor:"10,keyasint,omitempty"`
	Link    uint64       `cbor:"11,keyasint,omitempty"`
	Nlink   uint32       `cbor:"12,keyasint,omitempty"` // where Link is set
	Content *contentWire `cbor:"13,keyasint,omitempty"`
	Dir     *dirRefWire  `cbor:"14,keyasint,omitempty"`
}

func checkName(name string) error {
	if len(name) == 0 || len(name) > MaxName || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return malformed("name of %d bytes is not valid", len(name))
	}
	return nil
}

// Check returns ErrFormat where a is not valid.
func (a *Attr) Check() error {
	switch a.Mode & ModeType {
	case ModeSock, ModeLink, ModeReg, ModeDir, ModeFIFO:
		if a.Rdev != 0 {
			return malformed("device number on what is no device")
		}
	case ModeBlk, ModeChr:
	default:
		return malformed("mode %#o has no valid type", a.Mode)
	}
	if a.Mode>>16 != 0 || a.Flags&^KeptFlags != 0 || a.Mtime.Nsec >= 1e9 {
		return malformed("mode %#o, flags %#x or nanoseconds %d", a.Mode, a.Flags, a.Mtime.Nsec)
	}
	if len(a.Xattrs) > MaxXattrs {
		return malformed("%d attributes, at most %d are allowed", len(a.Xattrs), MaxXattrs)
	}
	for i, x := range a.Xattrs {
		if len(x.Name) == 0 || len(x.Name) > MaxXattrName || strings.IndexByte(x.Name, 0) >= 0 || len(x.Value) > MaxXattr {
			return malformed("attribute of %d bytes, its name of %d", len(x.Value), len(x.Name))
		}
		if strings.HasPrefix(x.Name, hiddenXattrs) {
			return malformed("attribute %q is not part of snapshots", x.Name)
		}
		if i > 0 && x.Name <= a.Xattrs[i-1].Name {
			return malformed("attributes out of order")
		}
	}
	return nil
}

// Check returns ErrFormat where e is not valid: a name, an attribute or a
// reference that cannot be, or one that its type does not have.
func (e *Entry) Check() error {
	if err := e.CheckInode(); err != nil {
		return err
	}
	kind := e.Mode & ModeType
	if (e.Content != nil) != (kind == ModeReg) || (e.Dir != nil) != (kind == ModeDir) {
		return malformed("content that does not fit to mode %#o", e.Mode)
	}
	if e.Content != nil {
		return e.Content.Check()
	}
	if e.Dir != nil {
		return e.Dir.Check()
	}
	return nil
}

// CheckInode is Check without the references Content and Dir, for entries
// whose content is still being written.
func (e *Entry) CheckInode() error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	if err := e.Attr.Check(); err != nil {
		return err
	}
	kind := e.Mode & ModeType
	if (e.Target != "") != (kind == ModeLink) {
		return malformed("symlink target that does not fit to mode %#o", e.Mode)
	}
	if len(e.Target) > MaxTarget || strings.IndexByte(e.Target, 0) >= 0 {
		return malformed("symlink target of %d bytes", len(e.Target))
	}
	if e.Nlink == 0 || (e.Link == 0 && e.Nlink != 1) || (e.Link != 0 && kind == ModeDir) {
		return malformed("%d names of link %d", e.Nlink, e.Link)
	}
	if e.Weight() > MaxEntry {
		return malformed("entry of weight %d, at most %d is allowed", e.Weight(), MaxEntry)
	}
	return nil
}

// Weight is an upper bound of e's encoded bytes in a page that does not depend
// on which links it has. Pages are cut by it; see docs/FORMAT.md. It does not
// touch the CIDs of windows, nor CIDs and sums of patches, so that it may be asked while they are filled in.
func (e *Entry) Weight() int {
	n := 160 + len(e.Name) + len(e.Target)
	for _, x := range e.Xattrs {
		n += 16 + len(x.Name) + len(x.Value)
	}
	if e.Content != nil {
		for i := range e.Content.Windows {
			w := &e.Content.Windows[i]
			n += 32 + 8*len(w.Data)
			if w.Patch != nil {
				n += 48 + 8*(len(w.Patch.Data)+len(w.Patch.Base))
			}
		}
	}
	return n
}

func (a *Attr) wire() attrWire {
	w := attrWire{Mode: a.Mode, UID: a.UID, GID: a.GID, Rdev: a.Rdev, Sec: a.Mtime.Sec, Nsec: a.Mtime.Nsec, Flags: a.Flags}
	for _, x := range a.Xattrs {
		w.Xattrs = append(w.Xattrs, xattrWire{Name: cbor.ByteString(x.Name), Value: x.Value})
	}
	return w
}

func (w *attrWire) attr() Attr {
	a := Attr{Mode: w.Mode, UID: w.UID, GID: w.GID, Rdev: w.Rdev, Mtime: Time{Sec: w.Sec, Nsec: w.Nsec}, Flags: w.Flags}
	for _, x := range w.Xattrs {
		a.Xattrs = append(a.Xattrs, Xattr{Name: string(x.Name), Value: x.Value})
	}
	return a
}

func (t *table) entry(e *Entry) entryWire {
	w := entryWire{Name: cbor.ByteString(e.Name), attrWire: e.Attr.wire(), Target: []byte(e.Target), Link: e.Link}
	if e.Link != 0 {
		w.Nlink = e.Nlink
	}
	if e.Content != nil {
		w.Content = t.content(e.Content)
	}
	if e.Dir != nil {
		w.Dir = t.dirRef(e.Dir)
	}
	return w
}

func (w *entryWire) entry(links []cid.Cid) (Entry, error) {
	e := Entry{Name: string(w.Name), Attr: w.attr(), Target: string(w.Target), Link: w.Link, Nlink: 1}
	if w.Link != 0 {
		e.Nlink = w.Nlink
	}
	var err error
	if w.Content != nil {
		if e.Content, err = w.Content.content(links); err != nil {
			return e, err
		}
	}
	if w.Dir != nil {
		if e.Dir, err = w.Dir.dirRef(links); err != nil {
			return e, err
		}
	}
	return e, nil // Check is done with the page
}
