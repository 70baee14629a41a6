package backing

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tree opens inodes of one subvolume by number, with open_by_handle_at(2),
// which needs CAP_DAC_READ_SEARCH. It keeps no state per inode.
// Safe for concurrent use.
type Tree struct {
	path   string
	root   int
	rootID uint64
	close  sync.Once
}

// OpenTree returns the Tree of the subvolume path; the caller closes it.
func OpenTree(path string) (*Tree, error) {
	t := &Tree{path: path, root: -1}
	err := withSubvolume("open tree", path, func(fd int) error {
		info, err := subvolInfo(fd)
		if err != nil {
			return err
		}
		t.rootID = info.treeID
		// A handle that cannot be opened shows a missing capability now and not at the first read.
		t.root, err = openHandle(fd, RootIno, info.treeID, unix.O_RDONLY|unix.O_DIRECTORY)
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Open returns a new descriptor of inode ino, O_CLOEXEC added; ESTALE where
// it is gone: deleted, and no longer open anywhere. An inode that was deleted and
// is still open can be opened again.
//
// flags are those of open(2). With O_PATH an inode of any type, a symbolic link
// too, gets a descriptor, and nothing is opened. Without O_PATH a FIFO waits for its other end, a device node OPENS THE
// DEVICE where the file system is not mounted nodev, a socket is ENXIO and a
// symbolic link ELOOP: take O_PATH and fstat for an inode whose type is not known; an inode never
// changes its type.
//
// O_CREAT, O_EXCL and O_TMPFILE mean nothing here. The descriptor is not fsynced but by Fsync.
func (t *Tree) Open(ino uint64, flags int) (fd int, err error) {
	return openHandle(t.root, ino, t.rootID, flags)
}

// RootFD is a directory descriptor of the subvolume's root, owned by t: not
// to be closed or read (ReadDir moves its position) by others.
func (t *Tree) RootFD() int { return t.root }

// RootID is the number of the subvolume's tree.
func (t *Tree) RootID() uint64 { return t.rootID }

// Path is what OpenTree was given.
func (t *Tree) Path() string { return t.path }

// Close frees RootFD. No other method may be running or be called later.
func (t *Tree) Close() error {
	var err error
	t.close.Do(func() { err = unix.Close(t.root) })
	return err
}

// handle is struct file_handle with BTRFS's short handle as the kernel's
// fs/btrfs/export.h has it: objectid, root objectid, generation, packed. Generation
// 0 stands for any, which is right as numbers are never used twice.
type handle struct {
	bytes uint32
	kind  int32
	fid   [20]byte
}

const fileidBtrfsWithoutParent = 0x4d

func openHandle(mount int, ino, root uint64, flags int) (int, error) {
	h := handle{bytes: uint32(len(handle{}.fid)), kind: fileidBtrfsWithoutParent}
	binary.NativeEndian.PutUint64(h.fid[0:], ino)
	binary.NativeEndian.PutUint64(h.fid[8:], root)
	flags |= unix.O_CLOEXEC | unix.O_LARGEFILE
	for {
		fd, _, e := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mount), uintptr(unsafe.Pointer(&h)), uintptr(flags))
		switch e {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		case unix.ENOENT: // never was, or its deletion is not yet cleaned up
			return -1, unix.ESTALE
		default:
			return -1, e
		}
	}
}
