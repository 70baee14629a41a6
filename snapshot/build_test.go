package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"
)

func TestBuild_EveryKindOfEntryComesBack(t *testing.T) {
	tree := everyKind()
	for _, level := range []Compression{None, Fastest, Default, Better} {
		t.Run(string(level), func(t *testing.T) {
			sink := newBlocks()
			c, root, stats := mustBuild(t, tree, sink, testKey(1), Options{Compression: level})
			mustEqual(t, tree, sink, testKey(1), c)
			if root.Dir.Files != stats.Files || root.Dir.Dirs != stats.Dirs || stats.Dirs != 4 || stats.Files != 13 {
				t.Errorf("root %+v, stats %+v", root.Dir, stats)
			}
			if stats.FilesKept != 0 || stats.Blocks != uint64(sink.puts) || len(sink.m) != sink.puts {
				t.Errorf("stats %+v, %d puts of %d blocks", stats, sink.puts, len(sink.m))
			}
		})
	}
}

func TestBuild_EveryChunkSizeComesBack(t *testing.T) {
	tree := everyKind()
	for size := uint32(wire.MinChunk); size <= wire.MaxChunk; size *= 2 {
		sink := newBlocks()
		c, root, _ := mustBuild(t, tree, sink, testKey(1), Options{ChunkSize: size})
		if root.ChunkSize != size {
			t.Errorf("chunk size %d, want %d", root.ChunkSize, size)
		}
		mustEqual(t, tree, sink, testKey(1), c)
	}
}

func TestBuild_EmptyRootComesBack(t *testing.T) {
	sink := newBlocks()
	c, root, _ := mustBuild(t, dir(""), sink, testKey(1), Options{})
	mustEqual(t, dir(""), sink, testKey(1), c)
	if root.Dir.Depth != 0 || len(sink.m) != 2 {
		t.Errorf("depth %d, %d blocks", root.Dir.Depth, len(sink.m))
	}
}

// bigDir has n files in one directory, of a few hundred bytes each.
func bigDir(n int) *memNode {
	d := dir("big")
	for i := range n {
		d.children = append(d.children, file(fmt.Sprintf("file-%06d", i), noise(uint64(i), 100+i%300)))
	}
	return dir("", d)
}

func TestBuild_BigDirectoryIsPaged(t *testing.T) {
	tree := bigDir(20000)
	sink := newBlocks()
	c, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	mustEqual(t, tree, sink, testKey(1), c)
	r := NewReader(sink, testKey(1))
	for e, err := range r.Dir(t.Context(), root.Dir) {
		if err != nil || e.Dir.Depth < 1 {
			t.Errorf("depth %d, %v", e.Dir.Depth, err)
		}
	}
}

// kinds counts the blocks that sink has and old has not.
func newKinds(sink, old *blocks) (nodes, data int) {
	for c := range sink.m {
		if _, ok := old.m[c]; ok {
			continue
		}
		if c.Prefix().Codec == cid.Raw {
			data++
		} else {
			nodes++
		}
	}
	return nodes, data
}

func TestBuild_OneChangeRewritesOnePageALevel(t *testing.T) {
	first := newBlocks()
	mustBuild(t, bigDir(20000), first, testKey(1), Options{})
	changes := map[string]func(big *memNode){
		"attribute": func(big *memNode) { big.children[7777].Mode = wire.ModeReg | 0o600 },
		"content":   func(big *memNode) { big.children[5000].file = dense(noise(1<<20, 5000)) },
		"added":     func(big *memNode) { big.children = append(big.children, file("file-010000-new", []byte("new"))) },
		"removed":   func(big *memNode) { big.children = append(big.children[:12000], big.children[12001:]...) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			tree, sink := bigDir(20000), newBlocks()
			change(tree.children[0])
			c, _, _ := mustBuild(t, tree, sink, testKey(1), Options{})
			mustEqual(t, tree, sink, testKey(1), c)
			nodes, data := newKinds(sink, first)
			t.Logf("%d new nodes, %d new data blocks of %d", nodes, data, len(sink.m))
			// Page, index, top page, root; where content changed, also the
			// pages whose pieces are in packs that were cut anew.
			if limit := map[string]int{"attribute": 5}[name]; limit > 0 && nodes > limit || nodes > 16 || data > 6 {
				t.Errorf("%d new nodes and %d new data blocks", nodes, data)
			}
		})
	}
}

