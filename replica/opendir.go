package replica

import (
	"fmt"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// openDir keeps the directory open that was used last, for names that are asked for one after the other.
type openDir struct {
	tree *backing.Tree
	ino  uint64 // 0: none is open
	fd   int
}

// get returns a descriptor of directory ino, good until the next call.
func (o *openDir) get(ino uint64) (int, error) {
	if o.ino == ino {
		return o.fd, nil
	}
	o.close()
	fd, err := o.tree.Open(ino, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("open directory %d: %w", ino, err)
	}
	o.ino, o.fd = ino, fd
	return fd, nil
}

// child returns the inode number of a name.
func (o *openDir) child(dir uint64, name string) (ino uint64, isDir bool, err error) {
	fd, err := o.get(dir)
	if err != nil {
		return 0, false, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, false, err
	}
	return st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

func (o *openDir) close() {
	if o.ino != 0 {
		unix.Close(o.fd)
		o.ino = 0
	}
}
