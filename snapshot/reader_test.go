package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
)

// liar is a Getter that answers with other bytes than it was asked for: what
// is left to a Reader when the check of CIDs does not help.
type liar struct {
	Getter
	lies map[cid.Cid][]byte
	gets atomic.Int64
}

func (l *liar) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	l.gets.Add(1)
	if b, ok := l.lies[c]; ok {
		return bytes.Clone(b), nil
	}
	return l.Getter.Get(ctx, c)
}

// refused tells whether err is one of those that a Reader has for bad blocks.
func refused(err error) bool {
	return errors.Is(err, seal.ErrOpen) || errors.Is(err, ErrDamaged) || errors.Is(err, wire.ErrVersion) || errors.Is(err, wire.ErrFeature)
}

func TestReader_RefusesWrongKey(t *testing.T) {
	tree, sink := everyKind(), newBlocks()
	c, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	r := NewReader(sink, testKey(2))
	if _, err := r.Root(t.Context(), c); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("root: %v", err)
	}
	for _, err := range r.Dir(t.Context(), root.Dir) {
		if !errors.Is(err, seal.ErrOpen) {
			t.Errorf("directory: %v", err)
		}
	}
	for c := range sink.m {
		if c.Prefix().Codec == cid.Raw {
			if _, err := r.Data(t.Context(), c); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("data: %v", err)
			}
		}
	}
}

func TestReader_RefusesBitFlipsAndTruncation(t *testing.T) {
	tree := dir("", dir("sub", file("a", []byte("content of a")), file("b", noise(1, 70<<10))), file("c", noise(2, 6<<16)))
	sink := newBlocks()
	root, _, _ := mustBuild(t, tree, sink, testKey(1), Options{ChunkSize: wire.MinChunk})
	for c, block := range sink.m {
		step := max(1, len(block)/61)
		for at := 0; at < len(block); at += step {
			flipped := bytes.Clone(block)
			flipped[at] ^= 1 << (at % 8)
			for name, bad := range map[string][]byte{"flipped": flipped, "cut": block[:at]} {
				l := &liar{Getter: sink, lies: map[cid.Cid][]byte{c: bad}}
				if _, err := readTree(t.Context(), NewReader(l, testKey(1)), root); !refused(err) {
					t.Fatalf("%s at %d of %d: %v", name, at, len(block), err)
				}
			}
		}
	}
}

func TestReader_RefusesEverySwapOfBlocks(t *testing.T) {
	tree := dir("", dir("sub", file("a", noise(3, 100<<10)), file("b", noise(1, 70<<10))), dir("other", file("x", noise(4, 80<<10))), file("c", noise(2, 2<<20)))
	sink := newBlocks()
	root, _, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	// Another block of the same volume opens with its key: the CID tells data
	// blocks apart, kind and parent tell nodes apart.
	nodes := 0
	for c := range sink.m {
		for d, block := range sink.m {
			if c == d || c.Prefix().Codec == cid.Raw && d.Prefix().Codec == cid.Raw {
				continue
			}
			if c.Prefix().Codec == cid.DagCBOR && d.Prefix().Codec == cid.DagCBOR {
				nodes++
			}
			l := &liar{Getter: sink, lies: map[cid.Cid][]byte{c: block}}
			got, err := readTree(t.Context(), NewReader(l, testKey(1)), root)
			if err == nil && fmt.Sprint(got) == fmt.Sprint(tree.manifest("")) {
				t.Fatalf("%s in place of %s went unnoticed", d, c)
			}
			if err != nil && !refused(err) {
				t.Fatalf("%s in place of %s: %v", d, c, err)
			}
		}
	}
	if nodes == 0 {
		t.Error("no nodes were swapped")
	}
}

func TestReader_RefusesSwappedLinks(t *testing.T) {
	tree := dir("", dir("a", file("x", nil)), dir("b", file("y", nil)))
	sink := newBlocks()
	c, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	n, err := wire.DecodeNode(sink.m[root.Dir.Node])
	if err != nil || len(n.Links) != 2 {
		t.Fatalf("%d links, %v", len(n.Links), err)
	}
	n.Links[0], n.Links[1] = n.Links[1], n.Links[0]
	swapped, err := wire.EncodeNode(n.Links, n.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{Getter: sink, lies: map[cid.Cid][]byte{root.Dir.Node: swapped}}
	if _, err := readTree(t.Context(), NewReader(l, testKey(1)), c); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("error %v, want ErrOpen", err)
	}
}

