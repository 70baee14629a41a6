package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// blocks is a Sink and a Getter that checks what a store may rely on: blocks
// match their CIDs, none is over 1 MiB, children come before parents.
type blocks struct {
	mu   sync.Mutex
	m    map[cid.Cid][]byte
	puts int
	bad  error
}

func newBlocks() *blocks { return &blocks{m: make(map[cid.Cid][]byte)} }

func (s *blocks) Put(_ context.Context, b store.Block) error {
	err := store.Verify(b.CID, b.Data)
	if len(b.Data) > store.MaxBlock {
		err = errors.Join(err, store.ErrTooLarge)
	}
	var links []cid.Cid
	if b.CID.Prefix().Codec == store.DagCBOR {
		n, e := wire.DecodeNode(b.Data)
		err = errors.Join(err, e)
		links = n.Links
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range links {
		if _, ok := s.m[l]; !ok {
			err = errors.Join(err, fmt.Errorf("parent before child %s", l))
		}
	}
	s.m[b.CID] = b.Data
	s.puts++
	s.bad = errors.Join(s.bad, err)
	return err
}

func (s *blocks) Get(_ context.Context, c cid.Cid) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.m[c]
	if !ok {
		return nil, store.ErrNotFound
	}
	return bytes.Clone(b), nil
}

// memFile is the content of a regular file: data at offsets, holes between.
type memFile struct {
	size  uint64
	parts []part

	known, previous func(index uint64) (wire.Window, bool)
	before          func(index uint64) *Before
	readErr         error
	open            *atomic.Int64 // files open, where set
	reads           atomic.Int64
}

type part struct {
	off  uint64
	data []byte
}

func dense(data []byte) *memFile {
	f := &memFile{size: uint64(len(data))}
	if len(data) > 0 {
		f.parts = []part{{0, data}}
	}
	return f
}

func (f *memFile) Size() uint64 { return f.size }

func (f *memFile) Ranges(_ context.Context, off, end uint64) (out []wire.Range, err error) {
	for _, p := range f.parts {
		a, b := max(off, p.off), min(end, p.off+uint64(len(p.data)))
		if a < b {
			out = append(out, wire.Range{Off: a, Len: b - a})
		}
	}
	return out, nil
}

func (f *memFile) Known(_ context.Context, index uint64, _ uint32) (w wire.Window, ok bool, err error) {
	if f.known != nil {
		w, ok = f.known(index)
	}
	return w, ok, nil
}

func (f *memFile) Previous(_ context.Context, index uint64, _ uint32) (w wire.Window, ok bool, err error) {
	if f.previous != nil {
		w, ok = f.previous(index)
	}
	return w, ok, nil
}

func (f *memFile) Before(_ context.Context, index uint64, _ uint32) (*Before, error) {
	if f.before == nil {
		return nil, nil
	}
	return f.before(index), nil
}

func (f *memFile) ReadAt(_ context.Context, p []byte, off uint64) error {
	f.reads.Add(1)
	if f.readErr != nil {
		return f.readErr
	}
	for _, part := range f.parts {
		if off >= part.off && off+uint64(len(p)) <= part.off+uint64(len(part.data)) {
			copy(p, part.data[off-part.off:])
			return nil
		}
	}
	return fmt.Errorf("read of %d bytes at %d is not inside of the data", len(p), off)
}

func (f *memFile) Close() error {
	if f.open != nil {
		f.open.Add(-1)
	}
	return nil
}

// memNode is one name of a tree in memory.
type memNode struct {
	wire.Entry
	file     *memFile
	children []*memNode
}

func (n *memNode) node() Node {
	out := Node{Entry: n.Entry}
	if n.Mode&wire.ModeType == wire.ModeDir {
		out.Children = func(context.Context) iter.Seq2[Node, error] {
			return func(yield func(Node, error) bool) {
				sort.Slice(n.children, func(i, j int) bool { return n.children[i].Name < n.children[j].Name })
				for _, c := range n.children {
					if !yield(c.node(), nil) {
						return
					}
				}
			}
		}
	}
	if n.file != nil {
		out.Open = func(context.Context) (File, error) {
			if n.file.open != nil {
				n.file.open.Add(1)
			}
			return n.file, nil
		}
	}
	return out
}

