package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// sectorsIn is a random set of sectors of a window of span bytes, as ranges.
func sectorsIn(r *rand.Rand, span uint64, one int) (out []wire.Range) {
	for off := uint64(0); off < span; off += wire.Sector {
		if r.IntN(one) > 0 {
			continue
		}
		out = wire.Union(out, []wire.Range{{Off: off, Len: min(wire.Sector, span-off)}})
	}
	return out
}

// windowModel is a window as a program sees it.
type windowModel struct {
	bytes []byte
	data  []wire.Range
}

func (m *windowModel) gather(list []wire.Range) (out []byte) {
	for _, r := range list {
		out = append(out, m.bytes[r.Off:r.Off+r.Len]...)
	}
	return out
}

// TestPatchOf_ComposesToWhatIsThere changes one window again and again, by what the writer decides, and composes it from its two blocks.
func TestPatchOf_ComposesToWhatIsThere(t *testing.T) {
	const chunk = wire.DefChunk
	counts := map[string]int{}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 4))
		c := &wire.Content{ChunkSize: chunk, Size: chunk}
		if r.IntN(2) == 0 {
			c.Size = 70_000 + r.Uint64N(chunk-70_000)
		}
		now := &windowModel{bytes: noise(seed, chunk), data: []wire.Range{{Len: c.Size}}}
		if r.IntN(3) == 0 {
			now.data = wire.Subtract(now.data, sectorsIn(r, c.Size, 8))
		}
		block := func(name string) cid.Cid { return testBlock(fmt.Sprint(seed, name)) }
		var w wire.Window
		var base, patch []byte
		whole := func(step int) {
			w = wire.Window{Block: block(fmt.Sprint("base", step)), Data: now.data}
			if len(now.data) == 1 && now.data[0].Len == c.Size {
				w.Data = nil
			}
			base, patch = now.gather(now.data), nil
			counts["whole"]++
		}
		whole(0)
		for step := 1; step < 12; step++ {
			before := &Before{Window: w, Span: c.Size}
			if r.IntN(3) == 0 && c.Size < chunk { // grows
				size := c.Size + r.Uint64N(min(chunk-c.Size, 20_000)) + 1
				changed := wire.Range{Off: c.Size, Len: size - c.Size}
				copy(now.bytes[changed.Off:], noise(seed+1000, int(changed.Len)))
				now.data = wire.Union(now.data, []wire.Range{{Off: c.Size &^ (wire.Sector - 1), Len: size - c.Size&^(wire.Sector-1)}})
				before.Changed = wire.Union(before.Changed, []wire.Range{changed})
				c.Size = size
			} else if r.IntN(12) == 0 { // shrinks
				c.Size -= r.Uint64N(10_000)
				now.data = wire.Intersect(now.data, []wire.Range{{Len: c.Size}})
			}
			for range r.IntN(4) { // bytes within sectors
				off := r.Uint64N(c.Size)
				x := wire.Range{Off: off, Len: min(1+r.Uint64N(6000), c.Size-off)}
				copy(now.bytes[x.Off:x.Off+x.Len], noise(uint64(step)<<20+seed, int(x.Len)))
				// What of it was a hole is data now, with zeros around.
				for _, s := range wire.Subtract(sectorsOf(x, c.Size), now.data) {
					for i := s.Off; i < s.Off+s.Len; i++ {
						if i < x.Off || i >= x.Off+x.Len {
							now.bytes[i] = 0
						}
					}
				}
				now.data = wire.Union(now.data, sectorsOf(x, c.Size))
				before.Changed = wire.Union(before.Changed, []wire.Range{x})
			}
			if r.IntN(15) == 0 { // a hole comes
				if left := wire.Subtract(now.data, sectorsIn(r, c.Size, 30)); len(left) > 0 {
					now.data = left
				}
			}
			p := patchOf(before, now.data, c.Size)
			if p == nil {
				whole(step)
			} else {
				counts["patch"]++
				next := wire.Window{Block: w.Block, Data: now.data, Patch: p}
				if len(now.data) == 1 && now.data[0].Len == c.Size {
					next.Data = nil
				}
				all := now.gather(now.data)
				p.Block, p.Off, p.Sum = block(fmt.Sprint("patch", step)), 100, Sum(all)
				patch = append(make([]byte, 100), now.gather(p.Data)...)
				taken := make([]byte, p.Bytes())
				take(taken, p.Data, all, now.data)
				if !bytes.Equal(taken, patch[100:]) {
					t.Fatalf("seed %d, step %d: the patch's bytes are others", seed, step)
				}
				if p.Bytes() > min(uint64(len(all))/4, wire.MaxPatch) {
					t.Fatalf("seed %d, step %d: a patch of %d bytes of %d", seed, step, p.Bytes(), len(all))
				}
				w = next
			}
			if err := w.Check(c.Size, chunk); err != nil {
				t.Fatalf("seed %d, step %d: %v: %+v", seed, step, err, w)
			}
			got, err := Piece(base, patch, c, w)
			if err != nil || !bytes.Equal(got, now.gather(now.data)) {
				t.Fatalf("seed %d, step %d: %v: %+v", seed, step, err, w)
			}
		}
	}
	if counts["patch"] < 150 || counts["whole"] < 150 {
		t.Errorf("%v: this does not say much", counts)
	}
}