func TestReader_RefusesCompressedBombs(t *testing.T) {
	s := testKey(1)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, plain := range map[string][]byte{
		"bomb":          append([]byte{codecZstd}, z.EncodeAll(make([]byte, 64<<20), nil)...),
		"one too many":  append([]byte{codecZstd}, z.EncodeAll(make([]byte, maxData+1), nil)...),
		"plain":         make([]byte, 1+maxData+1),
		"not a frame":   {codecZstd, 1, 2, 3},
		"nothing":       {},
		"two frames":    append(append([]byte{codecZstd}, z.EncodeAll([]byte("aaa"), nil)...), z.EncodeAll([]byte("bbb"), nil)...),
		"unknown codec": {9, 1},
	} {
		if _, err := OpenData(s, s.Seal(nil, seal.KindData, nil, plain)); !refused(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := make([]byte, maxData)
	got, err := OpenData(s, s.Seal(nil, seal.KindData, nil, append([]byte{codecZstd}, z.EncodeAll(whole, nil)...)))
	if err != nil || !bytes.Equal(got, whole) {
		t.Errorf("the largest block: %d bytes, %v", len(got), err)
	}
}

func TestPiece_RefusesWindowBehindTheBlock(t *testing.T) {
	c := &wire.Content{Size: 100, ChunkSize: wire.DefChunk}
	for _, w := range []wire.Window{{Off: 1}, {Off: 1 << 31}} {
		if _, err := Piece(make([]byte, 100), nil, c, w); !errors.Is(err, ErrDamaged) {
			t.Errorf("offset %d: %v", w.Off, err)
		}
	}
	if b, err := Piece(make([]byte, 100), nil, c, wire.Window{}); err != nil || len(b) != 100 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestReader_RefusesLaterFeatures(t *testing.T) {
	s, sink := testKey(1), newBlocks()
	// {1: 2, 99: 0}: a feature, and a field that came with it.
	block, err := new(encoder).sealNode(s, seal.KindRoot, nil, []byte{0xa2, 0x01, 0x02, 0x18, 99, 0x00})
	if err != nil {
		t.Fatal(err)
	}
	c := store.Sum(store.DagCBOR, block)
	sink.m[c] = block
	if _, err := NewReader(sink, s).Root(t.Context(), c); !errors.Is(err, wire.ErrFeature) || errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want ErrFeature alone", err)
	}
}

func TestReader_WindowsUsesCachedIndexNodes(t *testing.T) {
	f := file("f", nil)
	f.file = &memFile{size: 1 << 40}
	for i := range uint64(3000) {
		f.file.parts = append(f.file.parts, part{i * 3 << 20, noise(i, 4096)})
	}
	sink := newBlocks()
	_, root, _ := mustBuild(t, dir("", f), sink, testKey(1), Options{})
	l := &liar{Getter: sink}
	r := NewReader(l, testKey(1))
	var content *wire.Content
	for e, err := range r.Dir(t.Context(), root.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		content = e.Content
	}
	if content.Depth != 3 {
		t.Fatalf("depth %d, want 3", content.Depth)
	}
	l.gets.Store(0)
	for round := range 3 {
		for i := range uint64(600) {
			n := 0
			for w, err := range r.Windows(t.Context(), content, i*12, i*12+24) {
				if err != nil || w.Index != i*12+uint64(n)*12 {
					t.Fatalf("window %d, %v", w.Index, err)
				}
				n++
			}
			if n != 2 {
				t.Fatalf("%d windows from %d on, want 2", n, i*12)
			}
		}
		if got := l.gets.Load(); got > 11 {
			t.Fatalf("%d fetches after round %d", got, round)
		}
	}
	for range r.Windows(t.Context(), content, 5, 5) {
		t.Error("a window in an empty range")
	}
	for range r.Windows(t.Context(), content, 1<<23, 1<<40) {
		t.Error("a window behind the end")
	}
}

func TestReader_DirStopsWhenItsReaderDoes(t *testing.T) {
	tree, sink := bigDir(3000), newBlocks()
	_, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	l := &liar{Getter: sink}
	r := NewReader(l, testKey(1))
	var big wire.DirRef
	for e := range r.Dir(t.Context(), root.Dir) {
		big = *e.Dir
	}
	l.gets.Store(0)
	for _, err := range r.Dir(t.Context(), big) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if n := l.gets.Load(); n > pagesAhead+3 {
		t.Errorf("%d fetches for the first entry", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for _, err := range r.Dir(ctx, big) {
		if n++; n == 100 {
			cancel()
		}
		last = err
	}
	// What was fetched before may still come; then the context's error.
	if last != nil && !errors.Is(last, context.Canceled) || last == nil && n != 3000 {
		t.Errorf("%d entries, then %v", n, last)
	}
}

func TestTrace_ComesBack(t *testing.T) {
	tree, sink := everyKind(), newBlocks()
	mustBuild(t, tree, sink, testKey(1), Options{})
	var used wire.Trace
	for c := range sink.m {
		used.Blocks = append(used.Blocks, c)
	}
	var trace cid.Cid
	c, _, _ := mustBuild(t, tree, sink, testKey(1), Options{Trace: func(_ context.Context, dir *wire.DirRef, put PutTrace) (_ cid.Cid, err error) {
		if dir.Files == 0 || sink.m[dir.Node] == nil {
			t.Errorf("asked for before the tree was put: %v", dir)
		}
		trace, err = put(&used)
		return trace, err
	}})
	r := NewReader(sink, testKey(1))
	root, err := r.Root(t.Context(), c)
	if err != nil || root.Trace != trace {
		t.Fatalf("trace %s, %v", root.Trace, err)
	}
	got, err := r.Trace(t.Context(), root.Trace)
	if err != nil || fmt.Sprint(got.Blocks) != fmt.Sprint(used.Blocks) {
		t.Errorf("%d blocks, %v", len(got.Blocks), err)
	}
}