func dir(name string, children ...*memNode) *memNode {
	n := &memNode{Entry: wire.Entry{Name: name, Nlink: 1}, children: children}
	n.Mode = wire.ModeDir | 0o755
	return n
}

func file(name string, data []byte) *memNode {
	n := &memNode{Entry: wire.Entry{Name: name, Nlink: 1}, file: dense(data)}
	n.Mode = wire.ModeReg | 0o644
	n.Mtime = wire.Time{Sec: 1700000000, Nsec: 5}
	return n
}

func other(name string, mode uint32) *memNode {
	n := &memNode{Entry: wire.Entry{Name: name, Nlink: 1}}
	n.Mode = mode
	return n
}

// noise is data that does not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return b
}

func testKey(n byte) *seal.Sealer { return seal.NewSealer([32]byte{n}) }

// manifest lists a tree, one line a name, with a hash of the content and of
// where its data is.
func (n *memNode) manifest(path string) (out []string) {
	for _, c := range n.children {
		p := path + "/" + c.Name
		out = append(out, line(p, &c.Entry, c.file.digest()))
		out = append(out, c.manifest(p)...)
	}
	sort.Strings(out)
	return out
}

func (f *memFile) digest() string {
	if f == nil {
		return ""
	}
	d := newDigest(f.size)
	for _, p := range f.parts {
		d.add(p.off, p.data)
	}
	return d.sum()
}

// digest hashes data with its place; runs that touch are one.
type digest struct {
	size uint64
	end  uint64
	runs []part
}

func newDigest(size uint64) *digest { return &digest{size: size} }

func (d *digest) add(off uint64, data []byte) {
	if n := len(d.runs); n > 0 && d.end == off {
		d.runs[n-1].data = append(bytes.Clone(d.runs[n-1].data), data...)
	} else {
		d.runs = append(d.runs, part{off, data})
	}
	d.end = off + uint64(len(data))
}

func (d *digest) sum() string {
	h := sha256.New()
	for _, r := range d.runs {
		fmt.Fprintf(h, "%d %d ", r.off, len(r.data))
		h.Write(r.data)
	}
	return fmt.Sprintf("%d:%x", d.size, h.Sum(nil)[:8])
}

func line(path string, e *wire.Entry, content string) string {
	return fmt.Sprintf("%q %o %d:%d %x %d.%09d %x %q %q %d/%d %s", path, e.Mode, e.UID, e.GID, e.Rdev,
		e.Mtime.Sec, e.Mtime.Nsec, e.Flags, e.Xattrs, e.Target, e.Link, e.Nlink, content)
}

// readTree lists a snapshot as manifest does.
func readTree(ctx context.Context, r *Reader, root cid.Cid) ([]string, error) {
	top, err := r.Root(ctx, root)
	if err != nil {
		return nil, err
	}
	out, err := (&treeReader{Reader: r}).readDir(ctx, top.Dir, "")
	sort.Strings(out)
	return out, err
}

func (r *treeReader) readDir(ctx context.Context, ref wire.DirRef, path string) (out []string, err error) {
	for e, err := range r.Dir(ctx, ref) {
		if err != nil {
			return nil, err
		}
		p, content := path+"/"+e.Name, ""
		if e.Content != nil {
			if content, err = r.readFile(ctx, e.Content); err != nil {
				return nil, err
			}
		}
		out = append(out, line(p, &e, content))
		if e.Dir != nil {
			below, err := r.readDir(ctx, *e.Dir, p)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		}
	}
	return out, nil
}

// treeReader keeps the block opened last: neighbours share packs.
type treeReader struct {
	*Reader
	last cid.Cid
	data []byte
}