func testBlock(name string) cid.Cid { return store.Sum(store.Raw, []byte(name)) }

func TestPiece_RefusesWhatDoesNotMatchItsSum(t *testing.T) {
	c := &wire.Content{Size: wire.DefChunk, ChunkSize: wire.DefChunk}
	base, patch := noise(1, wire.DefChunk), noise(2, 10_000)
	w := wire.Window{Patch: &wire.Patch{Off: 5, Data: []wire.Range{{Off: 8192, Len: 4096}}}}
	want := bytes.Clone(base)
	copy(want[8192:], patch[5:5+4096])
	w.Patch.Sum = Sum(want)
	if got, err := Piece(base, patch, c, w); err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
	for name, change := range map[string]func(base, patch *[]byte, w *wire.Window){
		"another base":  func(base, _ *[]byte, _ *wire.Window) { (*base)[0] ^= 1 },
		"another patch": func(_, patch *[]byte, _ *wire.Window) { (*patch)[5] ^= 1 },
		"short base":    func(base, _ *[]byte, _ *wire.Window) { *base = (*base)[:len(*base)-1] },
		"short patch":   func(_, patch *[]byte, _ *wire.Window) { *patch = (*patch)[:4100] },
		"no patch":      func(_, patch *[]byte, _ *wire.Window) { *patch = nil },
		"offset":        func(_, _ *[]byte, w *wire.Window) { w.Patch.Off++ },
		"far offset":    func(_, _ *[]byte, w *wire.Window) { w.Patch.Off = 1<<32 - 1 },
		"place":         func(_, _ *[]byte, w *wire.Window) { w.Patch.Data = []wire.Range{{Off: 4096, Len: 4096}} },
		"sum":           func(_, _ *[]byte, w *wire.Window) { w.Patch.Sum[0] ^= 1 },
	} {
		b, p, bad := bytes.Clone(base), bytes.Clone(patch), w
		own := *w.Patch
		bad.Patch = &own
		change(&b, &p, &bad)
		if got, err := Piece(b, p, c, bad); !errors.Is(err, ErrDamaged) || got != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What the patch covers in the base does not matter.
	b := bytes.Clone(base)
	b[8192] ^= 1
	if got, err := Piece(b, patch, c, w); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
}

// patchedTree builds a tree with a large file and one whose windows stand in its entry, and then once more with some bytes changed.
func patchedTree(t *testing.T, sink *blocks, s *seal.Sealer, opt Options) (tree *memNode, was, now cid.Cid, stats Stats) {
	t.Helper()
	large, inline := file("large", pattern(1, 1500<<10)), file("inline", pattern(2, 300<<10+5))
	tree = dir("", large, inline, file("small", pattern(3, 9000)))
	was, _, _ = mustBuild(t, tree, sink, s, opt)
	r := NewReader(sink, s)
	top, err := r.Root(t.Context(), was)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*memNode{large, inline} {
		old, err := NewFinder(r).Find(t.Context(), top.Dir, n.Name)
		if err != nil {
			t.Fatal(err)
		}
		windows := map[uint64]wire.Window{}
		for w, err := range r.Windows(t.Context(), old.Content, 0, 1<<62) {
			if err != nil {
				t.Fatal(err)
			}
			windows[w.Index] = w
		}
		data := bytes.Clone(n.file.parts[0].data)
		changed := []wire.Range{{Off: 10_000, Len: 100}, {Off: 280_000, Len: 5000}}
		for _, x := range changed {
			copy(data[x.Off:x.Off+x.Len], pattern(9, int(x.Len)))
		}
		n.file = dense(data)
		n.file.known = func(i uint64) (wire.Window, bool) {
			w, ok := windows[i]
			return w, ok && i > 1
		}
		n.file.before = func(i uint64) *Before {
			w, ok := windows[i]
			if !ok {
				return nil
			}
			b := &Before{Window: w, Span: old.Content.Span(i)}
			for _, x := range wire.Intersect(changed, []wire.Range{{Off: i * wire.DefChunk, Len: wire.DefChunk}}) {
				b.Changed = append(b.Changed, wire.Range{Off: x.Off - i*wire.DefChunk, Len: x.Len})
			}
			return b
		}
	}
	now, _, stats = mustBuild(t, tree, sink, s, opt)
	return tree, was, now, stats
}

func TestBuild_PatchesBlocksAndNotPacks(t *testing.T) {
	s, sink := testKey(1), newBlocks()
	tree, _, now, _ := patchedTree(t, sink, s, Options{Compression: None})
	mustEqual(t, tree, sink, s, now)
	r := NewReader(sink, s)
	top, err := r.Root(t.Context(), now)
	if err != nil || top.Features != wire.FeaturePatches {
		t.Errorf("features %#x, %v", top.Features, err)
	}
	var patched []string
	for e, err := range r.Dir(t.Context(), top.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		for w, err := range r.Windows(t.Context(), e.Content, 0, 1<<62) {
			if err != nil {
				t.Fatal(err)
			}
			if w.Patch != nil {
				patched = append(patched, fmt.Sprint(e.Name, w.Index))
			}
		}
	}
	// The second window of inline is a piece of a pack.
	if want := []string{"inline0", "large0", "large1"}; !slices.Equal(patched, want) {
		t.Errorf("patched are %v, want %v", patched, want)
	}
	rep, err := Verify(t.Context(), sink, s, now, VerifyOptions{})
	if err != nil || !rep.OK() || rep.Content != top.Dir.Bytes {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestBuild_NoPatchesIsWhatAVersionBeforeThemMakes(t *testing.T) {
	s, sink := testKey(1), newBlocks()
	tree, _, off, _ := patchedTree(t, sink, s, Options{Compression: None, NoPatches: true})
	mustEqual(t, tree, sink, s, off)
	for _, n := range tree.children {
		n.file.known, n.file.before = nil, nil
	}
	plain, root, _ := mustBuild(t, tree, newBlocks(), s, Options{Compression: None})
	if plain != off || root.Features != 0 {
		t.Errorf("root is %s, want %s; features %#x", off, plain, root.Features)
	}
}

func TestBuild_FeaturesOfTheBaseStay(t *testing.T) {
	s, sink := testKey(1), newBlocks()
	_, _, now, _ := patchedTree(t, sink, s, Options{Compression: None})
	top, err := NewReader(sink, s).Root(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	kept := dir("")
	kept.Attr = top.Attr
	node := kept.node()
	node.Dir, node.Children = &top.Dir, nil
	for _, c := range []struct {
		opt  Options
		want uint64
	}{{Options{Features: top.Features}, wire.FeaturePatches}, {Options{Unsure: true}, wire.FeaturePatches}, {Options{}, 0}} {
		_, root, _, err := Build(t.Context(), node, sink, s, c.opt)
		if err != nil || root.Features != c.want {
			t.Errorf("%+v: features %#x, %v", c.opt, root.Features, err)
		}
	}
}

func TestVerify_FindsAPatchThatIsGone(t *testing.T) {
	s, sink := testKey(1), newBlocks()
	_, _, now, _ := patchedTree(t, sink, s, Options{Compression: None})
	r := NewReader(sink, s)
	top, err := r.Root(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewFinder(r).Find(t.Context(), top.Dir, "inline")
	if err != nil {
		t.Fatal(err)
	}
	w := e.Content.Windows[0]
	delete(sink.m, w.Patch.Block)
	rep, err := Verify(t.Context(), sink, s, now, VerifyOptions{})
	if err != nil || rep.OK() || !slices.ContainsFunc(rep.Findings, func(f Finding) bool {
		return f.Path == "/inline" && f.Damage == Missing && f.Block == w.Patch.Block
	}) {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestGolden_PatchedSnapshotIsRead is TestGolden_SnapshotsOfEveryReleaseAreRead for a snapshot with patches. The file is of a compressed one, which is small; the list
// has the root of the same tree without compression in its last line.
func TestGolden_PatchedSnapshotIsRead(t *testing.T) {
	s, sink := testKey(1), newBlocks()
	tree, _, made, _ := patchedTree(t, sink, s, Options{})
	_, _, plain, _ := patchedTree(t, newBlocks(), s, Options{Compression: None})
	last := "without compression " + plain.String() + "\n"
	car, list := filepath.Join(goldenDir, "patched.car"), filepath.Join(goldenDir, "patched.txt")
	if _, err := os.Stat(car); *force || (*update && errors.Is(err, os.ErrNotExist)) {
		want := strings.Join(tree.manifest(""), "\n") + "\n" + last
		if err := errors.Join(os.WriteFile(car, writeCAR(made, sink.m), 0o644), os.WriteFile(list, []byte(want), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	root, stored, err := readCAR(car)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readTree(t.Context(), NewReader(stored, s), root)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	held, ok := strings.CutSuffix(string(listed), last)
	if !ok {
		t.Errorf("%s does not end with %q: the form of new snapshots changed", list, last)
	}
	if ok && held != strings.Join(got, "\n")+"\n" {
		t.Errorf("what %s holds differs from %s", car, list)
	}
}
