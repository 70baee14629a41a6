package fusefs

import (
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What of the protocol is read and written here and not by the library: headers, sizes, notifications, backing files (linux/fuse.h).

// Of struct fuse_in_header: length u32, opcode u32, unique u64, node u64, uid u32, gid u32, pid u32, extensions u16, padding u16.
const (
	headerSize   = 40
	headerOpcode = 4
	headerPid    = 32
)

const (
	opLookup       = 1
	opForget       = 2
	opGetattr      = 3
	opSetattr      = 4
	opReadlink     = 5
	opSymlink      = 6
	opMknod        = 8
	opMkdir        = 9
	opUnlink       = 10
	opRmdir        = 11
	opRename       = 12
	opLink         = 13
	opOpen         = 14
	opRead         = 15
	opStatfs       = 17
	opRelease      = 18
	opSetxattr     = 21
	opGetxattr     = 22
	opListxattr    = 23
	opRemovexattr  = 24
	opOpendir      = 27
	opReaddir      = 28
	opReleasedir   = 29
	opCreate       = 35
	opInterrupt    = 36
	opIoctl        = 39
	opNotifyReply  = 41
	opBatchForget  = 42
	opReaddirplus  = 44
	opRename2      = 45
	opTmpfile      = 51
	opStatx        = 52
	setattrValid   = headerSize      // u32 of struct fuse_setattr_in
	readSize       = headerSize + 16 // u32 of struct fuse_read_in
	getxattrSize   = headerSize      // u32 of struct fuse_getxattr_in
	ioctlOutSize   = headerSize + 28 // u32 of struct fuse_ioctl_in
	longestStruct  = 288             // of those that follow the header of an answer: fuse_statx_out
	longestTarget  = unix.PathMax    // of a symbolic link, in bytes
	mostOfAnAnswer = maxWrite        // of data; the mount says so for reads (max_read), everything else is far less
)

func opcode(request []byte) uint32 { return binary.NativeEndian.Uint32(request[headerOpcode:]) }

// quick reports whether a request takes no time where its volume is complete: it is about names and attributes, not about data or durability.
func quick(request []byte) bool {
	switch opcode(request) {
	case opLookup, opForget, opGetattr, opReadlink, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink, opOpen, opStatfs, opRelease,
		opSetxattr, opGetxattr, opListxattr, opRemovexattr, opOpendir, opReaddir, opReleasedir, opCreate, opInterrupt, opBatchForget, opReaddirplus,
		opRename2, opTmpfile, opStatx:
		return true
	case opSetattr:
		return len(request) >= setattrValid+4 && binary.NativeEndian.Uint32(request[setattrValid:])&fuse.FATTR_SIZE == 0
	}
	return false
}

// fromKernel reports whether a request is the kernel's own, so that it names nobody who asks.
func fromKernel(request []byte) bool {
	switch opcode(request) {
	case opForget, opBatchForget, opRelease, opReleasedir, opInterrupt, opNotifyReply:
		return true
	}
	return false
}

// answered reports whether the kernel waits for an answer.
func answered(request []byte) bool {
	switch opcode(request) {
	case opForget, opBatchForget, opNotifyReply, opInterrupt:
		return false
	}
	return true
}

// answerSize is how many bytes an answer may have.
func answerSize(request []byte) int {
	at := 0
	switch opcode(request) {
	case opRead, opReaddir, opReaddirplus:
		at = readSize
	case opGetxattr, opListxattr:
		at = getxattrSize
	case opIoctl:
		at = ioctlOutSize
	}
	size := replyHeader + longestStruct
	if opcode(request) == opReadlink {
		return replyHeader + longestTarget
	}
	if at != 0 && len(request) >= at+4 {
		size += int(min(binary.NativeEndian.Uint32(request[at:]), mostOfAnAnswer))
	}
	return size
}

// invalidate has the kernel forget the attributes of a node, and its pages of [off, off+n) where off is not negative; n 0: to the end.
// It waits until pages that were stored to are written, for which other requests have to be answered (FUSE_NOTIFY_INVAL_INODE, 2).
func (s *server) invalidate(node uint64, off, n int64) {
	var msg [40]byte // struct fuse_out_header, and struct fuse_notify_inval_inode_out: node, offset, length
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], 2)
	binary.NativeEndian.PutUint64(msg[16:], node)
	binary.NativeEndian.PutUint64(msg[24:], uint64(off))
	binary.NativeEndian.PutUint64(msg[32:], uint64(n))
	// ENOENT, where the kernel has no such inode any more, is as good.
	if err := s.notify(msg[:]); err != nil && err != unix.ENOENT {
		s.f.opt.Log.Debug().Err(err).Uint64("node", node).Msg("the kernel was not told of a change")
	}
}

const (
	iocBackingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	iocBackingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

// register makes the file fd known to the kernel as a backing file.
func (s *server) register(fd int) (id int32, err error) {
	m := fuse.BackingMap{Fd: int32(fd)}
	r, errno := s.ioctl(iocBackingOpen, unsafe.Pointer(&m))
	if errno != 0 {
		return 0, errno
	}
	return int32(r), nil
}

// unregister ends what register began.
func (s *server) unregister(id int32) {
	s.ioctl(iocBackingClose, unsafe.Pointer(&id)) // an error says that there was no such id
}
