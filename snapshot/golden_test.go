package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

var (
	update = flag.Bool("update", false, "write golden files that are missing")
	force  = flag.Bool("update-released", false, "write golden files anew, also released ones: breaks every snapshot in use")
)

const goldenDir = "testdata/golden/v1"

// goldenTree is small, and has all that the format has: every kind of file, a
// directory with index nodes, a file with them, packs, a trace.
func goldenTree() *memNode {
	tree := everyKind()
	var kept []*memNode
	for _, n := range tree.children {
		switch n.Name {
		case "sparse":
			n.file.parts = []part{{0, pattern(1, 4096)}, {300 << 10, pattern(2, 8192)}, {1 << 30, pattern(3, 68<<10)},
				{1 << 39, pattern(4, 4096)}, {1<<39 + 1<<20, pattern(5, 12288)}, {1 << 40, []byte("end")}}
		case "sparse few":
			n.file.parts = []part{{1 << 20, pattern(6, 4096)}, {1 << 45, pattern(7, 4096)}}
		case "attrs":
			n.Xattrs[1].Value = pattern(10, 300)
		case "big":
			n.file = dense(pattern(13, 300<<10))
		case "text", "linked", strings.Repeat("\xe9", 255), "\xff\xfe invalid":
			n.file = dense(pattern(14, 100+len(n.Name)))
		case "sub dir":
			for _, c := range n.children {
				if c.Name == "other name" {
					c.file = dense(pattern(14, 100+len("linked")))
				}
			}
		}
		kept = append(kept, n)
	}
	many := dir("many")
	for i := range 700 {
		many.children = append(many.children, file(fmt.Sprintf("%04d", i), nil))
	}
	tree.children = append(kept, many)
	return tree
}

// pattern is data that compresses well and is not the same everywhere.
func pattern(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(seed + i/512)
	}
	return b
}

// TestGolden_SnapshotsOfEveryReleaseAreRead reads whole snapshots that were
// written once: one without compression, which must still be built block for
// block, and one with it, which need not (compressors get better).
func TestGolden_SnapshotsOfEveryReleaseAreRead(t *testing.T) {
	for _, level := range []Compression{None, Default} {
		t.Run(string(level), func(t *testing.T) {
			sink, tree := newBlocks(), goldenTree()
			made, _, _ := mustBuild(t, tree, sink, testKey(1), Options{Compression: level,
				Trace: func(_ context.Context, _ *wire.DirRef, put PutTrace) (cid.Cid, error) {
					return put(&wire.Trace{Blocks: dataOf(sink)})
				}})
			want := strings.Join(tree.manifest(""), "\n") + "\n"
			car, list := filepath.Join(goldenDir, string(level)+".car"), filepath.Join(goldenDir, string(level)+".txt")
			if _, err := os.Stat(car); *force || (*update && errors.Is(err, os.ErrNotExist)) {
				if err := os.MkdirAll(goldenDir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(os.WriteFile(car, writeCAR(made, sink.m), 0o644), os.WriteFile(list, []byte(want), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			root, stored, err := readCAR(car)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readTree(t.Context(), NewReader(stored, testKey(1)), root)
			if err != nil {
				t.Fatal(err)
			}
			top, err := NewReader(stored, testKey(1)).Root(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			if used, err := NewReader(stored, testKey(1)).Trace(t.Context(), top.Trace); err != nil || len(used.Blocks) != len(dataOf(stored)) {
				t.Errorf("trace: %v", err)
			}
			listed, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			if string(listed) != strings.Join(got, "\n")+"\n" {
				t.Errorf("what %s holds differs from %s", car, list)
			}
			if level == None && made != root {
				t.Errorf("the same tree is %s now, was %s: the form of new snapshots changed", made, root)
			}
		})
	}
}

// dataOf lists the data blocks, in one certain order.
func dataOf(b *blocks) (out []cid.Cid) {
	for c := range b.m {
		if c.Prefix().Codec == cid.Raw {
			out = append(out, c)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].KeyString() > out[j].KeyString() })
	return out
}

// writeCAR makes a CAR (version 1) file: https://ipld.io/specs/transport/car/carv1/
func writeCAR(root cid.Cid, blocks map[cid.Cid][]byte) []byte {
	var out bytes.Buffer
	section := func(parts ...[]byte) {
		b := bytes.Join(parts, nil)
		out.Write(binary.AppendUvarint(nil, uint64(len(b))))
		out.Write(b)
	}
	head, err := cbor.Marshal(map[string]any{
		"roots":   []any{cbor.Tag{Number: 42, Content: append([]byte{0}, root.Bytes()...)}},
		"version": 1,
	})
	if err != nil {
		panic(err)
	}
	section(head)
	var cids []cid.Cid
	for c := range blocks {
		cids = append(cids, c)
	}
	sort.Slice(cids, func(i, j int) bool { return cids[i].KeyString() < cids[j].KeyString() })
	for _, c := range cids {
		section(c.Bytes(), blocks[c])
	}
	return out.Bytes()
}

func readCAR(path string) (root cid.Cid, out *blocks, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return cid.Undef, nil, err
	}
	in := bufio.NewReader(bytes.NewReader(b))
	section := func() ([]byte, error) {
		n, err := binary.ReadUvarint(in)
		if err != nil {
			return nil, err
		}
		p := make([]byte, min(n, uint64(len(b))))
		_, err = io.ReadFull(in, p)
		return p, err
	}
	head, err := section()
	if err != nil {
		return cid.Undef, nil, err
	}
	var h struct {
		Roots []cbor.Tag `cbor:"roots"`
	}
	if err := cbor.Unmarshal(head, &h); err != nil || len(h.Roots) != 1 {
		return cid.Undef, nil, fmt.Errorf("head of %s: %v", path, err)
	}
	link, _ := h.Roots[0].Content.([]byte)
	if len(link) == 0 {
		return cid.Undef, nil, fmt.Errorf("head of %s has no root", path)
	}
	if root, err = cid.Cast(link[1:]); err != nil {
		return cid.Undef, nil, err
	}
	out = newBlocks()
	for {
		s, err := section()
		if err == io.EOF {
			return root, out, nil
		}
		if err != nil {
			return cid.Undef, nil, err
		}
		n, c, err := cid.CidFromBytes(s)
		if err != nil {
			return cid.Undef, nil, err
		}
		if err := store.Verify(c, s[n:]); err != nil {
			return cid.Undef, nil, err
		}
		out.m[c] = s[n:]
	}
}