func (r *treeReader) readFile(ctx context.Context, c *wire.Content) (string, error) {
	d := newDigest(c.Size)
	total := uint64(0)
	for w, err := range r.Windows(ctx, c, 0, 1<<63) {
		if err != nil {
			return "", err
		}
		if r.last != w.Block {
			if r.data, err = r.Data(ctx, w.Block); err != nil {
				return "", err
			}
			r.last = w.Block
		}
		var patch []byte
		if w.Patch != nil {
			if patch, err = r.Data(ctx, w.Patch.Block); err != nil {
				return "", err
			}
		}
		piece, err := Piece(r.data, patch, c, w)
		if err != nil {
			return "", err
		}
		total += uint64(len(piece))
		for _, rg := range w.Ranges(c.Span(w.Index)) {
			d.add(w.Index*uint64(c.ChunkSize)+rg.Off, piece[:rg.Len])
			piece = piece[rg.Len:]
		}
	}
	if total != c.Data {
		return "", fmt.Errorf("%d bytes of data, the entry says %d", total, c.Data)
	}
	return d.sum(), nil
}

func mustBuild(t testing.TB, tree *memNode, sink Sink, s *seal.Sealer, opt Options) (cid.Cid, wire.Root, Stats) {
	t.Helper()
	c, root, stats, err := Build(t.Context(), tree.node(), sink, s, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c, root, stats
}

func mustEqual(t testing.TB, tree *memNode, g Getter, s *seal.Sealer, root cid.Cid) {
	t.Helper()
	got, err := readTree(t.Context(), NewReader(g, s), root)
	if err != nil {
		t.Fatal(err)
	}
	want := tree.manifest("")
	if len(got) != len(want) {
		t.Fatalf("%d names came back, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("\ngot  %s\nwant %s", got[i], want[i])
		}
	}
}

// everyKind is a tree with every kind of file.
func everyKind() *memNode {
	sparse := file("sparse", nil)
	sparse.file = &memFile{size: 1<<40 + 3, parts: []part{
		{0, noise(1, 4096)}, {300 << 10, noise(2, 8192)}, {1 << 30, noise(3, 700<<10)},
		{1 << 39, noise(4, 256<<10)}, {1<<39 + 1<<20, noise(5, 100<<10)}, {1 << 40, []byte("end")},
	}}
	few := file("sparse few", nil)
	few.file = &memFile{size: 1 << 50, parts: []part{{1 << 20, noise(6, 4096)}, {1 << 45, noise(7, 200<<10)}}}
	hole := file("hole", nil)
	hole.file = &memFile{size: 1<<63 - 1}
	a, b := file("linked", noise(8, 90<<10)), file("other name", nil)
	a.Link, a.Nlink = 77, 2
	b.Entry, b.file = a.Entry, a.file
	b.Name = "other name"
	attrs := file("attrs", []byte("short"))
	attrs.Mode = wire.ModeReg | 0o6755
	attrs.UID, attrs.GID, attrs.Flags = 1<<32-2, 7, wire.FlagImmutable|wire.FlagNoCOW
	attrs.Mtime = wire.Time{Sec: -77, Nsec: 999999999}
	attrs.Xattrs = []wire.Xattr{{Name: "security.capability", Value: noise(9, 20)}, {Name: "user.big", Value: noise(10, 16000)}, {Name: "user.empty", Value: []byte{}}}
	link := other("symlink", wire.ModeLink|0o777)
	link.Target = strings.Repeat("x/", 2047) + "\xff"
	dev := other("dev", wire.ModeBlk|0o660)
	dev.Rdev = 1<<44 | 3
	char := other("char", wire.ModeChr|0o660)
	char.Rdev = 5
	sub := dir("sub dir", b, dir("empty"), dir("deep", dir("deeper", file("leaf", []byte("x")))))
	sub.Mode = wire.ModeDir | 0o3777
	return dir("", sparse, few, hole, a, attrs, link, dev, char, sub,
		other("fifo", wire.ModeFIFO|0o600), other("sock", wire.ModeSock|0o600),
		file("empty", nil), file(" spaces and\nnewline", []byte("n")), file("\xff\xfe invalid", noise(11, 1000)),
		file(strings.Repeat("\xe9", 255), noise(12, 65<<10)), file("big", noise(13, 3<<20+17)),
		file("text", bytes.Repeat([]byte("some text that repeats itself "), 50000)))
}
