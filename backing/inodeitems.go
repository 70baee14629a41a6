package backing

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// Types and layouts of items are those of the kernel's include/uapi/linux/btrfs_tree.h; all numbers are little endian.
const (
	inodeItem     = 1   // BTRFS_INODE_ITEM_KEY
	extentData    = 108 // BTRFS_EXTENT_DATA_KEY
	inodeItemSize = 160 // struct btrfs_inode_item
	inlineHeader  = 21  // struct btrfs_file_extent_item up to disk_bytenr, where the bytes of an inline extent begin
	extentSize    = 53  // all of it

	extentInline  = 0 // BTRFS_FILE_EXTENT_INLINE
	extentRegular = 1 // BTRFS_FILE_EXTENT_REG
)

// inodeFlags are the flags of an inode item (BTRFS_INODE_*) with those of GetFlags that the kernel shows for them.
var inodeFlags = []struct {
	bit  uint64
	flag uint32
}{
	{1 << 1, FlagNoCow},
	{1 << 5, 0x8}, // FS_SYNC_FL
	{1 << 6, FlagImmutable},
	{1 << 7, FlagAppend},
	{1 << 8, 0x40},      // FS_NODUMP_FL
	{1 << 9, 0x80},      // FS_NOATIME_FL
	{1 << 10, 0x10000},  // FS_DIRSYNC_FL
	{1 << 32, 0x100000}, // FS_VERITY_FL, BTRFS_INODE_RO_VERITY
}

const (
	inodeNoCompress = 1 << 3
	inodeCompress   = 1 << 11
	flagNoCompress  = 0x400 // FS_NOCOMP_FL
)

// inodeSearch gathers inodes from items, which come in the order of their keys.
type inodeSearch struct {
	wanted []uint64 // ascending
	found  map[uint64]*Inode
	room   int // bytes

	ino   uint64 // whose items come
	now   *Inode // nil: it is not wanted, is left out, or has all it needs
	bytes int    // attributes of now
}

// item takes one item.
func (s *inodeSearch) item(k itemKey, item []byte) {
	if k.ino != s.ino {
		s.end()
		s.ino, s.bytes = k.ino, 0
		if _, ok := slices.BinarySearch(s.wanted, k.ino); ok && k.typ == inodeItem {
			s.now = parseInode(k.ino, item)
		}
		return
	}
	if s.now == nil {
		return
	}
	switch k.typ {
	case xattrItem:
		if s.bytes += len(item); s.bytes > maxInode || !s.now.addXattrs(item) {
			s.now = nil
		}
	case extentData:
		s.now.setLayout(k.offset, item)
		s.end()
	}
}

// end puts what there is of the inode at hand to those that were found: no more is needed of it.
func (s *inodeSearch) end() {
	if s.now == nil {
		return
	}
	if s.room -= s.bytes + len(s.now.Inline); s.room > 0 {
		s.found[s.ino] = s.now
	}
	s.now = nil
}

// next is the smallest key behind last that matters.
func (s *inodeSearch) next(last itemKey) (ino uint64, typ uint32, offset uint64) {
	switch {
	case s.now == nil || last.typ >= extentData: // the rest of it is nothing to us
		return last.ino + 1, inodeItem, 0
	case last.typ > xattrItem:
		return last.ino, extentData, 0
	case last.offset == ^uint64(0):
		return last.ino, last.typ + 1, 0
	}
	return last.ino, last.typ, last.offset + 1
}

// parseInode reads an inode item; nil where it is none of a regular file.
func parseInode(ino uint64, b []byte) *Inode {
	if len(b) < inodeItemSize {
		return nil
	}
	le := binary.LittleEndian
	mode := le.Uint32(b[52:])
	if mode&unix.S_IFMT != unix.S_IFREG || mode>>16 != 0 {
		return nil
	}
	time := func(at int) unix.StatxTimestamp {
		return unix.StatxTimestamp{Sec: int64(le.Uint64(b[at:])), Nsec: le.Uint32(b[at+8:])}
	}
	n := &Inode{Stat: unix.Statx_t{
		Ino: ino, Mode: uint16(mode), Size: le.Uint64(b[16:]), Nlink: le.Uint32(b[40:]), Uid: le.Uint32(b[44:]), Gid: le.Uint32(b[48:]),
		Ctime: time(124), Mtime: time(136), Btime: time(148),
	}}
	bits := le.Uint64(b[64:])
	for _, f := range inodeFlags {
		if bits&f.bit != 0 {
			n.Flags |= f.flag
		}
	}
	switch {
	case bits&inodeNoCompress != 0:
		n.Flags |= flagNoCompress
	case bits&inodeCompress != 0:
		n.Flags |= FlagCompress
	}
	if n.Stat.Size == 0 {
		n.Layout = LayoutInline
	}
	return n
}

// addXattrs reads an attribute item, which has several where their names hash alike. It returns false where that is damaged.
func (n *Inode) addXattrs(item []byte) bool {
	return eachXattr(item, func(name, value []byte) bool {
		n.Xattrs = append(n.Xattrs, Xattr{string(name), slices.Clone(value)})
		return true
	}) == nil
}

// setLayout looks at the first extent of the file, which is at offset.
func (n *Inode) setLayout(offset uint64, b []byte) {
	size := n.Stat.Size
	if offset != 0 || size == 0 || len(b) < inlineHeader {
		return
	}
	le := binary.LittleEndian
	compressed, encoded := b[16] != 0, b[17] != 0 || le.Uint16(b[18:]) != 0
	switch b[20] {
	case extentInline:
		// One that the file was truncated or extended in has another size.
		if data := b[inlineHeader:]; !compressed && !encoded && uint64(len(data)) == size && le.Uint64(b[8:]) == size {
			n.Layout, n.Inline = LayoutInline, slices.Clone(data)
		}
	case extentRegular:
		// An address of 0 is a hole. The file system reads it, compressed or not.
		if len(b) == extentSize && !encoded && le.Uint64(b[21:]) != 0 && le.Uint64(b[45:]) >= size {
			n.Layout = LayoutWhole
		}
	}
}
