package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// verifiable is a tree with pages, packs, index nodes and a name for each.
func verifiable() *memNode {
	small := dir("small")
	for i := range 700 { // more than a page
		small.children = append(small.children, file(fmt.Sprintf("f%03d", i), noise(uint64(i), 900)))
	}
	return dir("", small, file("large", noise(5000, 3<<20+5)), dir("kinds", everyKind().children...), file("alone", noise(77, 200<<10)))
}

func mustVerify(t testing.TB, g Getter, root cid.Cid, opt VerifyOptions) *Report {
	t.Helper()
	rep, err := Verify(t.Context(), g, testKey(1), root, opt)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestVerify_ReadsEveryBlockOfAWholeSnapshot(t *testing.T) {
	sink := newBlocks()
	root, top, _ := mustBuild(t, verifiable(), sink, testKey(1), Options{})
	var last atomic.Uint64
	rep := mustVerify(t, sink, root, VerifyOptions{Progress: func(done, total uint64) {
		if done > total || total != top.Dir.Bytes {
			t.Errorf("%d of %d bytes, the root has %d", done, total, top.Dir.Bytes)
		}
		last.Store(max(last.Load(), done))
	}})
	if !rep.OK() || rep.Blocks+rep.Nodes != uint64(len(sink.m)) {
		t.Errorf("%d nodes and %d blocks of %d, findings %v", rep.Nodes, rep.Blocks, len(sink.m), rep.Findings)
	}
	if rep.Files != top.Dir.Files || rep.Dirs != top.Dir.Dirs+1 || rep.Content != top.Dir.Bytes || last.Load() != top.Dir.Bytes {
		t.Errorf("%+v, progress %d; the root says %+v", rep, last.Load(), top.Dir)
	}
}

// Whichever block is taken away, or changed: it is found, by a name that it belongs to, and nothing else is.
func TestVerify_NamesWhatIsMissingOrSpoilt(t *testing.T) {
	sink := newBlocks()
	root, top, _ := mustBuild(t, verifiable(), sink, testKey(1), Options{ChunkSize: wire.MinChunk})
	owners := map[cid.Cid]string{} // of content: a path
	r := NewReader(sink, testKey(1))
	var walk func(path string, ref wire.DirRef)
	walk = func(path string, ref wire.DirRef) {
		for e, err := range r.Dir(t.Context(), ref) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Dir != nil {
				walk(path+e.Name+"/", *e.Dir)
			}
			if e.Content != nil {
				for w := range r.Windows(t.Context(), e.Content, 0, 1<<63) {
					owners[w.Block] = path + e.Name
				}
			}
		}
	}
	walk("/", top.Dir)
	tried := map[uint64]int{}
	for c, block := range sink.m {
		if tried[c.Prefix().Codec]++; tried[c.Prefix().Codec] > 6 {
			continue // each run takes others
		}
		bad := bytes.Clone(block)
		bad[len(bad)/2] ^= 1
		for name, g := range map[string]Getter{
			"missing": lacking{sink, c}, "spoilt": &liar{Getter: sink, lies: map[cid.Cid][]byte{c: bad}},
		} {
			rep := mustVerify(t, g, root, VerifyOptions{})
			if rep.OK() || !slices.ContainsFunc(rep.Findings, func(f Finding) bool { return f.Block == c && string(f.Damage) == name }) {
				t.Fatalf("%s %s is not found: %+v", name, c, rep.Findings)
			}
			owner := owners[c]
			if owner != "" && !slices.ContainsFunc(rep.Findings, func(f Finding) bool { return f.Path == owner && !f.Dir }) {
				t.Fatalf("%s %s: not as part of %s: %+v", name, c, owner, rep.Findings)
			}
			for _, f := range rep.Findings {
				if f.Block != c || f.Blocks != 1 || !strings.HasPrefix(f.Path, "/") || f.Dir && owner != "" {
					t.Fatalf("%s %s: %+v", name, c, f)
				}
			}
		}
	}
}

// lacking is a Getter that does not have one block.
type lacking struct {
	Getter
	c cid.Cid
}

