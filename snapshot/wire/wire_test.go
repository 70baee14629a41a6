package wire

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

func sum(codec uint64, text string) cid.Cid {
	mh, err := multihash.Sum([]byte(text), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, mh)
}

func raw(text string) cid.Cid  { return sum(cid.Raw, text) }
func node(text string) cid.Cid { return sum(cid.DagCBOR, text) }

func ptr[T any](v T) *T { return &v }

// sampleEntries has every kind of entry, ascending by name.
func sampleEntries() []Entry {
	attr := func(mode uint32) Attr {
		return Attr{Mode: mode, UID: 1000, GID: 100, Mtime: Time{Sec: 1700000000, Nsec: 123456789}}
	}
	sparse := &Content{Size: 1<<40 + 5, ChunkSize: 128 << 10, Data: 4096 + 12288 + 5, Windows: []Window{
		{Index: 0, Block: raw("pack"), Off: 100, Data: []Range{{Off: 8192, Len: 4096}}},
		{Index: 7, Block: raw("other"), Data: []Range{{Off: 0, Len: 4096}, {Off: 65536, Len: 8192}}},
		{Index: 1 << 23, Block: raw("pack"), Off: 4196},
	}}
	dir := attr(ModeDir | 0o1777)
	dir.Flags = FlagNoCOW | FlagCompress
	xattrs := attr(ModeReg | 0o4755)
	xattrs.Flags = FlagImmutable
	xattrs.Mtime = Time{Sec: -5, Nsec: 999999999}
	xattrs.Xattrs = []Xattr{
		{Name: "security.capability", Value: []byte{1, 0, 0, 2}},
		{Name: "system.posix_acl_access", Value: []byte("acl")},
		{Name: "user.\xff\xfe", Value: []byte{}},
	}
	char, block := attr(ModeChr|0o600), attr(ModeBlk|0o600)
	char.Rdev, block.Rdev = 0x103, 1<<40|7
	return []Entry{
		{Name: "\x01\n", Attr: attr(ModeReg | 0o644), Nlink: 1, Content: &Content{ChunkSize: DefChunk}},
		{Name: "a b", Attr: attr(ModeReg | 0o644), Nlink: 1, Content: &Content{
			Size: 3 << 20, ChunkSize: DefChunk, Data: 3 << 20, Index: node("index"), Depth: 1}},
		{Name: "char", Attr: char, Nlink: 1},
		{Name: "dir", Attr: dir, Nlink: 1, Dir: &DirRef{Node: node("dir"), Depth: 2, Files: 7, Dirs: 3, Bytes: 1 << 50}},
		{Name: "disk", Attr: block, Nlink: 1},
		{Name: "fifo", Attr: attr(ModeFIFO | 0o644), Link: 1<<64 - 1, Nlink: 1<<32 - 1},
		{Name: "link", Attr: attr(ModeLink | 0o777), Nlink: 1, Target: strings.Repeat("\xfft", 2047)},
		{Name: "sock", Attr: attr(ModeSock | 0o644), Nlink: 1},
		{Name: "sparse", Attr: attr(ModeReg), Link: 9, Nlink: 2, Content: sparse},
		{Name: "xattrs", Attr: xattrs, Nlink: 1, Content: &Content{Size: 5, ChunkSize: MaxChunk, Data: 5,
			Windows: []Window{{Block: raw("pack"), Off: 524283}}}},
		{Name: strings.Repeat("\xff", 255), Attr: attr(ModeDir), Nlink: 1, Dir: &DirRef{Node: node("empty")}},
	}
}

func sampleRoot() *Root {
	return &Root{ChunkSize: DefChunk, Attr: Attr{Mode: ModeDir | 0o755, Mtime: Time{Sec: 1},
		Xattrs: []Xattr{{Name: "user.x", Value: []byte("y")}}},
		Dir: DirRef{Node: node("top"), Files: 1, Dirs: 2, Bytes: 3}, Trace: node("trace")}
}

