package backing

import (
	"bytes"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// XattrCompression is BTRFS's property of a file or folder: "zstd", "lzo", "zlib", "none" or empty.
const XattrCompression = "btrfs.compression"

// MaxXattr is what name and value of one extended attribute may have together, in
// bytes, with BTRFS's usual nodes of 16 KiB (and no other of the same inode whose name has the same hash).
const MaxXattr = 16228

// Inode flags of include/uapi/linux/fs.h that GetFlags and SetFlags know, as lsattr(1) shows them.
const (
	FlagImmutable = 0x10     // i
	FlagAppend    = 0x20     // a
	FlagCompress  = 0x4      // c
	FlagNoCow     = 0x800000 // C
)

// fdPath is a path that the kernel resolves to exactly what fd refers to,
// a symbolic link included, and goes no further.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Getxattr returns an extended attribute of what fd, which may be O_PATH,
// refers to; ENODATA where it has none of that name.
func Getxattr(fd int, name string) ([]byte, error) {
	b, err := getGrowing(func(b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
	if err == unix.EBADF { // O_PATH
		path := fdPath(fd)
		b, err = getGrowing(func(b []byte) (int, error) { return unix.Getxattr(path, name, b) })
	}
	return b, wrap("get xattr "+name, err)
}

// Listxattr returns the names of the extended attributes of what fd, which
// may be O_PATH, refers to, in the file system's order.
func Listxattr(fd int) ([]string, error) {
	b, err := getGrowing(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if err == unix.EBADF {
		path := fdPath(fd)
		b, err = getGrowing(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	}
	if err != nil {
		return nil, wrap("list xattrs", err)
	}
	var names []string
	for name := range bytes.SplitSeq(b, []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names, nil
}

// Setxattr sets an extended attribute of what fd, which may be O_PATH, refers
// to; flags are XATTR_CREATE, XATTR_REPLACE or 0. It replaces a value whole, also
// in the eyes of a crash.
//
// ENOSPC is not always a full disk: it also stands for more than MaxXattr, and, depending on
// what else is near in BTRFS's tree, for a value that grows where the old and the
// new one together have more than MaxXattr (seen from 16,481 bytes on). So a value
// that may grow has to stay below half of that.
func Setxattr(fd int, name string, value []byte, flags int) error {
	err := unix.Fsetxattr(fd, name, value, flags)
	if err == unix.EBADF {
		err = unix.Setxattr(fdPath(fd), name, value, flags)
	}
	return wrap("set xattr "+name, err)
}

// Removexattr removes an extended attribute of what fd, which may be O_PATH,
// refers to; ENODATA where it has none of that name.
func Removexattr(fd int, name string) error {
	err := unix.Fremovexattr(fd, name)
	if err == unix.EBADF {
		err = unix.Removexattr(fdPath(fd), name)
	}
	return wrap("remove xattr "+name, err)
}

// getGrowing calls get with a buffer that is large enough: most values fit in the first.
func getGrowing(get func([]byte) (int, error)) ([]byte, error) {
	var first [512]byte
	n, err := get(first[:])
	if err == nil {
		return append([]byte{}, first[:n]...), nil
	}
	for err == unix.ERANGE {
		// It may grow between the question for its size and the answer.
		if n, err = get(nil); err != nil {
			break
		}
		b := make([]byte, n+64)
		if n, err = get(b); err == nil {
			return b[:n], nil
		}
	}
	return nil, err
}

// Statx returns all that the kernel tells of what fd, which may be O_PATH, refers to.
func Statx(fd int) (st unix.Statx_t, err error) {
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	return st, wrap("statx", err)
}

// StatxAt is Statx of name in the directory dir; a symbolic link is not followed.
func StatxAt(dir int, name string) (st unix.Statx_t, err error) {
	err = unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	return st, wrap("statx", err)
}

// GetFlags returns the inode flags (FlagImmutable, ...) of the regular file or directory fd, which must not be O_PATH (EBADF).
func GetFlags(fd int) (uint32, error) {
	var flags uint64 // the kernel reads and writes an int; the request's number says long
	err := ioctl(fd, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
	return uint32(flags), wrap("get inode flags", err)
}

// SetFlags replaces the inode flags of the regular file or directory fd.
// FlagNoCow can change on an empty file only.
func SetFlags(fd int, flags uint32) error {
	v := uint64(flags)
	return wrap("set inode flags", ioctl(fd, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&v)))
}

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}