// keepReferences makes every file of tree known from the snapshot at ref.
func keepReferences(t *testing.T, r *Reader, ref wire.DirRef, tree *memNode, known bool) {
	t.Helper()
	byName := make(map[string]*memNode)
	for _, c := range tree.children {
		byName[c.Name] = c
	}
	for e, err := range r.Dir(t.Context(), ref) {
		if err != nil {
			t.Fatal(err)
		}
		n := byName[e.Name]
		if e.Dir != nil {
			keepReferences(t, r, *e.Dir, n, known)
		}
		if e.Content == nil {
			continue
		}
		content := e.Content
		at := func(index uint64) (out wire.Window, ok bool) {
			for w, err := range r.Windows(t.Context(), content, index, index+1) {
				if err != nil {
					t.Error(err)
				}
				out, ok = w, true
			}
			return out, ok
		}
		n.file.known, n.file.previous = nil, at
		if known {
			n.file.known, n.file.previous = at, nil
		}
	}
}

func TestBuild_KnownWindowsAreNotRead(t *testing.T) {
	tree, first := everyKind(), newBlocks()
	c, root, stats := mustBuild(t, tree, first, testKey(1), Options{})
	keepReferences(t, NewReader(first, testKey(1)), root.Dir, tree, true)
	again, _, stats2 := mustBuild(t, tree, first, testKey(1), Options{})
	if again != c {
		t.Errorf("root %s, was %s", again, c)
	}
	if stats2.BytesRead != 0 || stats.BytesRead == 0 {
		t.Errorf("%d bytes read, %d at first", stats2.BytesRead, stats.BytesRead)
	}
	if want := stats.Files - 3; stats2.FilesKept != want { // two without data, one second name
		t.Errorf("%d files kept, want %d", stats2.FilesKept, want)
	}
}

func TestBuild_KnownWindowThatDoesNotFitIsRead(t *testing.T) {
	f := file("f", noise(1, 100<<10))
	tree, sink := dir("", f), newBlocks()
	_, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	keepReferences(t, NewReader(sink, testKey(1)), root.Dir, tree, true)
	known := f.file.known
	f.file.known = func(index uint64) (wire.Window, bool) {
		w, ok := known(index)
		w.Data = []wire.Range{{Off: 0, Len: 5000}}
		return w, ok
	}
	c, _, stats := mustBuild(t, tree, sink, testKey(1), Options{})
	if stats.BytesRead != 100<<10 {
		t.Errorf("%d bytes read", stats.BytesRead)
	}
	mustEqual(t, tree, sink, testKey(1), c)
}

func TestBuild_EqualChunkIsNotPutAgain(t *testing.T) {
	tree, first := dir("", file("a", noise(1, 2<<20)), file("b", noise(2, 300<<10))), newBlocks()
	c, root, stats := mustBuild(t, tree, first, testKey(1), Options{})
	keepReferences(t, NewReader(first, testKey(1)), root.Dir, tree, false)
	counted := &countSink{}
	again, _, stats2 := mustBuild(t, tree, counted, testKey(1), Options{})
	if again != c || stats2.BytesRead != stats.BytesRead {
		t.Errorf("root %s, was %s; %d bytes read", again, c, stats2.BytesRead)
	}
	// The tail of b is a piece of a pack, which is not compared.
	if counted.raw.Load() != 1 || counted.nodes.Load() != 3 {
		t.Errorf("%d data blocks and %d nodes put", counted.raw.Load(), counted.nodes.Load())
	}
}

func TestBuild_HaveSkipsStoredBlocks(t *testing.T) {
	tree, first := everyKind(), newBlocks()
	c, _, _ := mustBuild(t, tree, first, testKey(1), Options{})
	second := newBlocks()
	again, _, stats := mustBuild(t, tree, second, testKey(1), Options{Have: func(c cid.Cid) bool {
		_, ok := first.m[c] // no longer written to
		return ok
	}})
	if again != c || stats.Blocks != 0 || second.puts != 0 {
		t.Errorf("root %s, want %s; %d blocks put", again, c, second.puts)
	}
}

