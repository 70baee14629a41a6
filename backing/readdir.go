package backing

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const direntBuffer = 64 << 10

var direntBuffers = sync.Pool{New: func() any { b := make([]byte, direntBuffer); return &b }}

// ReadDir calls fn for each name of the directory behind fd but "." and
// ".."; typ is DT_*. The order is the directory's: that of making, in BTRFS. An
// error of fn ends it and is returned as it is. fn may change the directory; what it
// adds may or may not be seen. It reads from the beginning and moves fd's
// position. The ino of a nested subvolume is its tree's number, not an inode's.
func ReadDir(fd int, fn func(name string, ino uint64, typ uint8) error) error {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return fmt.Errorf("rewind directory: %w", err)
	}
	b := direntBuffers.Get().(*[]byte)
	defer direntBuffers.Put(b)
	for {
		n, err := unix.Getdents(fd, *b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read directory: %w", err)
		}
		if n == 0 {
			return nil
		}
		if err := parseDirents((*b)[:n], fn); err != nil {
			return err
		}
	}
}

// parseDirents walks struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name ending in NUL.
func parseDirents(b []byte, fn func(name string, ino uint64, typ uint8) error) error {
	const header = 19
	for len(b) > header {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= header || size > len(b) {
			return fmt.Errorf("read directory: entry of %d bytes in %d", size, len(b))
		}
		name := b[header:size]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if s := string(name); s != "." && s != ".." {
			if err := fn(s, binary.NativeEndian.Uint64(b), b[18]); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}
