package backing

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// extentItem makes a file extent item: kind, compression and other encoding, then the rest.
func extentItem(ram uint64, compression, encoding, kind byte, rest ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 8), ram)
	return append(append(b, compression, encoding, 0, 0, kind), rest...)
}

// regular is what a regular or preallocated extent has behind its kind.
func regular(address, bytes uint64) (b []byte) {
	for _, v := range []uint64{address, 4096, 0, bytes} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func TestInode_LayoutIsUnknownWhereTheExtentDoesNotSayItAll(t *testing.T) {
	for name, c := range map[string]struct {
		size, offset uint64
		item         []byte
		want         Layout
	}{
		"inline":                  {3, 0, extentItem(3, 0, 0, 0, 'a', 'b', 'c'), LayoutInline},
		"inline, file is longer":  {4, 0, extentItem(3, 0, 0, 0, 'a', 'b', 'c'), LayoutUnknown},
		"inline, file is shorter": {2, 0, extentItem(3, 0, 0, 0, 'a', 'b', 'c'), LayoutUnknown},
		"inline, decodes to more": {3, 0, extentItem(9, 0, 0, 0, 'a', 'b', 'c'), LayoutUnknown},
		"inline, compressed":      {3, 0, extentItem(3, 1, 0, 0, 'a', 'b', 'c'), LayoutUnknown},
		"inline, encrypted":       {3, 0, extentItem(3, 0, 1, 0, 'a', 'b', 'c'), LayoutUnknown},
		"whole":                   {5000, 0, extentItem(8192, 0, 0, 1, regular(1<<20, 8192)...), LayoutWhole},
		"whole, compressed":       {5000, 0, extentItem(8192, 3, 0, 1, regular(1<<20, 8192)...), LayoutWhole},
		"whole, encrypted":        {5000, 0, extentItem(8192, 0, 1, 1, regular(1<<20, 8192)...), LayoutUnknown},
		"an extent of several":    {9000, 0, extentItem(8192, 0, 0, 1, regular(1<<20, 8192)...), LayoutUnknown},
		"a hole":                  {5000, 0, extentItem(8192, 0, 0, 1, regular(0, 8192)...), LayoutUnknown},
		"preallocated":            {5000, 0, extentItem(8192, 0, 0, 2, regular(1<<20, 8192)...), LayoutUnknown},
		"unknown kind":            {5000, 0, extentItem(8192, 0, 0, 3, regular(1<<20, 8192)...), LayoutUnknown},
		"not the first":           {5000, 4096, extentItem(8192, 0, 0, 1, regular(1<<20, 8192)...), LayoutUnknown},
		"cut off":                 {5000, 0, extentItem(8192, 0, 0, 1, regular(1<<20, 8192)[:31]...), LayoutUnknown},
		"cut off in the header":   {3, 0, extentItem(3, 0, 0, 0)[:20], LayoutUnknown},
		"no bytes":                {0, 0, extentItem(0, 0, 0, 2, regular(1<<20, 8192)...), LayoutInline},
	} {
		item := make([]byte, inodeItemSize)
		binary.LittleEndian.PutUint64(item[16:], c.size)
		binary.LittleEndian.PutUint32(item[52:], unix.S_IFREG|0o644)
		n := parseInode(300, item)
		n.setLayout(c.offset, c.item)
		if n.Layout != c.want || n.Layout == LayoutInline && uint64(len(n.Inline)) != c.size {
			t.Errorf("%s: layout %d with %d bytes, want %d", name, n.Layout, len(n.Inline), c.want)
		}
	}
}

// items makes an answer of a search.
func items(list ...any) (b []byte) {
	for i := 0; i < len(list); i += 3 {
		item := list[i+2].([]byte)
		b = binary.NativeEndian.AppendUint64(b, 7) // transaction
		b = binary.NativeEndian.AppendUint64(b, uint64(list[i].(int)))
		b = binary.NativeEndian.AppendUint64(b, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(list[i+1].(int)))
		b = append(binary.NativeEndian.AppendUint32(b, uint32(len(item))), item...)
	}
	return b
}

// FuzzInodes reads answers of searches: nothing is read beyond an item, what is kept is bounded, and only what was asked for is found.
func FuzzInodes(f *testing.F) {
	inode := make([]byte, inodeItemSize)
	binary.LittleEndian.PutUint64(inode[16:], 3)
	binary.LittleEndian.PutUint32(inode[52:], unix.S_IFREG|0o644)
	xattr := make([]byte, dirItemHeader, 64)
	xattr[25], xattr[27] = 1, 6
	xattr = append(xattr, "user.av"...)
	f.Add(uint32(4), items(300, inodeItem, inode, 300, xattrItem, append(bytes.Clone(xattr), xattr...), 300, extentData, extentItem(3, 0, 0, 0, 'a', 'b', 'c'), 301, inodeItem, inode))
	f.Add(uint32(3), items(299, inodeItem, inode, 302, inodeItem, inode, 302, extentData, extentItem(8192, 0, 0, 1, regular(1<<20, 8192)...)))
	f.Add(uint32(9), items(300, xattrItem, xattr, 300, extentData, []byte{1}, 302, inodeItem, inode[:80]))
	f.Fuzz(func(t *testing.T, n uint32, b []byte) {
		s := inodeSearch{wanted: []uint64{300, 302}, found: map[uint64]*Inode{}, room: 1000}
		last, used, err := eachItem(b, n, s.item)
		if err == nil && used > len(b) {
			t.Errorf("%d bytes of %d were used", used, len(b))
		}
		if ino, typ, offset := s.next(last); ino < last.ino && last.ino != ^uint64(0) || ino == last.ino && (typ < last.typ || typ == last.typ && offset <= last.offset) {
			t.Errorf("the key behind %+v is %d %d %d", last, ino, typ, offset)
		}
		s.end()
		kept := 0
		for ino, f := range s.found {
			kept += len(f.Inline)
			for _, x := range f.Xattrs {
				kept += len(x.Name) + len(x.Value)
			}
			if ino != 300 && ino != 302 || f.Stat.Ino != ino || f.Layout == LayoutInline && uint64(len(f.Inline)) != f.Stat.Size {
				t.Errorf("inode %d: %+v", ino, f)
			}
		}
		if kept > 1000 {
			t.Errorf("%d bytes were kept", kept)
		}
	})
}