func sampleChildren() (out []DirChild) {
	for i := range 300 {
		out = append(out, DirChild{First: fmt.Sprintf("name-%05d", i*100), Node: node(fmt.Sprint(i)),
			Files: uint64(i), Dirs: 1, Bytes: uint64(i) << 20})
	}
	return out
}

var (
	leafPos  = FilePos{Size: 1 << 32, ChunkSize: DefChunk, Level: 1, First: 2048}
	innerPos = FilePos{Size: 1 << 40, ChunkSize: DefChunk, Level: 2, First: 1 << 20}
)

func sampleLeaf() *FileIndex {
	f := new(FileIndex)
	for i := uint64(0); i < IndexFanout; i += 1 + i%3 {
		w := Window{Index: leafPos.First + i, Block: raw(fmt.Sprint(i))}
		if i%5 == 0 {
			w.Data = []Range{{Off: 4096, Len: 4096}, {Off: 16384, Len: 8192}}
		}
		f.Windows = append(f.Windows, w)
	}
	return f
}

func sampleInner() *FileIndex {
	f := new(FileIndex)
	for i := uint64(0); i < IndexFanout; i += 7 {
		f.Children = append(f.Children, FileChild{First: innerPos.First + i*IndexFanout, Node: node(fmt.Sprint(i))})
	}
	return f
}

func sampleTrace() *Trace {
	t := new(Trace)
	for i := range 100 {
		t.Blocks = append(t.Blocks, raw(fmt.Sprint(i)))
		if i%10 == 0 {
			t.Blocks = append(t.Blocks, node(fmt.Sprint(i)))
		}
	}
	return t
}

func roundTrip[T any](t *testing.T, v T, encode func(T) ([]cid.Cid, []byte, error), decode func([]cid.Cid, []byte) (T, error)) {
	t.Helper()
	links, payload, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	block, err := EncodeNode(links, payload)
	if err != nil {
		t.Fatal(err)
	}
	n, err := DecodeNode(block)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(n.Links, n.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, v) {
		t.Fatalf("got  %+v\nwant %+v", got, v)
	}
}

func TestPayloads_ComeBackAsTheyWere(t *testing.T) {
	t.Run("root", func(t *testing.T) { roundTrip(t, sampleRoot(), EncodeRoot, DecodeRoot) })
	t.Run("page", func(t *testing.T) { roundTrip(t, sampleEntries(), EncodeDir, DecodeDir) })
	t.Run("empty page", func(t *testing.T) { roundTrip(t, []Entry{}, EncodeDir, DecodeDir) })
	t.Run("directory index", func(t *testing.T) {
		roundTrip(t, sampleChildren(),
			func(c []DirChild) ([]cid.Cid, []byte, error) { return EncodeDirIndex(3, c) },
			func(l []cid.Cid, b []byte) ([]DirChild, error) { return DecodeDirIndex(3, l, b) })
	})
	for name, c := range map[string]struct {
		pos FilePos
		f   *FileIndex
	}{"leaf": {leafPos, sampleLeaf()}, "inner": {innerPos, sampleInner()}} {
		t.Run(name, func(t *testing.T) {
			roundTrip(t, c.f,
				func(f *FileIndex) ([]cid.Cid, []byte, error) { return EncodeFileIndex(c.pos, f) },
				func(l []cid.Cid, b []byte) (*FileIndex, error) { return DecodeFileIndex(c.pos, l, b) })
		})
	}
	t.Run("trace", func(t *testing.T) { roundTrip(t, sampleTrace(), EncodeTrace, DecodeTrace) })
}

func TestReferences_ComeBackAsTheyWere(t *testing.T) {
	for _, e := range sampleEntries() {
		if e.Content != nil {
			got, err := DecodeContent(EncodeContent(e.Content))
			if err != nil || !reflect.DeepEqual(got, e.Content) {
				t.Errorf("%q: %+v, %v; want %+v", e.Name, got, err, e.Content)
			}
		}
		if e.Dir != nil {
			got, err := DecodeDirRef(EncodeDirRef(e.Dir))
			if err != nil || !reflect.DeepEqual(got, e.Dir) {
				t.Errorf("%q: %+v, %v; want %+v", e.Name, got, err, e.Dir)
			}
		}
	}
}
