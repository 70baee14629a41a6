package snapshot

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
)

// tallying counts the nodes that are read.
type tallying struct {
	*blocks
	nodes, data atomic.Int64
}

func (c *tallying) Get(ctx context.Context, k cid.Cid) ([]byte, error) {
	if k.Prefix().Codec == cid.Raw {
		c.data.Add(1)
	} else {
		c.nodes.Add(1)
	}
	return c.blocks.Get(ctx, k)
}

func diffOf(t *testing.T, g Getter, a, b cid.Cid) (lines []string) {
	t.Helper()
	for c, err := range Diff(context.Background(), NewReader(g, testKey(1)), a, b) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %s %d>%d %d", c.Kind, c.Path, c.Was, c.Now, c.Bytes))
	}
	return lines
}

func TestDiff_NamesEveryChangeAndReadsNoContent(t *testing.T) {
	g := &tallying{blocks: newBlocks()}
	big := noise(1, 3<<20)
	changed := append([]byte(nil), big...)
	changed[2<<20]++
	tree := func(build func(root *memNode)) cid.Cid {
		root := dir("", dir("a", file("keep", noise(2, 1000)), file("big", big)), dir("gone", file("x", noise(3, 100))), file("f", []byte("one")))
		if build != nil {
			build(root)
		}
		c, _, _ := mustBuild(t, root, g, testKey(1), Options{})
		return c
	}
	was := tree(nil)
	if lines := diffOf(t, g, was, tree(nil)); lines != nil {
		t.Errorf("equal: %q", lines)
	}
	now := tree(func(root *memNode) {
		*root = *dir("", dir("a", file("keep", noise(2, 1000)), file("big", changed)), dir("new", file("y", noise(4, 70000)), file("z", nil)), file("f", []byte("three")))
	})
	g.data.Store(0)
	got := strings.Join(diffOf(t, g, was, now), "\n")
	want := "changed /a/big 3145728>3145728 262144\nrepacked /a/keep 1000>1000 1000\nchanged /f 3>5 5\nremoved /gone 100>0 100\nadded /new 0>70000 70000"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := g.data.Load(); n != 0 {
		t.Errorf("%d content blocks were read", n)
	}
	back := strings.Join(diffOf(t, g, now, was), "\n")
	if back != "changed /a/big 3145728>3145728 262144\nrepacked /a/keep 1000>1000 1000\nchanged /f 5>3 5\nadded /gone 0>100 100\nremoved /new 70000>0 70000" {
		t.Errorf("back:\n%s", back)
	}
}

func TestDiff_SkipsEqualPagesOfLargeDirectories(t *testing.T) {
	g := &tallying{blocks: newBlocks()}
	build := func(change func(i int) *memNode) cid.Cid {
		root := dir("")
		for i := range 20_000 {
			n := other(fmt.Sprintf("n%06d", i), 0o010644)
			if change != nil {
				if m := change(i); m != nil {
					n = m
				}
			}
			root.children = append(root.children, n)
		}
		c, _, _ := mustBuild(t, root, g, testKey(1), Options{})
		return c
	}
	was := build(nil)
	now := build(func(i int) *memNode {
		if i == 7777 {
			return other(fmt.Sprintf("n%06d", i), 0o010600)
		}
		return nil
	})
	g.nodes.Store(0)
	if got := diffOf(t, g, was, now); len(got) != 1 || !strings.HasPrefix(got[0], "attributes /n007777") {
		t.Errorf("%q", got)
	}
	// Two roots, some index nodes, and the one page that differs on each side; there are over a hundred pages.
	if n := g.nodes.Load(); n > 20 {
		t.Errorf("%d nodes were read", n)
	}
}

func TestDiff_DamageIsAnErrorAndNoEnd(t *testing.T) {
	g := newBlocks()
	was, _, _ := mustBuild(t, dir("", file("f", []byte("one"))), g, testKey(1), Options{})
	now, top, _ := mustBuild(t, dir("", file("f", []byte("three"))), g, testKey(1), Options{})
	delete(g.m, top.Dir.Node)
	var last error
	for _, err := range Diff(context.Background(), NewReader(g, testKey(1)), was, now) {
		last = err
	}
	if last == nil {
		t.Error("a missing node was taken for no change")
	}
}
