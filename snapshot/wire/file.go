package wire

import "github.com/ipfs/go-cid"

// FilePos says where an index node of a file stands: the same bytes mean other
// windows elsewhere, so a decoder must know.
type FilePos struct {
	Size      uint64 // of the file, bytes
	ChunkSize uint32
	Level     uint8  // 1: a leaf
	First     uint64 // the first window that it covers; it covers Covers(Level)
}

// Check returns ErrFormat where p cannot be.
func (p FilePos) Check() error {
	if p.Size > MaxFileSize || !ValidChunk(p.ChunkSize) || p.Level < 1 || p.Level > MinDepth(p.Size, p.ChunkSize) ||
		p.First%Covers(p.Level) != 0 || Span(p.Size, p.ChunkSize, p.First) == 0 {
		return malformed("position of a file index")
	}
	return nil
}

type fileIndexWire struct {
	Level    uint8           `cbor:"1,keyasint"`
	Windows  []windowWire    `cbor:"2,keyasint,omitempty"`
	Children []fileChildWire `cbor:"3,keyasint,omitempty"`
	Patches  []patchWire     `cbor:"4,keyasint,omitempty"`
}

type fileChildWire struct {
	_     struct{} `cbor:",toarray"`
	Index uint64   // which of the IndexFanout children
	Node  uint64   // link
}

// EncodeFileIndex encodes an index node of a file: Windows at level 1,
// Children above, ascending and at least one.
func EncodeFileIndex(p FilePos, f *FileIndex) (links []cid.Cid, payload []byte, err error) {
	if err := p.Check(); err != nil {
		return nil, nil, err
	}
	var t table
	w := fileIndexWire{Level: p.Level}
	if p.Level == 1 {
		if len(f.Windows) == 0 || len(f.Children) != 0 {
			return nil, nil, malformed("leaf of a file index with %d windows and %d children", len(f.Windows), len(f.Children))
		}
		w.Windows, err = t.leaf(p, f.Windows)
		w.Patches = t.patches(f.Windows)
	} else {
		if len(f.Children) == 0 || len(f.Windows) != 0 {
			return nil, nil, malformed("file index with %d windows and %d children", len(f.Windows), len(f.Children))
		}
		w.Children, err = t.fileChildren(p, f.Children)
	}
	if err != nil {
		return nil, nil, err
	}
	if payload, err = enc.Marshal(w); err != nil {
		return nil, nil, malformed("%v", err)
	}
	return t.links, payload, nil
}

func (t *table) leaf(p FilePos, windows []Window) (out []windowWire, err error) {
	for i := range windows {
		win := &windows[i]
		if win.Index < p.First || win.Index-p.First >= Covers(1) || (i > 0 && win.Index <= windows[i-1].Index) {
			return nil, malformed("windows out of order")
		}
		if err := win.Check(p.Size, p.ChunkSize); err != nil {
			return nil, err
		}
		out = append(out, t.window(win, p.First))
	}
	return out, nil
}

func (t *table) fileChildren(p FilePos, children []FileChild) (out []fileChildWire, err error) {
	step := Covers(p.Level - 1)
	for i, c := range children {
		if c.First < p.First || c.First-p.First >= Covers(p.Level) || c.First%step != 0 ||
			Span(p.Size, p.ChunkSize, c.First) == 0 || (i > 0 && c.First <= children[i-1].First) {
			return nil, malformed("children out of order")
		}
		if err := checkLink(c.Node, codecNode); err != nil {
			return nil, err
		}
		out = append(out, fileChildWire{Index: (c.First - p.First) / step, Node: t.add(c.Node)})
	}
	return out, nil
}

// DecodeFileIndex reads the index node that stands at p.
func DecodeFileIndex(p FilePos, links []cid.Cid, payload []byte) (*FileIndex, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	var w fileIndexWire
	if err := unmarshal(payload, MaxPayload, &w); err != nil {
		return nil, err
	}
	if w.Level != p.Level || len(w.Windows) > IndexFanout || len(w.Children) > IndexFanout {
		return nil, malformed("file index of level %d, not %d", w.Level, p.Level)
	}
	f := new(FileIndex)
	for i := range w.Windows {
		win, err := w.Windows[i].window(links, p.First, p.Size, p.ChunkSize)
		if err != nil {
			return nil, err
		}
		f.Windows = append(f.Windows, win)
	}
	if err := setPatches(f.Windows, w.Patches, links, p.Size, p.ChunkSize); err != nil {
		return nil, err
	}
	for _, c := range w.Children {
		node, err := linkAt(links, c.Node)
		if err != nil {
			return nil, err
		}
		if c.Index >= IndexFanout {
			return nil, malformed("children out of order")
		}
		f.Children = append(f.Children, FileChild{First: p.First + c.Index*Covers(p.Level-1), Node: node})
	}
	again, payloadAgain, err := EncodeFileIndex(p, f)
	if err != nil {
		return nil, err
	}
	return f, same(links, again, payload, payloadAgain)
}