func TestBuild_ReferencesAreTakenAsTheyAre(t *testing.T) {
	tree, sink := everyKind(), newBlocks()
	c, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	taken := dir("")
	r := NewReader(sink, testKey(1))
	for e, err := range r.Dir(t.Context(), root.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		taken.children = append(taken.children, &memNode{Entry: e})
	}
	again, _, stats := mustBuild(t, taken, sink, testKey(1), Options{})
	if again != c || stats.FilesKept != root.Dir.Files || stats.BytesRead != 0 {
		t.Errorf("root %s, want %s; stats %+v", again, c, stats)
	}
	whole := dir("")
	whole.Dir = &root.Dir
	if again, _, _ := mustBuild(t, whole, sink, testKey(1), Options{}); again != c {
		t.Errorf("root %s, want %s", again, c)
	}
}

func TestBuild_WorkersDoNotChangeTheResult(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := dir("")
		grow(t, tree, 0)
		var roots []cid.Cid
		for _, workers := range []int{1, 4} {
			sink := newBlocks()
			c, _, _, err := Build(context.Background(), tree.node(), sink, testKey(1), Options{Workers: workers, ChunkSize: wire.MinChunk, Compression: Fastest})
			if err != nil {
				t.Fatal(err)
			}
			roots = append(roots, c)
			got, err := readTree(context.Background(), NewReader(sink, testKey(1)), c)
			if err != nil {
				t.Fatal(err)
			}
			if want := tree.manifest(""); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("got\n%q\nwant\n%q", got, want)
			}
		}
		if roots[0] != roots[1] {
			t.Fatalf("1 worker made %s, 4 made %s", roots[0], roots[1])
		}
	})
}

// grow draws the children of a directory.
func grow(t *rapid.T, d *memNode, depth int) {
	names := rapid.MapOfN(rapid.StringMatching(`[a-z\n\xc3\xa9]{1,6}`), rapid.IntRange(0, 9), 0, 60).Draw(t, "names")
	for name, kind := range names {
		switch {
		case kind == 0 && depth < 3:
			sub := dir(name)
			grow(t, sub, depth+1)
			d.children = append(d.children, sub)
		case kind == 1:
			f := file(name, nil)
			f.file = &memFile{size: rapid.Uint64Range(0, 1<<42).Draw(t, "size")}
			end := uint64(0)
			for range rapid.IntRange(0, 12).Draw(t, "parts") {
				off := end + wire.Sector*rapid.Uint64Range(1, 1<<rapid.IntRange(1, 25).Draw(t, "scale")).Draw(t, "gap")
				n := wire.Sector * rapid.Uint64Range(1, 40).Draw(t, "sectors")
				if off >= f.file.size {
					break
				}
				n = min(n, f.file.size-off)
				f.file.parts = append(f.file.parts, part{off, noise(off, int(n))})
				end = off + n
			}
			d.children = append(d.children, f)
		default:
			n := rapid.IntRange(0, 300).Draw(t, "bytes") * kind * kind
			d.children = append(d.children, file(name, noise(uint64(n), n)))
		}
	}
}

// countSink counts and forgets.
type countSink struct {
	raw, nodes, bytes atomic.Int64
	each              func()
}

func (s *countSink) Put(ctx context.Context, b store.Block) error {
	if b.CID.Prefix().Codec == cid.Raw {
		s.raw.Add(1)
	} else {
		s.nodes.Add(1)
	}
	s.bytes.Add(int64(len(b.Data)))
	if s.each != nil {
		s.each()
	}
	return nil
}

func TestBuild_FailureClosesFilesAndEndsGoroutines(t *testing.T) {
	broken := errors.New("broken")
	var open atomic.Int64
	tree := dir("")
	for i := range 2000 {
		f := file(fmt.Sprintf("%04d", i), noise(uint64(i), 70<<10*(i%3)+1000))
		f.file.open = &open
		if i == 1500 {
			f.file.readErr = broken
		}
		tree.children = append(tree.children, f)
	}
	for _, workers := range []int{1, 3} {
		_, _, _, err := Build(t.Context(), tree.node(), &countSink{}, testKey(1), Options{Workers: workers})
		if !errors.Is(err, broken) {
			t.Errorf("error %v, want that of the file", err)
		}
		if n := open.Load(); n != 0 {
			t.Errorf("%d files are still open", n)
		}
	}
}

