package wire

import (
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

type dirRefWire struct {
	_     struct{} `cbor:",toarray"`
	Node  uint64   // link
	Depth uint8
	Files uint64
	Dirs  uint64
	Bytes uint64
}

type dirChildWire struct {
	_     struct{} `cbor:",toarray"`
	First cbor.ByteString
	Node  uint64 // link
	Files uint64
	Dirs  uint64
	Bytes uint64
}

// Check returns ErrFormat where d is not valid.
func (d *DirRef) Check() error {
	if d.Depth > MaxDepth {
		return malformed("directory index of %d levels", d.Depth)
	}
	return checkLink(d.Node, codecNode)
}

func (t *table) dirRef(d *DirRef) *dirRefWire {
	return &dirRefWire{Node: t.add(d.Node), Depth: d.Depth, Files: d.Files, Dirs: d.Dirs, Bytes: d.Bytes}
}

func (w *dirRefWire) dirRef(links []cid.Cid) (*DirRef, error) {
	node, err := linkAt(links, w.Node)
	if err != nil {
		return nil, err
	}
	d := &DirRef{Node: node, Depth: w.Depth, Files: w.Files, Dirs: w.Dirs, Bytes: w.Bytes}
	return d, d.Check()
}

// EncodeDir encodes a page: entries ascending by name, at most MaxPage, of a
// Weight of at most PageWeight in all where there are several.
func EncodeDir(entries []Entry) (links []cid.Cid, payload []byte, err error) {
	if err := checkPage(entries); err != nil {
		return nil, nil, err
	}
	var t table
	w := make([]entryWire, len(entries))
	for i := range entries {
		w[i] = t.entry(&entries[i])
	}
	if payload, err = enc.Marshal(w); err != nil {
		return nil, nil, malformed("%v", err)
	}
	return t.links, payload, nil
}

func checkPage(entries []Entry) error {
	if len(entries) > MaxPage {
		return malformed("%d entries in a page, at most %d are allowed", len(entries), MaxPage)
	}
	weight := 0
	for i := range entries {
		e := &entries[i]
		if err := e.Check(); err != nil {
			return err
		}
		if i > 0 && e.Name <= entries[i-1].Name {
			return malformed("names out of order")
		}
		weight += e.Weight()
	}
	if len(entries) > 1 && weight > PageWeight {
		return malformed("page of weight %d, at most %d is allowed", weight, PageWeight)
	}
	return nil
}

// DecodeDir reads a page.
func DecodeDir(links []cid.Cid, payload []byte) ([]Entry, error) {
	var w []entryWire
	if err := unmarshal(payload, MaxPayload, &w); err != nil {
		return nil, err
	}
	if len(w) > MaxPage {
		return nil, malformed("%d entries in a page, at most %d are allowed", len(w), MaxPage)
	}
	entries := make([]Entry, len(w))
	for i := range w {
		var err error
		if entries[i], err = w[i].entry(links); err != nil {
			return nil, err
		}
	}
	again, payloadAgain, err := EncodeDir(entries)
	if err != nil {
		return nil, err
	}
	return entries, same(links, again, payload, payloadAgain)
}

type dirIndexWire struct {
	Level    uint8          `cbor:"1,keyasint"`
	Children []dirChildWire `cbor:"2,keyasint"`
}

// EncodeDirIndex encodes the index node of a directory at a level: its
// children are pages at level 1, index nodes of the level below otherwise.
func EncodeDirIndex(level uint8, children []DirChild) (links []cid.Cid, payload []byte, err error) {
	if level < 1 || level > MaxDepth || len(children) == 0 || len(children) > MaxChildren {
		return nil, nil, malformed("directory index of %d children at level %d", len(children), level)
	}
	var t table
	w := dirIndexWire{Level: level}
	for i := range children {
		c := &children[i]
		if err := checkName(c.First); err != nil {
			return nil, nil, err
		}
		if i > 0 && c.First <= children[i-1].First {
			return nil, nil, malformed("names out of order")
		}
		if err := checkLink(c.Node, codecNode); err != nil {
			return nil, nil, err
		}
		w.Children = append(w.Children, dirChildWire{
			First: cbor.ByteString(c.First), Node: t.add(c.Node), Files: c.Files, Dirs: c.Dirs, Bytes: c.Bytes,
		})
	}
	if payload, err = enc.Marshal(w); err != nil {
		return nil, nil, malformed("%v", err)
	}
	return t.links, payload, nil
}

// DecodeDirIndex reads an index node that must stand at the given level.
func DecodeDirIndex(level uint8, links []cid.Cid, payload []byte) ([]DirChild, error) {
	var w dirIndexWire
	if err := unmarshal(payload, MaxPayload, &w); err != nil {
		return nil, err
	}
	if w.Level != level || len(w.Children) > MaxChildren {
		return nil, malformed("directory index of %d children at level %d, not %d", len(w.Children), w.Level, level)
	}
	children := make([]DirChild, len(w.Children))
	for i, c := range w.Children {
		node, err := linkAt(links, c.Node)
		if err != nil {
			return nil, err
		}
		children[i] = DirChild{First: string(c.First), Node: node, Files: c.Files, Dirs: c.Dirs, Bytes: c.Bytes}
	}
	again, payloadAgain, err := EncodeDirIndex(level, children)
	if err != nil {
		return nil, err
	}
	return children, same(links, again, payload, payloadAgain)
}
