package snapshot

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// history is one large directory d in a root that changes step by step. What changed in the last step is built anew, all else
// stands in the snapshot before.
type history struct {
	t      *testing.T
	rnd    *rand.Rand
	sink   *blocks
	reader *Reader
	names  map[string]int // to a seed
	fresh  map[string]bool
	heavy  int // one in so many names has large attributes
}

func (h *history) entry(name string) *memNode {
	seed := h.names[name]
	switch {
	case seed%11 == 0:
		n := file(name, noise(uint64(seed), seed%9000))
		n.UID = uint32(seed)
		return n
	case h.heavy > 0 && seed%h.heavy == 0: // heavy: pages end by their weight
		n := other(name, wire.ModeFIFO|0o600)
		n.Xattrs = []wire.Xattr{{Name: "user.heavy", Value: make([]byte, 1000+seed%60_000)}}
		return n
	case seed%7 == 0:
		return dir(name, file("inside", noise(uint64(seed), seed%3000)))
	}
	n := other(name, wire.ModeFIFO|0o600)
	n.UID = uint32(seed)
	return n
}

func (h *history) change() {
	clear(h.fresh)
	all := slices.Sorted(maps.Keys(h.names))
	set := func(name string) { h.names[name] = h.rnd.IntN(1 << 20); h.fresh[name] = true }
	drop := func(name string) { delete(h.names, name); h.fresh[name] = true }
	for range 1 + h.rnd.IntN(4) {
		switch h.rnd.IntN(6) {
		case 0: // a run goes
			if len(all) > 0 {
				a := h.rnd.IntN(len(all))
				for _, n := range all[a:min(len(all), a+1+h.rnd.IntN(len(all)))] {
					drop(n)
				}
			}
		case 1: // a run comes
			at := h.rnd.IntN(100_000)
			for i := range h.rnd.IntN(3000) {
				set(fmt.Sprintf("%06d-%d", at, i))
			}
		case 2: // nothing is left behind, or before, a name
			if len(all) > 0 && h.rnd.IntN(3) == 0 {
				a := h.rnd.IntN(len(all))
				gone := all[a:]
				if h.rnd.IntN(2) == 0 {
					gone = all[:a]
				}
				for _, n := range gone {
					drop(n)
				}
			}
		default:
			for range h.rnd.IntN(30) {
				if len(all) > 0 && h.rnd.IntN(2) == 0 {
					name := all[h.rnd.IntN(len(all))]
					if h.rnd.IntN(2) == 0 {
						drop(name)
					} else {
						set(name)
					}
				} else {
					set(fmt.Sprintf("%06d", h.rnd.IntN(100_000)))
				}
			}
		}
	}
	if h.rnd.IntN(3) == 0 { // a name that is said to have changed and has not
		h.fresh[fmt.Sprintf("%06d", h.rnd.IntN(100_000))] = true
	}
}

func (h *history) root(d Node) Node {
	root := dir("").node()
	root.Children = func(context.Context) iter.Seq2[Node, error] {
		return func(yield func(Node, error) bool) { yield(d, nil) }
	}
	return root
}

// build makes the snapshot by a listing or by a patch of old.
func (h *history) build(old *wire.DirRef, patch bool, getter *counting) (cid.Cid, wire.DirRef) {
	h.t.Helper()
	n := dir("d").node()
	if patch {
		n.Children = nil
		n.Patch = &Patch{Reader: NewReader(getter, testKey(1)), Old: *old, Names: slices.Sorted(maps.Keys(h.fresh)),
			Node: func(_ context.Context, name string, was *wire.Entry) (Node, bool, error) {
				if _, ok := h.names[name]; !ok {
					return Node{}, false, nil
				}
				return h.entry(name).node(), true, nil
			}}
	} else {
		n.Children = func(ctx context.Context) iter.Seq2[Node, error] {
			return func(yield func(Node, error) bool) {
				before := map[string]wire.Entry{}
				if old != nil {
					for e, err := range h.reader.Dir(ctx, *old) {
						if err != nil {
							yield(Node{}, err)
							return
						}
						before[e.Name] = e
					}
				}
				for _, name := range slices.Sorted(maps.Keys(h.names)) {
					c := Node{Entry: before[name]}
					if h.fresh[name] || old == nil {
						c = h.entry(name).node()
					}
					if !yield(c, nil) {
						return
					}
				}
			}
		}
	}
	c, _, _, err := Build(h.t.Context(), h.root(n), h.sink, testKey(1), Options{Compression: Fastest})
	if err != nil {
		h.t.Fatal(err)
	}
	top, err := h.reader.Root(h.t.Context(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	d, err := NewFinder(h.reader).Find(h.t.Context(), top.Dir, "d")
	if err != nil || d == nil {
		h.t.Fatal(d, err)
	}
	return c, *d.Dir
}

// counting counts what is got.
type counting struct {
	Getter
	n int
}

func (c *counting) Get(ctx context.Context, id cid.Cid) ([]byte, error) {
	c.n++
	return c.Getter.Get(ctx, id)
}

func TestPatch_GivesTheRootThatAListingGives(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), sink: newBlocks(), names: map[string]int{}, fresh: map[string]bool{}}
			h.reader = NewReader(h.sink, testKey(1))
			h.heavy = []int{101, 4}[seed%2]
			for range []int{0, 10, 300, 8_000, 0, 300, 20, 1000}[seed] {
				h.names[fmt.Sprintf("%06d", h.rnd.IntN(100_000))] = h.rnd.IntN(1 << 20)
			}
			_, old := h.build(nil, false, nil)
			for step := range 10 {
				if len(h.names) > 5000 && step == 4 {
					break // each step builds all names twice
				}
				h.change()
				want, ref := h.build(&old, false, nil)
				got, _ := h.build(&old, true, &counting{Getter: h.sink})
				if got != want {
					t.Fatalf("step %d: %d changed names of %d: another root", step, len(h.fresh), len(h.names))
				}
				old = ref
			}
		})
	}
}