func TestBuild_CancelClosesFiles(t *testing.T) {
	var open atomic.Int64
	tree := dir("")
	for i := range 1000 {
		f := file(fmt.Sprintf("%04d", i), noise(uint64(i), 100<<10))
		f.file.open = &open
		tree.children = append(tree.children, f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sink := &countSink{}
	sink.each = func() {
		if sink.raw.Load() == 100 {
			cancel()
		}
	}
	_, _, _, err := Build(ctx, tree.node(), sink, testKey(1), Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := open.Load(); n != 0 {
		t.Errorf("%d files are still open", n)
	}
}

func TestBuild_RefusesBadTrees(t *testing.T) {
	list := func(names ...string) Node {
		n := dir("").node()
		n.Children = func(context.Context) iter.Seq2[Node, error] {
			return func(yield func(Node, error) bool) {
				for _, name := range names {
					if !yield(file(name, nil).node(), nil) {
						return
					}
				}
			}
		}
		return n
	}
	heavy := file("heavy", nil)
	for i := range 9 {
		heavy.Xattrs = append(heavy.Xattrs, wire.Xattr{Name: fmt.Sprintf("user.%d", i), Value: make([]byte, 64<<10)})
	}
	odd := file("odd", nil)
	odd.file = &memFile{size: 1 << 20, parts: []part{{100, make([]byte, 100)}}}
	hidden := file("hidden", nil)
	hidden.Xattrs = []wire.Xattr{{Name: "trusted.fractal.file", Value: []byte{1}}}
	for name, root := range map[string]Node{
		"order":       list("b", "a"),
		"twice":       list("a", "a"),
		"slash":       list("a/b"),
		"dot":         list("."),
		"root a file": file("", nil).node(),
		"too heavy":   dir("", heavy).node(),
		"odd range":   dir("", odd).node(),
		"own mark":    dir("", hidden).node(),
	} {
		if _, _, _, err := Build(t.Context(), root, &countSink{}, testKey(1), Options{}); !errors.Is(err, wire.ErrFormat) {
			t.Errorf("%s: error %v, want ErrFormat", name, err)
		}
	}
	if _, _, _, err := Build(t.Context(), dir("").node(), &countSink{}, testKey(1), Options{ChunkSize: 100 << 10}); err == nil {
		t.Error("chunk size of 100 KiB was taken")
	}
}

func TestBuild_BigXattrsStayBelowTheBlockSize(t *testing.T) {
	tree := dir("")
	for i := range 60 {
		f := file(fmt.Sprintf("%03d", i), nil)
		for k := range i % 8 {
			f.Xattrs = append(f.Xattrs, wire.Xattr{Name: fmt.Sprintf("user.%d", k), Value: noise(uint64(i*10+k), 60000)})
		}
		tree.children = append(tree.children, f)
	}
	sink := newBlocks() // checks the sizes
	c, _, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	mustEqual(t, tree, sink, testKey(1), c)
}

func TestBuild_SmallFilesSharePacks(t *testing.T) {
	tree := dir("")
	for i := range 3000 {
		tree.children = append(tree.children, file(fmt.Sprintf("%05d", i), noise(uint64(i), 1000)))
	}
	sink := &countSink{}
	mustBuild(t, tree, sink, testKey(1), Options{})
	if n := sink.raw.Load(); n > 3000*1000/packFrom+1 {
		t.Errorf("%d packs for 3 MB", n)
	}
}

func TestBuild_NamesOfOneInodeAreReadOnce(t *testing.T) {
	a := file("a", bytes.Repeat([]byte("0123456789abcdef"), 100))
	a.Link, a.Nlink = 5, 3
	tree := dir("", a)
	for _, name := range []string{"b", "c"} {
		n := *a
		n.Name = name
		tree.children = append(tree.children, &n)
	}
	sink := newBlocks()
	c, root, _ := mustBuild(t, tree, sink, testKey(1), Options{})
	if n := a.file.reads.Load(); n != 1 {
		t.Errorf("read %d times", n)
	}
	if root.Dir.Files != 3 {
		t.Errorf("%d names", root.Dir.Files)
	}
	mustEqual(t, tree, sink, testKey(1), c)
}
