package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// refuses expects that a decoder gave ErrFormat.
func refuses(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrFormat) {
		t.Errorf("%s: %v, want ErrFormat", what, err)
	}
}

func TestDecodeDir_RefusesBadEntries(t *testing.T) {
	reg := func(change func(e *Entry)) Entry {
		e := Entry{Name: "f", Attr: Attr{Mode: ModeReg | 0o644}, Nlink: 1, Content: &Content{
			Size: 1 << 20, ChunkSize: DefChunk, Data: DefChunk, Windows: []Window{{Index: 1, Block: raw("x")}}}}
		change(&e)
		return e
	}
	typed := func(mode uint32) func(e *Entry) {
		return func(e *Entry) { e.Mode, e.Content = mode, nil }
	}
	window := func(w Window) func(e *Entry) {
		return func(e *Entry) {
			e.Content.Windows = []Window{w}
			e.Content.Data = w.Bytes(e.Content.Span(w.Index))
		}
	}
	identity, err := multihash.Sum([]byte("x"), multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	sha512, err := multihash.Sum([]byte("x"), multihash.SHA2_512, -1)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(e *Entry){
		"empty name":                func(e *Entry) { e.Name = "" },
		"long name":                 func(e *Entry) { e.Name = strings.Repeat("x", 256) },
		"name with slash":           func(e *Entry) { e.Name = "a/b" },
		"name with NUL":             func(e *Entry) { e.Name = "a\x00" },
		"dot":                       func(e *Entry) { e.Name = "." },
		"dot dot":                   func(e *Entry) { e.Name = ".." },
		"no type":                   func(e *Entry) { e.Mode = 0o644 },
		"unknown type":              func(e *Entry) { e.Mode = 0o170644 },
		"mode over 16 bits":         func(e *Entry) { e.Mode |= 1 << 16 },
		"flags that are not kept":   func(e *Entry) { e.Flags = 1 },
		"a second in nanoseconds":   func(e *Entry) { e.Mtime.Nsec = 1e9 },
		"device number of a file":   func(e *Entry) { e.Rdev = 1 },
		"no names":                  func(e *Entry) { e.Nlink = 0; e.Link = 4 },
		"target of a file":          func(e *Entry) { e.Target = "x" },
		"directory ref of a file":   func(e *Entry) { e.Dir = &DirRef{Node: node("x")} },
		"file without content":      func(e *Entry) { e.Content = nil },
		"content of a FIFO":         func(e *Entry) { e.Mode = ModeFIFO },
		"directory without ref":     typed(ModeDir),
		"symlink without target":    typed(ModeLink),
		"symlink with long target":  func(e *Entry) { typed(ModeLink)(e); e.Target = strings.Repeat("x", MaxTarget+1) },
		"symlink with NUL":          func(e *Entry) { typed(ModeLink)(e); e.Target = "a\x00b" },
		"directory with link":       func(e *Entry) { typed(ModeDir)(e); e.Dir = &DirRef{Node: node("x")}; e.Link = 7 },
		"deep directory":            func(e *Entry) { typed(ModeDir)(e); e.Dir = &DirRef{Node: node("x"), Depth: MaxDepth + 1} },
		"directory ref to data":     func(e *Entry) { typed(ModeDir)(e); e.Dir = &DirRef{Node: raw("x")} },
		"xattrs out of order":       func(e *Entry) { e.Xattrs = []Xattr{{Name: "b"}, {Name: "a"}} },
		"xattr twice":               func(e *Entry) { e.Xattrs = []Xattr{{Name: "a"}, {Name: "a"}} },
		"xattr without name":        func(e *Entry) { e.Xattrs = []Xattr{{}} },
		"xattr with long name":      func(e *Entry) { e.Xattrs = []Xattr{{Name: strings.Repeat("x", 256)}} },
		"xattr with NUL":            func(e *Entry) { e.Xattrs = []Xattr{{Name: "a\x00"}} },
		"xattr with long value":     func(e *Entry) { e.Xattrs = []Xattr{{Name: "a", Value: make([]byte, MaxXattr+1)}} },
		"xattr of our own":          func(e *Entry) { e.Xattrs = []Xattr{{Name: "trusted.fractal.dir"}} },
		"size over the limit":       func(e *Entry) { e.Content.Size = 1 << 63 },
		"small chunk":               func(e *Entry) { e.Content.ChunkSize = MinChunk / 2 },
		"large chunk":               func(e *Entry) { e.Content.ChunkSize = MaxChunk * 2 },
		"wrong sum of data":         func(e *Entry) { e.Content.Data++ },
		"data over size":            func(e *Entry) { e.Content.Windows = nil; e.Content.Size, e.Content.Data = 5, 6 },
		"window behind the end":     window(Window{Index: 4, Block: raw("x")}),
		"window far behind the end": window(Window{Index: 1 << 60, Block: raw("x")}),
		"window of a node":          window(Window{Block: node("x")}),
		"window of an identity":     window(Window{Block: cid.NewCidV1(cid.Raw, identity)}),
		"window of SHA-512":         window(Window{Block: cid.NewCidV1(cid.Raw, sha512)}),
		"window of CID version 0":   window(Window{Block: cid.NewCidV0(raw("x").Hash())}),
		"window behind its block":   window(Window{Block: raw("x"), Off: MaxPack - DefChunk + 1}),
		"range of a whole window":   window(Window{Block: raw("x"), Data: []Range{{0, DefChunk}}}),
		"range over its window":     window(Window{Block: raw("x"), Data: []Range{{4096, DefChunk}}}),
		"range of nothing":          window(Window{Block: raw("x"), Data: []Range{{4096, 0}}}),
		"ranges that touch":         window(Window{Block: raw("x"), Data: []Range{{0, 4096}, {4096, 4096}}}),
		"ranges out of order":       window(Window{Block: raw("x"), Data: []Range{{8192, 4096}, {0, 4096}}}),
		"windows out of order": func(e *Entry) {
			e.Content.Windows = []Window{{Index: 1, Block: raw("x")}, {Block: raw("x")}}
			e.Content.Data *= 2
		},
		"window twice": func(e *Entry) {
			e.Content.Windows = []Window{{Block: raw("x")}, {Block: raw("x")}}
			e.Content.Data *= 2
		},
		"index and windows":      func(e *Entry) { e.Content.Index, e.Content.Depth = node("x"), 1 },
		"index of another depth": func(e *Entry) { e.Content.Windows, e.Content.Index, e.Content.Depth = nil, node("x"), 2 },
		"index to data":          func(e *Entry) { e.Content.Windows, e.Content.Index, e.Content.Depth = nil, raw("x"), 1 },
		"depth without index":    func(e *Entry) { e.Content.Windows, e.Content.Depth = nil, 1 },
		"index without data":     func(e *Entry) { e.Content = &Content{Size: 9, ChunkSize: DefChunk, Index: node("x"), Depth: 1} },
		"too many windows": func(e *Entry) {
			e.Content = &Content{Size: 5 << 20, ChunkSize: DefChunk, Data: 5 * DefChunk}
			for i := range uint64(5) {
				e.Content.Windows = append(e.Content.Windows, Window{Index: i, Block: raw("x")})
			}
		},
		"too many xattrs": func(e *Entry) {
			for i := range MaxXattrs + 1 {
				e.Xattrs = append(e.Xattrs, Xattr{Name: fmt.Sprintf("%04d", i)})
			}
		},
		"too heavy": func(e *Entry) {
			for i := range 9 {
				e.Xattrs = append(e.Xattrs, Xattr{Name: fmt.Sprint(i), Value: make([]byte, MaxXattr)})
			}
		},
	} {
		e := reg(change)
		if _, _, err := EncodeDir([]Entry{e}); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: encoded, %v", name, err)
		}
		var tab table
		payload, err := enc.Marshal([]entryWire{tab.entry(&e)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = DecodeDir(tab.links, payload)
		refuses(t, name, err)
	}
}

func TestDecodeDir_RefusesBadPages(t *testing.T) {
	sock := func(name string) Entry { return Entry{Name: name, Attr: Attr{Mode: ModeSock}, Nlink: 1} }
	page := func(entries ...Entry) []byte {
		var tab table
		w := []entryWire{}
		for i := range entries {
			w = append(w, tab.entry(&entries[i]))
		}
		return must(enc.Marshal(w))
	}
	var many, heavy []Entry
	for i := range MaxPage + 1 {
		many = append(many, sock(fmt.Sprintf("%04d", i)))
	}
	for i := range 5 {
		e := sock(fmt.Sprint(i))
		e.Xattrs = []Xattr{{Name: "a", Value: make([]byte, MaxXattr)}}
		heavy = append(heavy, e)
	}
	for name, payload := range map[string][]byte{
		"names out of order": page(sock("b"), sock("a")),
		"name twice":         page(sock("a"), sock("a")),
		"too many":           page(many...),
		"too heavy":          page(heavy...),
		"too long":           make([]byte, MaxPayload+1),
		"nothing":            {},
		"rest behind":        append(page(sock("a")), 0),
		"indefinite length":  append(append([]byte{0x9f}, page(sock("a"))[1:]...), 0xff),
		"long integer":       bytes.Replace(page(sock("a")), []byte{0x02, 0x19, 0xc0, 0x00}, []byte{0x02, 0x1a, 0, 0, 0xc0, 0x00}, 1),
		"fields out of order": must(cbor.Marshal([]cbor.RawMessage{
			{0xa2, 0x02, 0x19, 0xc0, 0x00, 0x01, 0x41, 'a'}})),
		"field twice":           {0x81, 0xa3, 0x01, 0x41, 'a', 0x02, 0x19, 0xc0, 0x00, 0x02, 0x19, 0xc0, 0x00},
		"unknown field":         {0x81, 0xa3, 0x01, 0x41, 'a', 0x02, 0x19, 0xc0, 0x00, 0x18, 0x63, 0x00},
		"zero that is left out": {0x81, 0xa3, 0x01, 0x41, 'a', 0x02, 0x19, 0xc0, 0x00, 0x03, 0x00},
		"name as text":          {0x81, 0xa2, 0x01, 0x61, 'a', 0x02, 0x19, 0xc0, 0x00},
		"a map":                 {0xa0},
		"a tag":                 {0xd8, 0x2a, 0x80},
		"null":                  {0xf6},
	} {
		_, err := DecodeDir(nil, payload)
		refuses(t, name, err)
	}
	if _, err := DecodeDir(nil, []byte{0x81, 0xa2, 0x01, 0x41, 'a', 0x02, 0x19, 0xc0, 0x00}); err != nil {
		t.Errorf("the plain form of these is refused: %v", err)
	}
}

func TestDecoders_RefuseForeignLinks(t *testing.T) {
	links, payload, err := EncodeDir(sampleEntries())
	if err != nil {
		t.Fatal(err)
	}
	swapped := append([]cid.Cid(nil), links...)
	swapped[0], swapped[2] = swapped[2], swapped[0]
	for name, l := range map[string][]cid.Cid{
		"missing": links[:len(links)-1],
		"more":    append(append([]cid.Cid(nil), links...), raw("more")),
		"twice":   append(append([]cid.Cid(nil), links...), links[0]),
		"none":    nil,
		"swapped": swapped, // of other codecs
	} {
		_, err := DecodeDir(l, payload)
		refuses(t, name, err)
	}
}

func TestDecodeIndexes_RefuseBadNodes(t *testing.T) {
	children := sampleChildren()[:3]
	swap := []DirChild{children[1], children[0]}
	data := []DirChild{{First: "a", Node: raw("x")}}
	for name, c := range map[string][]DirChild{"no children": {}, "out of order": swap, "data": data, "no name": {{Node: node("x")}}} {
		if _, _, err := EncodeDirIndex(1, c); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	links, payload, err := EncodeDirIndex(2, children)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []uint8{0, 1, 3, 9} {
		_, err := DecodeDirIndex(level, links, payload)
		refuses(t, fmt.Sprint("level ", level), err)
	}

	leaf := sampleLeaf().Windows
	for name, c := range map[string]struct {
		pos FilePos
		f   FileIndex
	}{
		"empty leaf":           {leafPos, FileIndex{}},
		"empty inner":          {innerPos, FileIndex{}},
		"children in a leaf":   {leafPos, FileIndex{Windows: leaf, Children: sampleInner().Children}},
		"windows in an inner":  {innerPos, FileIndex{Windows: leaf, Children: sampleInner().Children}},
		"window before":        {leafPos, FileIndex{Windows: []Window{{Index: 2047, Block: raw("x")}}}},
		"window behind":        {leafPos, FileIndex{Windows: []Window{{Index: 3072, Block: raw("x")}}}},
		"windows out of order": {leafPos, FileIndex{Windows: []Window{leaf[1], leaf[0]}}},
		"child before":         {innerPos, FileIndex{Children: []FileChild{{First: 0, Node: node("x")}}}},
		"child of no step":     {innerPos, FileIndex{Children: []FileChild{{First: innerPos.First + 1, Node: node("x")}}}},
		"child of data":        {innerPos, FileIndex{Children: []FileChild{{First: innerPos.First, Node: raw("x")}}}},
		"first of no step":     {FilePos{1 << 32, DefChunk, 1, 5}, FileIndex{Windows: []Window{{Index: 5, Block: raw("x")}}}},
		"level too high":       {FilePos{1 << 20, DefChunk, 2, 0}, FileIndex{Children: []FileChild{{First: 0, Node: node("x")}}}},
		"level 0":              {FilePos{1 << 20, DefChunk, 0, 0}, FileIndex{Windows: leaf}},
		"level 255":            {FilePos{1 << 20, DefChunk, 255, 0}, FileIndex{Windows: leaf}},
		"behind the file":      {FilePos{1 << 20, DefChunk, 1, 1024}, FileIndex{Windows: []Window{{Index: 1024, Block: raw("x")}}}},
	} {
		if _, _, err := EncodeFileIndex(c.pos, &c.f); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: encoded, %v", name, err)
		}
	}
	links, payload, err = EncodeFileIndex(leafPos, sampleLeaf())
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]FilePos{
		"as an inner node": {leafPos.Size, leafPos.ChunkSize, 2, 0},
		"near the end":     {2100 * DefChunk, DefChunk, 1, 2048},
		"smaller chunks":   {leafPos.Size, MinChunk / 2, 1, 2048},
	} {
		_, err := DecodeFileIndex(p, links, payload)
		refuses(t, name, err)
	}
}

func TestDecodeNode_RefusesOtherForms(t *testing.T) {
	good, err := EncodeNode([]cid.Cid{raw("a"), node("b")}, []byte("sealed"))
	if err != nil {
		t.Fatal(err)
	}
	version := bytes.Clone(good)
	version[len(version)-1] = 2
	if _, err := DecodeNode(version); !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
	// A later version may have other fields.
	if _, err := DecodeNode(must(cbor.Marshal(map[string]any{"v": 9, "new": 1}))); !errors.Is(err, ErrVersion) {
		t.Errorf("version 9: %v", err)
	}
	tag := bytes.Replace(bytes.Clone(good), []byte{0xd8, 0x2a}, []byte{0xd8, 0x2b}, 1)
	untagged := bytes.Replace(bytes.Clone(good), []byte{0xd8, 0x2a}, nil, 1)
	hash := bytes.Replace(bytes.Clone(good), []byte{1, 0x55, 0x12, 0x20}, []byte{1, 0x55, 0x16, 0x20}, 1)
	for name, b := range map[string][]byte{
		"empty": {}, "another tag": tag, "no tag": untagged, "another hash": hash,
		"cut": good[:len(good)-1], "more": append(bytes.Clone(good), 0), "too large": make([]byte, MaxBlock+1),
		"list": {0x80}, "without links": must(cbor.Marshal(map[string]any{"s": []byte{}, "v": 1})),
		"more fields": must(enc.Marshal(map[string]any{"l": []int{}, "s": []byte{}, "v": 1, "w": 1})),
		"order":       {0xa3, 0x61, 's', 0x40, 0x61, 'l', 0x80, 0x61, 'v', 0x01},
	} {
		_, err := DecodeNode(b)
		refuses(t, name, err)
	}
	if _, err := EncodeNode(nil, make([]byte, MaxBlock)); !errors.Is(err, ErrFormat) {
		t.Errorf("a node over 1 MiB: %v", err)
	}
	if _, err := EncodeNode(make([]cid.Cid, MaxLinks+1), nil); !errors.Is(err, ErrFormat) {
		t.Errorf("too many links: %v", err)
	}
}

func TestDecodeRoot_RefusesWhatItDoesNotKnow(t *testing.T) {
	r := sampleRoot()
	r.Features = 1 << 63
	if _, _, err := EncodeRoot(r); !errors.Is(err, ErrFeature) {
		t.Errorf("encoded, %v", err)
	}
	if _, err := DecodeRoot(nil, must(enc.Marshal(map[int]any{1: 4, 77: "new"}))); !errors.Is(err, ErrFeature) {
		t.Errorf("a feature: %v", err)
	}
	if _, err := DecodeRoot(nil, must(enc.Marshal(map[int]any{1: 0, 77: "new"}))); !errors.Is(err, ErrFormat) {
		t.Errorf("a field without its feature: %v", err)
	}
	for name, change := range map[string]func(r *Root){
		"a file":          func(r *Root) { r.Mode = ModeReg },
		"chunk size":      func(r *Root) { r.ChunkSize = 3 << 16 },
		"trace to data":   func(r *Root) { r.Trace = raw("x") },
		"directory":       func(r *Root) { r.Dir.Node = raw("x") },
		"device number":   func(r *Root) { r.Rdev = 5 },
		"no directory":    func(r *Root) { r.Dir.Node = cid.Undef },
		"heavy attribute": func(r *Root) { r.Xattrs[0].Value = make([]byte, MaxXattr+1) },
	} {
		r := sampleRoot()
		change(r)
		if _, _, err := EncodeRoot(r); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTrace_RefusesTwiceAndTooMany(t *testing.T) {
	many := new(Trace)
	for i := range MaxTrace + 1 {
		many.Blocks = append(many.Blocks, raw(fmt.Sprint(i)))
	}
	for name, v := range map[string]*Trace{"none": {}, "twice": {Blocks: []cid.Cid{raw("a"), raw("b"), raw("a")}}, "too many": many, "undefined": {Blocks: []cid.Cid{{}}}} {
		if _, _, err := EncodeTrace(v); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many.Blocks = many.Blocks[:MaxTrace]
	links, payload, err := EncodeTrace(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := EncodeNode(links, payload); err != nil {
		t.Errorf("the longest trace does not fit a block: %v", err)
	}
	for name, uses := range map[string][]uint64{"twice": {0, 0}, "not all": {0}, "out of range": {0, 2}} {
		_, err := DecodeTrace(links[:2], must(enc.Marshal(uses)))
		refuses(t, name, err)
	}
}

func TestReferences_RefuseOtherForms(t *testing.T) {
	content := EncodeContent(sampleEntries()[8].Content)
	dir := EncodeDirRef(sampleEntries()[3].Dir)
	for i := range content {
		if _, err := DecodeContent(content[:i]); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes of content: %v", i, err)
		}
	}
	for i := range dir {
		if _, err := DecodeDirRef(dir[:i]); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes of directory reference: %v", i, err)
		}
	}
	for _, v := range []byte{0, 2, 3, 23} {
		content[1], dir[1] = v, v
		if _, err := DecodeContent(content); v != refPatched && !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
		if _, err := DecodeDirRef(dir); !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
	}
	if _, err := DecodeContent(make([]byte, maxRefBytes+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too long: %v", err)
	}
}

func TestWeight_IsNotBelowTheEncodedSize(t *testing.T) {
	entries := sampleEntries()
	full := Entry{Name: "full", Attr: Attr{Mode: ModeReg | 0o7777, UID: 1<<32 - 1, GID: 1<<32 - 1, Flags: KeptFlags,
		Mtime: Time{Sec: -1 << 63, Nsec: 999999999}}, Link: 1<<64 - 1, Nlink: 1<<32 - 1,
		Content: &Content{Size: MaxFileSize, ChunkSize: MaxChunk}}
	for i := range uint64(MaxInline) {
		w := Window{Index: 1<<43 + i, Block: raw(fmt.Sprint(i)), Off: 100000}
		for s := uint64(0); s < MaxChunk/Sector; s += 2 {
			w.Data = append(w.Data, Range{s * Sector, Sector})
		}
		full.Content.Windows = append(full.Content.Windows, w)
		full.Content.Data += w.Bytes(MaxChunk)
	}
	for i := range MaxXattrs {
		full.Xattrs = append(full.Xattrs, Xattr{Name: fmt.Sprintf("user.%03d", i), Value: make([]byte, i)})
	}
	device := Entry{Name: "z", Attr: Attr{Mode: ModeBlk, UID: 1<<32 - 1, GID: 1<<32 - 1, Rdev: 1<<64 - 1, Flags: KeptFlags,
		Mtime: Time{Sec: -1 << 63, Nsec: 999999999}}, Link: 1<<64 - 1, Nlink: 1<<32 - 1}
	for _, e := range append(entries, full, device) {
		_, payload, err := EncodeDir([]Entry{e})
		if err != nil {
			t.Fatal(err)
		}
		if len(payload) > e.Weight() {
			t.Errorf("%q: %d bytes, weight %d", e.Name, len(payload), e.Weight())
		}
	}
	// The largest reference must fit into a mark.
	if n := len(EncodeContent(full.Content)); n > 2<<10 {
		t.Errorf("content of %d bytes by itself", n)
	}
}