func (l lacking) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == l.c {
		return nil, fmt.Errorf("%s: %w", c, store.ErrNotFound)
	}
	return l.Getter.Get(ctx, c)
}

func TestVerify_SampleReadsAllNodesAndAShareOfTheContent(t *testing.T) {
	tree := dir("")
	for i := range 8 {
		tree.children = append(tree.children, file(fmt.Sprint(i), noise(uint64(i), 2<<20)))
	}
	sink := newBlocks()
	root, _, _ := mustBuild(t, tree, sink, testKey(1), Options{ChunkSize: 128 << 10})
	all := mustVerify(t, sink, root, VerifyOptions{})
	seen := map[uint64]bool{}
	for seed := range uint64(4) {
		rep := mustVerify(t, sink, root, VerifyOptions{Sample: 0.25, Seed: seed * 0x1234567890abcdef})
		// 128 blocks: 32 are to be expected, with a deviation of 5.
		if rep.Nodes != all.Nodes || all.Blocks != 128 || rep.Blocks < 4 || rep.Blocks > 72 {
			t.Errorf("%d nodes of %d, %d blocks of %d", rep.Nodes, all.Nodes, rep.Blocks, all.Blocks)
		}
		seen[rep.Blocks] = true
	}
	if len(seen) == 1 {
		t.Error("each seed chose as many blocks: the same ones?")
	}
}

// failing is a Getter whose store cannot be asked for its first answers, or ever.
type failing struct {
	Getter
	err  error
	left atomic.Int64 // failures
}

func (f *failing) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if f.left.Add(-1) >= 0 {
		return nil, f.err
	}
	return f.Getter.Get(ctx, c)
}

func TestVerify_AStoreThatCannotBeAskedIsNoDamage(t *testing.T) {
	defer func(d time.Duration) { verifyPause = d }(verifyPause)
	verifyPause = time.Microsecond
	sink := newBlocks()
	root, _, _ := mustBuild(t, verifiable(), sink, testKey(1), Options{})
	for _, kind := range []error{store.ErrUnavailable, store.ErrDenied} {
		g := &failing{Getter: sink, err: kind}
		g.left.Store(1 << 40)
		if rep, err := Verify(t.Context(), g, testKey(1), root, VerifyOptions{}); !errors.Is(err, kind) || !rep.OK() {
			t.Errorf("%v: error %v, findings %v", kind, err, rep.Findings)
		}
	}
	for _, kind := range []error{store.ErrUnavailable, store.ErrCorrupt} {
		g := &failing{Getter: sink, err: kind}
		g.left.Store(verifyTries - 1)
		if rep := mustVerify(t, g, root, VerifyOptions{}); !rep.OK() || g.left.Load() >= 0 {
			t.Errorf("%v at first: findings %v", kind, rep.Findings)
		}
	}
}

func TestVerify_EndsWithItsContext(t *testing.T) {
	sink := newBlocks()
	root, _, _ := mustBuild(t, verifiable(), sink, testKey(1), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rep, err := Verify(ctx, sink, testKey(1), root, VerifyOptions{Progress: func(done, _ uint64) {
		if done > 100<<10 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || !rep.OK() {
		t.Errorf("error %v, findings %+v", err, rep.Findings)
	}
}

func TestVerify_ListsABoundedNumberOfFindings(t *testing.T) {
	tree := dir("")
	for i := range 1500 {
		tree.children = append(tree.children, file(fmt.Sprintf("%04d", i), noise(uint64(i), 65<<10)))
	}
	sink := newBlocks()
	root, _, _ := mustBuild(t, tree, sink, testKey(1), Options{ChunkSize: wire.MinChunk})
	for c := range sink.m {
		if c.Prefix().Codec == cid.Raw {
			delete(sink.m, c)
		}
	}
	rep := mustVerify(t, sink, root, VerifyOptions{})
	if len(rep.Findings) != maxFindings || rep.More != 500 {
		t.Errorf("%d findings, %d more", len(rep.Findings), rep.More)
	}
}
