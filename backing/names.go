package backing

import (
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"
)

const (
	inodeRefItem    = 12 // BTRFS_INODE_REF_KEY: offset is the directory; struct btrfs_inode_ref: index 8, name_len 2, name
	inodeExtrefItem = 13 // BTRFS_INODE_EXTREF_KEY: struct btrfs_inode_extref: parent 8, index 8, name_len 2, name
)

// InodeName is one name of an inode: that of a directory, and the one in it.
type InodeName struct {
	Dir  uint64
	Name string
}

// nameBuffer has room for every item, which fits in a node of at most 64 KiB, twice: a search that filled less than half is at its end.
const nameBuffer = 128 << 10

var nameBuffers = sync.Pool{New: func() any { b := make([]byte, int(unsafe.Sizeof(searchKey{}))+8+nameBuffer); return &b }}

// Names returns all names of inode ino in t, none where there is no such
// inode; the root directory has one, of itself. They come from the tree itself, so they are those of the last
// commit: complete for a snapshot. It needs CAP_SYS_ADMIN.
func (t *Tree) Names(ino uint64) ([]InodeName, error) {
	var names []InodeName
	p := nameBuffers.Get().(*[]byte)
	defer nameBuffers.Put(p)
	buf := *p
	key := searchKey{
		treeID: t.rootID, minObjectID: ino, maxObjectID: ino, maxOffset: ^uint64(0), maxTransid: ^uint64(0),
		minType: inodeRefItem, maxType: inodeExtrefItem,
	}
	for {
		key.nrItems = ^uint32(0)
		*(*searchKey)(unsafe.Pointer(&buf[0])) = key
		binary.NativeEndian.PutUint64(buf[unsafe.Sizeof(key):], nameBuffer)
		if err := ioctl(t.root, iocTreeSearchV2, unsafe.Pointer(&buf[0])); err != nil {
			return nil, pathError("search the tree of", t.path, err)
		}
		used := 0
		rest := buf[unsafe.Sizeof(key)+8:]
		for n := (*searchKey)(unsafe.Pointer(&buf[0])).nrItems; n > 0; n-- {
			offset := binary.NativeEndian.Uint64(rest[16:])
			typ := binary.NativeEndian.Uint32(rest[24:])
			size := int(binary.NativeEndian.Uint32(rest[28:]))
			var err error
			if names, err = appendNames(names, typ, offset, rest[searchHeader:searchHeader+size]); err != nil {
				return nil, fmt.Errorf("search the tree of %s: inode %d: %w", t.path, ino, err)
			}
			rest = rest[searchHeader+size:]
			used += searchHeader + size
			key.minType, key.minOffset = typ, offset+1
			if offset == ^uint64(0) {
				key.minType, key.minOffset = typ+1, 0
			}
		}
		if used < nameBuffer/2 || key.minType > inodeExtrefItem {
			return names, nil
		}
	}
}

func appendNames(names []InodeName, typ uint32, offset uint64, item []byte) ([]InodeName, error) {
	for len(item) > 0 {
		dir, header := offset, 10
		if typ == inodeExtrefItem {
			header = 18
		}
		if len(item) < header {
			return nil, fmt.Errorf("reference item of %d bytes", len(item))
		}
		if typ == inodeExtrefItem {
			dir = binary.LittleEndian.Uint64(item)
		}
		n := int(binary.LittleEndian.Uint16(item[header-2:]))
		if len(item) < header+n {
			return nil, fmt.Errorf("reference item of %d bytes", len(item))
		}
		names = append(names, InodeName{dir, string(item[header : header+n])})
		item = item[header+n:]
	}
	return names, nil
}
