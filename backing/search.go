package backing

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unsafe"
)

// searchBuffer is what one call of EachXattr's ioctl may return, in bytes.
const searchBuffer = 256 << 10

const (
	xattrItem     = 24 // BTRFS_XATTR_ITEM_KEY
	dirItemHeader = 30 // struct btrfs_dir_item: location 17, transid 8, data_len 2, name_len 2, type 1
	searchHeader  = 32 // struct btrfs_ioctl_search_header
	lastObjectID  = ^uint64(255)
)

var iocTreeSearchV2 = ioc(iocRead|iocWrite, 17, unsafe.Sizeof(searchKey{})+8)

// EachXattr calls fn for every inode of t from number from on that has the
// extended attribute name, ascending by inode number, with its value, which
// is valid during the call only. It finds them in the subvolume's tree, by no
// name, so that a rename meanwhile hides none; an attribute set or removed
// meanwhile may be seen or not. fn may change the tree. An error of fn ends
// the search and is returned. It needs CAP_SYS_ADMIN.
func (t *Tree) EachXattr(ctx context.Context, name string, from uint64, fn func(ino uint64, value []byte) error) error {
	// A search's limits are those of whole keys (object, type, offset), so
	// everything between comes along and is dropped here.
	hash := uint64(^crc32.Update(1, crc32.MakeTable(crc32.Castagnoli), []byte(name)))
	buf := make([]byte, int(unsafe.Sizeof(searchKey{}))+8+searchBuffer)
	key := searchKey{
		treeID: t.rootID, minObjectID: max(from, RootIno), maxObjectID: lastObjectID,
		maxOffset: ^uint64(0), maxTransid: ^uint64(0), minType: xattrItem, maxType: xattrItem,
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		key.nrItems = ^uint32(0)
		*(*searchKey)(unsafe.Pointer(&buf[0])) = key
		binary.NativeEndian.PutUint64(buf[unsafe.Sizeof(key):], searchBuffer)
		if err := ioctl(t.root, iocTreeSearchV2, unsafe.Pointer(&buf[0])); err != nil {
			return pathError("search the tree of", t.path, err)
		}
		n := (*searchKey)(unsafe.Pointer(&buf[0])).nrItems
		if n == 0 {
			return nil
		}
		rest := buf[unsafe.Sizeof(key)+8:]
		for ; n > 0; n-- {
			ino := binary.NativeEndian.Uint64(rest[8:])
			offset := binary.NativeEndian.Uint64(rest[16:])
			typ := binary.NativeEndian.Uint32(rest[24:])
			size := binary.NativeEndian.Uint32(rest[28:])
			item := rest[searchHeader : searchHeader+size]
			rest = rest[searchHeader+size:]
			if typ == xattrItem && offset == hash {
				value, ok, err := findXattr(item, name)
				if err != nil {
					return fmt.Errorf("search the tree of %s: inode %d: %w", t.path, ino, err)
				}
				if ok {
					if err := fn(ino, value); err != nil {
						return err
					}
				}
			}
			key.minObjectID, key.minType, key.minOffset = next(ino, typ, offset)
		}
	}
}

// next is the smallest key above the given one. Types other than that of
// attributes are jumped over where the order of keys allows it.
func next(ino uint64, typ uint32, offset uint64) (uint64, uint32, uint64) {
	switch {
	case typ < xattrItem:
		return ino, xattrItem, 0
	case typ == xattrItem && offset < ^uint64(0):
		return ino, xattrItem, offset + 1
	default:
		return ino + 1, xattrItem, 0
	}
}

// findXattr looks for name in an item, which holds several attributes where
// their names hash alike.
func findXattr(item []byte, name string) (value []byte, ok bool, err error) {
	err = eachXattr(item, func(n, v []byte) bool {
		if ok = string(n) == name; ok {
			value = v
		}
		return !ok
	})
	return value, ok, err
}

// eachXattr calls fn for each attribute in an item, until fn returns false.
func eachXattr(item []byte, fn func(name, value []byte) bool) error {
	for len(item) > 0 {
		if len(item) < dirItemHeader {
			return fmt.Errorf("attribute item of %d bytes", len(item))
		}
		dataLen := int(binary.LittleEndian.Uint16(item[25:]))
		nameLen := int(binary.LittleEndian.Uint16(item[27:]))
		if len(item) < dirItemHeader+nameLen+dataLen {
			return fmt.Errorf("attribute item of %d bytes", len(item))
		}
		body := item[dirItemHeader:]
		if !fn(body[:nameLen], body[nameLen:nameLen+dataLen]) {
			return nil
		}
		item = body[nameLen+dataLen:]
	}
	return nil
}
