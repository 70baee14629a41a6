package backing

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inoPathArgs is struct btrfs_ioctl_ino_path_args of include/uapi/linux/btrfs.h.
type inoPathArgs struct {
	inum     uint64
	size     uint64
	reserved [4]uint64
	fspath   uint64 // address of a struct btrfs_data_container
}

var iocInoPaths = ioc(iocRead|iocWrite, 35, unsafe.Sizeof(inoPathArgs{}))

// pathsBuffer is the most that the kernel fills.
const pathsBuffer = 4096

// Paths returns the names of inode ino, relative to the subvolume's root, as many as the kernel has room for: 4 KiB in all. Where the
// inode has no name, or none that fits, the list is empty. A name may be another file's by the time it is used. It needs CAP_DAC_READ_SEARCH.
func (t *Tree) Paths(ino uint64) ([]string, error) {
	// struct btrfs_data_container: bytes_left, bytes_missing, elem_cnt, elem_missed, each 4 bytes; then offsets from there on, and strings.
	const header = 16
	buf := make([]byte, pathsBuffer)
	a := inoPathArgs{inum: ino, size: pathsBuffer, fspath: uint64(uintptr(unsafe.Pointer(&buf[0])))}
	err := ioctl(t.root, iocInoPaths, unsafe.Pointer(&a))
	runtime.KeepAlive(buf)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("look up the names of an inode in", t.path, err)
	}
	count := binary.NativeEndian.Uint32(buf[8:])
	list := buf[header:]
	var out []string
	for i := range int(count) {
		if (i+1)*8 > len(list) {
			break
		}
		at := binary.NativeEndian.Uint64(list[i*8:])
		if at >= uint64(len(list)) {
			break
		}
		name, _, ok := bytes.Cut(list[at:], []byte{0})
		if !ok || len(name) == 0 {
			break
		}
		out = append(out, string(name))
	}
	return out, nil
}
