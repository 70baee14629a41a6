package wire

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
)

func sumOf(b byte) (s [16]byte) {
	for i := range s {
		s[i] = b + byte(i)
	}
	return s
}

// samplePatched is the content of a file with every kind of patch: on a whole window, on a base with other ranges than the window, at the
// end of a file that grew, of which the old end was inside of a sector.
func samplePatched() *Content {
	size := uint64(3*DefChunk + 9000)
	c := &Content{Size: size, ChunkSize: DefChunk, Windows: []Window{
		{Index: 0, Block: raw("base"), Patch: &Patch{Block: raw("patches"), Data: []Range{{4096, 4096}, {200704, 8192}}, Sum: sumOf(1)}},
		{Index: 1, Block: raw("sparse"), Data: []Range{{0, 8192}, {65536, 131072}},
			Patch: &Patch{Block: raw("patches"), Off: 12288, Data: []Range{{4096, 4096}}, Base: []Range{{0, 4096}, {65536, 131072}}, Sum: sumOf(2)}},
		{Index: 2, Block: raw("plain")},
		{Index: 3, Block: raw("tail"), Patch: &Patch{Block: raw("others"), Data: []Range{{4096, 4904}}, Base: []Range{{0, 4096}}, Sum: sumOf(3)}},
	}}
	for i := range c.Windows {
		c.Data += c.Windows[i].Bytes(c.Span(c.Windows[i].Index))
	}
	return c
}

func patchedLeaf() *FileIndex {
	f := sampleLeaf()
	for i := range f.Windows {
		if w := &f.Windows[i]; i%3 == 0 {
			w.Patch = &Patch{Block: raw(fmt.Sprint("patches", i/100)), Off: uint32(i%100) * 4096, Data: []Range{{16384, 4096}}, Sum: sumOf(byte(i))}
			if i%2 == 0 && w.Data != nil {
				w.Patch.Base = []Range{{4096, 4096}, {20480, 4096}}
			}
		}
	}
	return f
}

func patchedEntries() []Entry {
	return []Entry{{Name: "db", Attr: Attr{Mode: ModeReg | 0o600}, Nlink: 1, Content: samplePatched()}}
}

func TestPatches_ComeBackAsTheyWere(t *testing.T) {
	roundTrip(t, patchedEntries(), EncodeDir, DecodeDir)
	leaf := patchedLeaf()
	roundTrip(t, leaf,
		func(f *FileIndex) ([]cid.Cid, []byte, error) { return EncodeFileIndex(leafPos, f) },
		func(l []cid.Cid, b []byte) (*FileIndex, error) { return DecodeFileIndex(leafPos, l, b) })
	root := sampleRoot()
	root.Features = FeaturePatches
	roundTrip(t, root, EncodeRoot, DecodeRoot)
	c := samplePatched()
	got, err := DecodeContent(EncodeContent(c))
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v, %v; want %+v", got, err, c)
	}
}

// A patched reference by itself must not be taken by a program that knows version 1 only.
func TestPatches_HaveAVersionOfTheirOwnInMarks(t *testing.T) {
	plain := samplePatched()
	for i := range plain.Windows {
		plain.Windows[i].Patch = nil
	}
	if b := EncodeContent(plain); b[1] != 1 {
		t.Errorf("version %d without a patch", b[1])
	}
	b := EncodeContent(samplePatched())
	if b[1] != 2 {
		t.Errorf("version %d with patches", b[1])
	}
	b[1] = 1
	_, err := DecodeContent(b)
	refuses(t, "patches in version 1", err)
	b = EncodeContent(plain)
	b[1] = 2
	_, err = DecodeContent(b)
	refuses(t, "no patches in version 2", err)
}