func TestPatch_ReadsOnlyWhereNamesChanged(t *testing.T) {
	h := &history{t: t, rnd: rand.New(rand.NewPCG(1, 1)), sink: newBlocks(), names: map[string]int{}, fresh: map[string]bool{}}
	h.reader = NewReader(h.sink, testKey(1))
	for i := range 60_000 {
		h.names[fmt.Sprintf("%06d", i)] = 1
	}
	_, old := h.build(nil, false, nil)
	h.names["030000"] = 2
	h.fresh["030000"] = true
	get := &counting{Getter: h.sink}
	h.build(&old, true, get)
	// The index nodes on the path; the page, with a neighbour where it is the first name of the page.
	if get.n > int(old.Depth)+4 {
		t.Errorf("%d nodes were read for one changed name", get.n)
	}
}

func TestFinder_FindsEveryNameAndNoOther(t *testing.T) {
	h := &history{t: t, rnd: rand.New(rand.NewPCG(3, 1)), sink: newBlocks(), names: map[string]int{}, fresh: map[string]bool{}}
	h.reader = NewReader(h.sink, testKey(1))
	for i := range 5000 {
		h.names[fmt.Sprintf("%06d", i*2)] = i
	}
	_, ref := h.build(nil, false, nil)
	f := NewFinder(h.reader)
	for i := range 10_001 {
		name := fmt.Sprintf("%06d", i)
		e, err := f.Find(t.Context(), ref, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, want := h.names[name]; (e != nil) != want || (e != nil && e.Name != name) {
			t.Fatalf("%s: %v", name, e)
		}
	}
	if e, err := f.Find(t.Context(), ref, ""); e != nil || err != nil {
		t.Error(e, err)
	}
}

func TestPatch_TakesNoNodeWholeThatWouldNotStandThere(t *testing.T) {
	h := &history{t: t, rnd: rand.New(rand.NewPCG(1, 1)), sink: newBlocks(), names: map[string]int{}, fresh: map[string]bool{}}
	h.reader = NewReader(h.sink, testKey(1))
	for i := range 100_000 {
		h.names[fmt.Sprintf("%06d", i)] = 1
	}
	_, old := h.build(nil, false, nil)
	top := wire.DirChild{Node: old.Node, Files: old.Files, Dirs: old.Dirs, Bytes: old.Bytes}
	indexes, err := h.reader.dirIndex(t.Context(), top, old.Depth)
	if err != nil || len(indexes) < 2 || old.Depth != 2 {
		t.Fatalf("%d index nodes, depth %d, %v", len(indexes), old.Depth, err)
	}
	pages, err := h.reader.dirIndex(t.Context(), indexes[1], 1)
	if err != nil {
		t.Fatal(err)
	}
	// An index node with one page only: the last one, closed by the end of the directory. Then all before it goes.
	for name := range h.names {
		if name >= pages[1].First {
			delete(h.names, name)
		}
	}
	_, old = h.build(nil, false, nil)
	for name := range h.names {
		if name < indexes[1].First {
			delete(h.names, name)
			h.fresh[name] = true
		}
	}
	want, ref := h.build(&old, false, nil)
	if got, _ := h.build(&old, true, &counting{Getter: h.sink}); got != want || ref.Depth != 0 {
		t.Errorf("another root than by a listing, whose depth is %d", ref.Depth)
	}
}
