package backing

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers and layouts are those of the kernel's include/uapi/linux/btrfs.h.
// A request number is made of direction, size of the argument, 0x94, number.
const (
	iocNone  = 0
	iocWrite = 1
	iocRead  = 2

	btrfsMagic = 0x94
)

func ioc(dir, nr, size uintptr) uintptr { return dir<<30 | size<<16 | btrfsMagic<<8 | nr }

var (
	iocSync           = ioc(iocNone, 8, 0)
	iocTreeSearch     = ioc(iocRead|iocWrite, 17, unsafe.Sizeof(treeSearchArgs{}))
	iocWaitSync       = ioc(iocWrite, 22, 8)
	iocStartSync      = ioc(iocRead, 24, 8)
	iocSubvolGetFlags = ioc(iocRead, 25, 8)
	iocSubvolSetFlags = ioc(iocWrite, 26, 8)
	iocDevInfo        = ioc(iocRead|iocWrite, 30, unsafe.Sizeof(devInfoArgs{}))
	iocFSInfo         = ioc(iocRead, 31, unsafe.Sizeof(fsInfoArgs{}))
	iocQuotaCtl       = ioc(iocRead|iocWrite, 40, unsafe.Sizeof(quotaCtlArgs{}))
	iocQgroupLimit    = ioc(iocRead, 43, unsafe.Sizeof(qgroupLimitArgs{}))
	iocGetSubvolInfo  = ioc(iocRead, 60, unsafe.Sizeof(subvolInfoArgs{}))
	iocSubvolRootref  = ioc(iocRead|iocWrite, 61, unsafe.Sizeof(rootrefArgs{}))
)

type timespec struct {
	sec  uint64
	nsec uint32
	_    uint32
}

type subvolInfoArgs struct {
	treeID       uint64
	name         [256]byte
	parentID     uint64
	dirID        uint64
	generation   uint64
	flags        uint64
	uuid         [16]byte
	parentUUID   [16]byte
	receivedUUID [16]byte
	ctransid     uint64
	otransid     uint64
	stransid     uint64
	rtransid     uint64
	ctime        timespec
	otime        timespec
	stime        timespec
	rtime        timespec
	_            [8]uint64
}

type rootrefArgs struct {
	minTreeID uint64
	refs      [255]struct{ treeID, dirID uint64 }
	numItems  uint8
	_         [7]uint8
}

type quotaCtlArgs struct{ cmd, status uint64 }

type qgroupLimitArgs struct {
	qgroupID uint64
	flags    uint64
	maxRfer  uint64
	maxExcl  uint64
	rsvRfer  uint64
	rsvExcl  uint64
}

type searchKey struct {
	treeID                   uint64
	minObjectID, maxObjectID uint64
	minOffset, maxOffset     uint64
	minTransid, maxTransid   uint64
	minType, maxType         uint32
	nrItems                  uint32
	_                        uint32
	_                        [4]uint64
}

type treeSearchArgs struct {
	key searchKey
	buf [4096 - unsafe.Sizeof(searchKey{})]byte
}

type fsInfoArgs struct {
	maxID          uint64
	numDevices     uint64
	fsid           [16]byte
	nodeSize       uint32
	sectorSize     uint32
	cloneAlignment uint32
	csumType       uint16
	csumSize       uint16
	flags          uint64
	generation     uint64
	metadataUUID   [16]byte
	_              [944]byte
}

type devInfoArgs struct {
	devID      uint64
	uuid       [16]byte
	bytesUsed  uint64
	totalBytes uint64
	fsid       [16]byte
	_          [377]uint64
	path       [1024]byte
}

// ioctl calls request nr on fd with arg, again where a signal came between
// (the Go runtime's own do).
func ioctl(fd int, nr uintptr, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nr, uintptr(arg))
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return e
		}
	}
}

// openDir opens the directory path for ioctls; a symbolic link is refused.
func openDir(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
