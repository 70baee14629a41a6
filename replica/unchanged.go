package replica

import (
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// An inode that has the same number, size, owner and times in two snapshots is the same, but for two cases:
//
//   - A clock ticks more slowly than files change: a write may leave the change time that was there already.
//   - A snapshot may hold the times of a write whose data comes to the disk later, and is in the next snapshot only.
//
// Both happen near the time of the first snapshot, so inodes that changed in the minute before it (data is written
// back within 35 s, unless told otherwise) or after are looked up in the tree itself: BTRFS
// notes at each inode the transaction that changed it last, and the one that brings late data is a later one.
const racy = time.Minute

// origin is the local snapshot that a base was made from.
type origin struct {
	tree  *backing.Tree
	info  backing.Subvolume
	since int64 // Unix seconds: change times from here on say little
}

func openOrigin(path string) (*origin, error) {
	info, err := backing.Info(path)
	if err != nil {
		return nil, err
	}
	if !info.Readonly {
		return nil, fmt.Errorf("%s: %w", path, ErrWritable)
	}
	tree, err := backing.OpenTree(path)
	if err != nil {
		return nil, err
	}
	return &origin{tree: tree, info: info, since: info.Created.Add(-racy).Unix()}, nil
}

// unchanged tells whether now, of the snapshot whose tree is given, is what was was in o.
func (o *origin) unchanged(tree *backing.Tree, now, was *unix.Statx_t) (bool, error) {
	if now.Ino != was.Ino || now.Btime != was.Btime || now.Mode != was.Mode || now.Size != was.Size ||
		now.Ctime != was.Ctime || now.Mtime != was.Mtime || now.Nlink != was.Nlink ||
		now.Uid != was.Uid || now.Gid != was.Gid {
		return false, nil
	}
	if now.Ctime.Sec < o.since {
		return true, nil
	}
	a, err := lastChange(tree.RootFD(), now.Ino)
	if err != nil {
		return false, err
	}
	b, err := lastChange(o.tree.RootFD(), was.Ino)
	return err == nil && a == b, err
}

// searchArgs is struct btrfs_ioctl_search_args of include/uapi/linux/btrfs.h.
type searchArgs struct {
	treeID                   uint64
	minObjectID, maxObjectID uint64
	minOffset, maxOffset     uint64
	minTransid, maxTransid   uint64
	minType, maxType         uint32
	nrItems                  uint32
	_                        uint32
	_                        [4]uint64
	buf                      [3992]byte
}

const (
	iocTreeSearch = 3<<30 | 4096<<16 | 0x94<<8 | 17
	inodeItemKey  = 1 // struct btrfs_inode_item: generation 8, transid 8, ...
	searchHeader  = 32
)

// lastChange returns the transaction that changed inode ino last, in the subvolume that fd is in.
func lastChange(fd int, ino uint64) (uint64, error) {
	a := searchArgs{minObjectID: ino, maxObjectID: ino, minType: inodeItemKey, maxType: inodeItemKey,
		maxTransid: ^uint64(0), nrItems: 1}
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocTreeSearch, uintptr(unsafe.Pointer(&a)))
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, fmt.Errorf("look up inode %d: %w", ino, e)
		}
		break
	}
	if size := binary.NativeEndian.Uint32(a.buf[28:]); a.nrItems == 0 || size < 16 {
		return 0, fmt.Errorf("look up inode %d: not in the tree", ino)
	}
	return binary.LittleEndian.Uint64(a.buf[searchHeader+8:]), nil
}
