package fusefs

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Extended attributes are reached through /proc/self/fd, which leads to the
// inode itself, whatever it is: devices and symbolic links cannot be opened.

func hiddenXattr(name string) bool { return strings.HasPrefix(name, HiddenXattr) }

// look runs do with a descriptor of ino while no fetch changes its attributes.
func (f *FS) look(ino uint64, do func(fd int) error) error {
	fd, release, err := f.reach(ino)
	if err != nil {
		return err
	}
	defer release()
	if !f.res.Complete() {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			return f.res.Look(ino, func() error { return do(fd) })
		}
	}
	return do(fd)
}

// GetXAttr is FUSE_GETXATTR.
func (f *FS) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	c := f.begin("getxattr", cancel, h)
	if hiddenXattr(attr) {
		return 0, c.end(unix.ENODATA)
	}
	var open *node
	if attr == capsXattr {
		if open = f.held(c.ino); open != nil {
			defer f.drop(open)
			if open.noCaps.Load() {
				return 0, c.end(unix.ENODATA)
			}
		}
	}
	var n int
	err := f.look(c.ino, func(fd int) (err error) {
		if n, err = unix.Fgetxattr(fd, attr, dest); err == unix.EBADF { // O_PATH
			n, err = unix.Getxattr(procPath(fd), attr, dest)
		}
		if err == unix.ENODATA && attr == capsXattr {
			n, err = f.lostCaps(fd, dest)
		}
		return err
	})
	if open != nil {
		open.toldCaps(c, err == nil && len(dest) == 0)
	}
	if err != nil {
		return 0, c.end(err)
	}
	return uint32(n), c.end(nil)
}

// lostCaps is getxattr of the capabilities that the inode behind fd should have, where it has none.
func (f *FS) lostCaps(fd int, dest []byte) (int, error) {
	res, ok := f.res.(Caps)
	if !ok || f.res.Complete() {
		return 0, unix.ENODATA
	}
	caps, err := res.Caps(procPath(fd))
	switch {
	case err != nil:
		return 0, err
	case len(caps) == 0:
		return 0, unix.ENODATA
	case len(dest) == 0:
		return len(caps), nil
	case len(dest) < len(caps):
		return 0, unix.ERANGE
	}
	return copy(dest, caps), nil
}

// Before a write, a truncation, a preallocation or a copy the kernel takes the capabilities of a file away, by a REMOVEXATTR of its own. Of a file that
// was made immutable or append-only after it was opened BTRFS lets a write take them, and nobody remove them. The kernel knows no such flags
// of a FUSE file, so both come here. What tells them apart: the kernel asks for the size of the capabilities just before, and who asks by
// a system call is always given them as well. An answer that is wrong all the same (that the kernel asked, and did not go on, for which
// it has hardly a reason) says of a removal that it was done where it had to fail.

// toldCaps notes that the caller was told that there are capabilities, and was not given them.
func (n *node) toldCaps(c *call, size bool) {
	if size {
		n.toldTo.Store(uint64(c.pid) + 1)
	} else {
		n.toldTo.Store(0)
	}
}

// sparesCaps reports whether a removal of the capabilities is the kernel's own, of a file that is immutable or append-only: it is left to the
// operation that follows, to which BTRFS says what is right, and which takes them away where it may be done.
func (f *FS) sparesCaps(c *call) bool {
	n := f.held(c.ino)
	if n == nil {
		return false
	}
	defer f.drop(n)
	return n.toldTo.Swap(0) == uint64(c.pid)+1 && f.steady(func() error { return n.frozen(false) }) == unix.EPERM
}

// maxXattrList is XATTR_LIST_MAX of the kernel.
const maxXattrList = 65536

// ListXAttr is FUSE_LISTXATTR, without our own marks.
func (f *FS) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	c := f.begin("listxattr", cancel, h)
	var list []byte
	err := f.look(c.ino, func(fd int) error {
		buf := make([]byte, maxXattrList)
		n, err := unix.Listxattr(procPath(fd), buf)
		if err == nil {
			list = buf[:n]
			if _, lost := f.lostCaps(fd, nil); lost == nil && !bytes.Contains(append([]byte{0}, list...), []byte("\x00"+capsXattr+"\x00")) {
				list = append(list, capsXattr+"\x00"...)
			}
		}
		return err
	})
	if err != nil {
		return 0, c.end(err)
	}
	shown := list[:0:0]
	for name := range bytes.SplitAfterSeq(list, []byte{0}) {
		if len(name) > 0 && !hiddenXattr(string(name)) {
			shown = append(shown, name...)
		}
	}
	if len(dest) > 0 && len(dest) < len(shown) {
		return uint32(len(shown)), c.end(unix.ERANGE)
	}
	copy(dest, shown)
	return uint32(len(shown)), c.end(nil)
}

// SetXAttr is FUSE_SETXATTR.
func (f *FS) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	c := f.begin("setxattr", cancel, &in.InHeader)
	if hiddenXattr(attr) {
		return c.end(unix.EPERM)
	}
	if attr == capsXattr {
		if n := f.held(c.ino); n != nil {
			n.noCaps.Store(false)
			f.drop(n)
		}
	}
	defer f.dirs.aclChanged(c.ino, attr)
	err := f.modify(c, c.ino, func(fd int) error {
		if err := unix.Setxattr(procPath(fd), attr, data, int(f.setting(c, fd, attr, in.Flags))); err != nil {
			return err
		}
		if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID == 0 || attr != "system.posix_acl_access" {
			return nil // the kernel sets the flag for a default ACL, too, which leaves the bit
		}
		// An ACL set by one who is not in the file's group takes the setgid bit; BTRFS sees only us, who may do all.
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_ISGID == 0 {
			return err
		}
		return unix.Chmod(procPath(fd), st.Mode&0o7777&^unix.S_ISGID)
	})
	return c.end(err)
}

// RemoveXAttr is FUSE_REMOVEXATTR.
func (f *FS) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	c := f.begin("removexattr", cancel, h)
	if hiddenXattr(attr) {
		return c.end(unix.ENODATA)
	}
	if attr == capsXattr && f.sparesCaps(c) {
		return c.end(nil)
	}
	defer f.dirs.aclChanged(c.ino, attr)
	return c.end(f.modify(c, c.ino, func(fd int) error {
		if f.removedXattr(c, fd, attr) {
			return nil
		}
		return unix.Removexattr(procPath(fd), attr)
	}))
}