func TestPatches_RefuseBadOnes(t *testing.T) {
	for name, change := range map[string]func(c *Content){
		"no data":                     func(c *Content) { c.Windows[0].Patch.Data = nil },
		"a node":                      func(c *Content) { c.Windows[0].Patch.Block = node("x") },
		"too many bytes":              func(c *Content) { c.Windows[0].Patch.Data = []Range{{0, MaxPatch + Sector}} },
		"behind its block":            func(c *Content) { c.Windows[0].Patch.Off = MaxPack - 12288 + 1 },
		"base behind its block":       func(c *Content) { c.Windows[1].Off = MaxPack - 131072 - 4096 + 1 },
		"off its sectors":             func(c *Content) { c.Windows[0].Patch.Data = []Range{{4095, 4096}} },
		"ends inside a sector":        func(c *Content) { c.Windows[0].Patch.Data = []Range{{4096, 100}} },
		"out of order":                func(c *Content) { c.Windows[0].Patch.Data = []Range{{8192, 4096}, {0, 4096}} },
		"touching":                    func(c *Content) { c.Windows[0].Patch.Data = []Range{{4096, 4096}, {8192, 4096}} },
		"behind its window":           func(c *Content) { c.Windows[0].Patch.Data = []Range{{DefChunk, 4096}} },
		"data in a hole":              func(c *Content) { c.Windows[1].Patch.Data = []Range{{4096, 8192}} },
		"data that nobody has":        func(c *Content) { c.Windows[1].Patch.Base = []Range{{65536, 131072}} },
		"base in a hole":              func(c *Content) { c.Windows[1].Patch.Base = []Range{{0, 4096}, {65536, 135168}} },
		"base without data":           func(c *Content) { c.Windows[1].Patch.Base = []Range{} },
		"base ends inside a sector":   func(c *Content) { c.Windows[3].Patch.Base = []Range{{0, 4000}} },
		"base out of order":           func(c *Content) { c.Windows[1].Patch.Base = []Range{{65536, 131072}, {0, 4096}} },
		"base that is the window's":   func(c *Content) { c.Windows[1].Patch.Base = c.Windows[1].Data },
		"base that is all the window": func(c *Content) { c.Windows[0].Patch.Base = []Range{{0, DefChunk}} },
	} {
		c := samplePatched()
		change(c)
		if err := c.Check(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: passes, %v", name, err)
		}
		var tab table
		payload := must(enc.Marshal(tab.content(c)))
		var w contentWire
		if err := dec.Unmarshal(payload, &w); err != nil {
			t.Fatal(err)
		}
		got, err := w.content(tab.links)
		// What sectors cannot say is another value by then.
		if err == nil && reflect.DeepEqual(got, c) {
			t.Errorf("%s: decoded", name)
		}
	}
	// What only the wire can say.
	for name, change := range map[string]func(w *contentWire){
		"of no window":      func(w *contentWire) { w.Patches[2].Window = 4 },
		"far":               func(w *contentWire) { w.Patches[2].Window = 1<<64 - 1 },
		"twice":             func(w *contentWire) { w.Patches[1].Window = 0 },
		"out of order":      func(w *contentWire) { w.Patches[0], w.Patches[1] = w.Patches[1], w.Patches[0] },
		"short sum":         func(w *contentWire) { w.Patches[0].Sum = w.Patches[0].Sum[:15] },
		"long sum":          func(w *contentWire) { w.Patches[0].Sum = append(w.Patches[0].Sum, 0) },
		"no such link":      func(w *contentWire) { w.Patches[0].Block = 99 },
		"half a range":      func(w *contentWire) { w.Patches[0].Data = []uint64{1} },
		"huge range":        func(w *contentWire) { w.Patches[0].Data = []uint64{1, 1 << 62} },
		"huge offset":       func(w *contentWire) { w.Patches[0].Data = []uint64{1 << 62, 1} },
		"half a base":       func(w *contentWire) { w.Patches[0].Base = []uint64{1} },
		"more than windows": func(w *contentWire) { w.Patches = append(w.Patches, w.Patches...) },
	} {
		var tab table
		w := tab.content(samplePatched())
		change(w)
		_, err := DecodeContent(encodeRef(refPatched, tab.links, *w))
		refuses(t, name, err)
	}
}

func TestWindow_SameIsSame(t *testing.T) {
	for name, change := range map[string]func(w *Window){
		"index":      func(w *Window) { w.Index++ },
		"block":      func(w *Window) { w.Block = raw("x") },
		"offset":     func(w *Window) { w.Off++ },
		"data":       func(w *Window) { w.Data = nil },
		"no patch":   func(w *Window) { w.Patch = nil },
		"its block":  func(w *Window) { w.Patch.Block = raw("x") },
		"its offset": func(w *Window) { w.Patch.Off++ },
		"its data":   func(w *Window) { w.Patch.Data[0].Off += Sector },
		"its base":   func(w *Window) { w.Patch.Base = nil },
		"its sum":    func(w *Window) { w.Patch.Sum[15]++ },
	} {
		a, b := samplePatched().Windows[1], samplePatched().Windows[1]
		if !a.Same(&b) {
			t.Fatal("a window is not itself")
		}
		if change(&b); a.Same(&b) || b.Same(&a) {
			t.Errorf("%s: no difference", name)
		}
	}
}

// The entry and the index node with the most in them keep the bounds of weight, payload, and reference.
func TestPatches_WidestFit(t *testing.T) {
	widest := func(i uint64) Window {
		w := Window{Index: i, Block: raw(fmt.Sprint(i)), Off: 100000, Patch: &Patch{Block: raw(fmt.Sprint("p", i)), Off: 400000, Sum: sumOf(255)}}
		for s := uint64(0); s < MaxChunk/Sector; s += 2 {
			r := Range{s * Sector, Sector}
			w.Data = append(w.Data, r)
			if s >= MaxChunk/Sector-32 {
				w.Patch.Data = append(w.Patch.Data, r)
			}
			if s < MaxChunk/Sector-2 {
				w.Patch.Base = append(w.Patch.Base, r)
			}
		}
		return w
	}
	e := Entry{Name: strings.Repeat("x", MaxName), Attr: Attr{Mode: ModeReg}, Nlink: 1, Content: &Content{Size: 1 << 62, ChunkSize: MaxChunk}}
	for i := range uint64(MaxInline) {
		w := widest(1<<40 + i)
		e.Content.Windows = append(e.Content.Windows, w)
		e.Content.Data += w.Bytes(MaxChunk)
	}
	_, payload, err := EncodeDir([]Entry{e})
	if err != nil || len(payload) > e.Weight() {
		t.Errorf("%d bytes, weight %d, %v", len(payload), e.Weight(), err)
	}
	if b := EncodeContent(e.Content); len(b) > 3<<10 {
		t.Errorf("%d bytes by itself", len(b))
	}
	pos := FilePos{Size: 1 << 40, ChunkSize: MaxChunk, Level: 1}
	f := new(FileIndex)
	for i := range uint64(IndexFanout) {
		f.Windows = append(f.Windows, widest(i))
	}
	links, payload, err := EncodeFileIndex(pos, f)
	if err != nil || len(payload) > MaxPayload {
		t.Fatalf("%d bytes, %v", len(payload), err)
	}
	if _, err := DecodeFileIndex(pos, links, payload); err != nil {
		t.Error(err)
	}
	if _, err := EncodeNode(links, payload); err != nil {
		t.Error(err)
	}
}
