package fusefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The ioctls that are let through: inode flags, whose permissions the kernel has
// checked. We run as root, so any other one could do what its caller may not.
const (
	fsGetFlags  = 0x80086601 // FS_IOC_GETFLAGS
	fsSetFlags  = 0x40086602 // FS_IOC_SETFLAGS
	fsGetXattr  = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr  = 0x401c5820 // FS_IOC_FSSETXATTR
	ioctlDir    = 1 << 4     // FUSE_IOCTL_DIR
	flagsSize   = 4          // an int, whatever the number of the ioctl says
	fsxattrSize = 28         // struct fsxattr
)

// Flags of a file that make fetching into it impossible.
const (
	flImmutable  = 0x10 // FS_IMMUTABLE_FL
	flAppend     = 0x20 // FS_APPEND_FL
	xflImmutable = 0x08 // FS_XFLAG_IMMUTABLE
	xflAppend    = 0x10 // FS_XFLAG_APPEND
)

// Ioctl is FUSE_IOCTL.
func (f *FS) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	c := f.begin("ioctl", cancel, &in.InHeader)
	fd, nd, release, err := f.ioctlTarget(c, in)
	if err != nil {
		return c.end(err)
	}
	defer release()
	var buf [32]byte
	p := unsafe.Pointer(&buf[0])
	size, set, freezes := flagsSize, false, false
	switch in.Cmd {
	case fsGetFlags:
	case fsGetXattr:
		size = fsxattrSize
	case fsSetFlags, fsSetXattr:
		set = true
		bits := uint32(flImmutable | flAppend)
		if in.Cmd == fsSetXattr {
			size, bits = fsxattrSize, xflImmutable|xflAppend
		}
		if len(inbuf) < size {
			return c.end(unix.EINVAL)
		}
		copy(buf[:size], inbuf)
		freezes = *(*uint32)(p)&bits != 0
	default:
		return c.end(unix.ENOTTY)
	}
	do := func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(in.Cmd), uintptr(p)); errno != 0 {
			return errno
		}
		return nil
	}
	if set {
		err = f.setFlags(c, nd, freezes, do)
		f.forgetAttr(c.ino) // the kernel does not know that it changes the ctime
	} else if err = f.steady(do); err == nil {
		if len(outbuf) < size {
			return c.end(unix.EINVAL)
		}
		clear(outbuf)
		copy(outbuf, buf[:size])
	}
	return c.end(err)
}

// ioctlTarget is what an ioctl works on: a file by its handle, a directory, whose node is nil, by its node id.
func (f *FS) ioctlTarget(c *call, in *fuse.IoctlIn) (fd int, n *node, release func(), err error) {
	if in.Flags&ioctlDir != 0 {
		d, err := f.directory(c, c.ino)
		if err != nil {
			return -1, nil, nil, err
		}
		return d.fd, nil, d.release, nil
	}
	h, err := f.handles.get(in.Fh)
	if err != nil {
		return -1, nil, nil, err
	}
	return h.node.fdR, h.node, func() {}, nil
}

// setFlags runs do, which sets inode flags. Once a file is immutable or append-only nothing can be
// fetched into it, so everything is fetched before; a directory is filled before its flags are looked at.
func (f *FS) setFlags(c *call, n *node, freezes bool, do func() error) error {
	change := func() error { return f.change(do) }
	if n == nil {
		return change()
	}
	r := n.remote()
	if r == nil {
		return change()
	}
	if freezes {
		if err := r.Whole(c); err != nil {
			return err
		}
	}
	return r.Modify(c, change)
}
