package backing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inode is what a subvolume's tree holds of a regular file.
type Inode struct {
	Stat   unix.Statx_t // Ino, Mode, Uid, Gid, Nlink, Size, Mtime, Ctime and Btime as Statx has them; nothing else
	Flags  uint32       // as GetFlags has them
	Xattrs []Xattr      // in the file system's order
	Layout Layout
	Inline []byte // the whole file where the layout is LayoutInline
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Layout is what the tree says of where a file's content is.
type Layout uint8

const (
	// LayoutUnknown: the file itself has to be asked (DataRanges) and read.
	LayoutUnknown Layout = iota
	// LayoutInline: the content is in Inode.Inline. A file of no bytes is one of these.
	LayoutInline
	// LayoutWhole: one extent of data has all of it; there is no hole.
	LayoutWhole
)

// Bounds of Inodes, in bytes. One item has at most 64 KiB less a header, as the largest node of BTRFS.
const (
	inodesBuffer = 256 << 10
	maxItem      = 64 << 10
	maxInode     = 128 << 10 // attributes of one inode
	maxInodes    = 4 << 20   // attributes and inline content of one call
)

// inodesGap is how far apart the numbers of inodes may be that one search brings: what is between them comes along.
const inodesGap = 16

var inodesBuffers = sync.Pool{New: func() any { b := make([]byte, int(unsafe.Sizeof(searchKey{}))+8+inodesBuffer); return &b }}

// Inodes reads regular files of t by number, which it puts in order, from the tree itself: some searches in place of a statx, an open, a question
// for flags, and two or more for attributes, for each. Only for a read-only snapshot: of a subvolume that is written to the tree lags behind.
//
// What is no regular file, is not there, has more than fits, or has something that is not understood, is left out: those the caller asks for in
// the ordinary way. An error means that no tree can be searched, as without CAP_SYS_ADMIN. Safe for concurrent use.
func (t *Tree) Inodes(inos []uint64) (map[uint64]*Inode, error) {
	slices.Sort(inos)
	inos = slices.Compact(inos)
	p := inodesBuffers.Get().(*[]byte)
	defer inodesBuffers.Put(p)
	s := inodeSearch{found: make(map[uint64]*Inode, len(inos)), room: maxInodes}
	for len(inos) > 0 && s.room > 0 {
		n := 1
		for n < len(inos) && inos[n]-inos[n-1] <= inodesGap {
			n++
		}
		s.wanted = inos[:n]
		if err := t.searchInodes(*p, &s); err != nil {
			return nil, err
		}
		inos = inos[n:]
	}
	return s.found, nil
}

// searchInodes searches for the inodes that s wants next.
func (t *Tree) searchInodes(buf []byte, s *inodeSearch) error {
	key := searchKey{
		treeID: t.rootID, minObjectID: s.wanted[0], maxObjectID: s.wanted[len(s.wanted)-1],
		minType: inodeItem, maxType: extentData, maxOffset: ^uint64(0), maxTransid: ^uint64(0),
	}
	for {
		key.nrItems = ^uint32(0)
		*(*searchKey)(unsafe.Pointer(&buf[0])) = key
		binary.NativeEndian.PutUint64(buf[unsafe.Sizeof(key):], inodesBuffer)
		if err := ioctl(t.root, iocTreeSearchV2, unsafe.Pointer(&buf[0])); err != nil {
			return pathError("search the tree of", t.path, err)
		}
		n := (*searchKey)(unsafe.Pointer(&buf[0])).nrItems
		last, used, err := eachItem(buf[unsafe.Sizeof(key)+8:][:inodesBuffer], n, s.item)
		if err != nil {
			return fmt.Errorf("search the tree of %s: %w", t.path, err)
		}
		// It ends at the end of the keys, or where the next item does not fit.
		if used < inodesBuffer-maxItem-searchHeader || s.room <= 0 {
			s.end()
			return nil
		}
		ino, typ, offset := s.next(last)
		if ino > key.maxObjectID {
			s.end()
			return nil
		}
		key.minObjectID, key.minType, key.minOffset = ino, typ, offset
	}
}

// itemKey is the key of an item.
type itemKey struct {
	ino    uint64
	typ    uint32
	offset uint64
}

var errItems = errors.New("the answer of a search ends within an item")

// eachItem calls fn for n items in b, as a search returns them, and returns the last one's key and how many bytes all take.
func eachItem(b []byte, n uint32, fn func(k itemKey, item []byte)) (last itemKey, used int, err error) {
	rest := b
	for ; n > 0; n-- {
		if len(rest) < searchHeader {
			return last, 0, errItems
		}
		last = itemKey{binary.NativeEndian.Uint64(rest[8:]), binary.NativeEndian.Uint32(rest[24:]), binary.NativeEndian.Uint64(rest[16:])}
		size := uint64(binary.NativeEndian.Uint32(rest[28:]))
		rest = rest[searchHeader:]
		if size > uint64(len(rest)) {
			return last, 0, errItems
		}
		fn(last, rest[:size:size])
		rest = rest[size:]
	}
	return last, len(b) - len(rest), nil
}
