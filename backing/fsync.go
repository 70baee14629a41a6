package backing

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// An fsync of BTRFS saves, beside the inode, the directories above it that are newer than the last commit, and finds them
// from the descriptor: from the name that the kernel had of the inode when it was opened. Opened by number, an inode whose names the
// kernel has forgotten (memory was short) has none. Its fsync is then answered as any other, and after a crash
// neither a new directory nor the file in it is there. So what is to be fsynced is opened by one of its names. To look costs a few microseconds.

// OpenNamed is Open for an inode that is written with O_SYNC or RWF_DSYNC through the descriptor by somebody who does not call Fsync: it
// knows the inode's directory, unless the inode has no name, or loses and gets names meanwhile.
func (t *Tree) OpenNamed(ino uint64, flags int) (fd int, err error) {
	fd, err = t.Open(ino, flags)
	if err != nil || named(fd) {
		return fd, err
	}
	other, err := t.openByName(ino, flags)
	if err != nil || other < 0 {
		return fd, nil
	}
	unix.Close(fd)
	return other, nil
}

// Anchor makes fd, a descriptor of Open, as good as one of OpenNamed: where it is not, everything is committed, and so the directories above it.
func (t *Tree) Anchor(fd int) error {
	if named(fd) {
		return nil
	}
	return unix.Syncfs(fd)
}

// Fsync makes what fd, a file or directory of the subvolume, refers to durable, with the directories
// above it, however fd was opened; of a file with dataOnly, only what is needed to read its data.
func (t *Tree) Fsync(fd int, dataOnly bool) error {
	if !named(fd) {
		if err := t.fsyncByName(fd); err != nil {
			return err
		}
	}
	if dataOnly {
		return unix.Fdatasync(fd)
	}
	return unix.Fsync(fd) // also where nothing is left to do: an error of earlier writes is told to each descriptor once
}

func (t *Tree) fsyncByName(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 {
		return err
	}
	other, err := t.openByName(st.Ino, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil || other < 0 { // it is being renamed: everything is committed
		return unix.Syncfs(fd)
	}
	defer unix.Close(other)
	return unix.Fsync(other)
}

// named reports whether the kernel knows a name that what fd refers to has. A file whose name ends in the mark of
// removed ones is taken for one, which costs time and is not wrong.
func named(fd int) bool {
	path, err := os.Readlink(fdPath(fd))
	return err == nil && path != "/" && !strings.HasSuffix(path, " (deleted)")
}

// openByName opens ino by one of its names; -1 where none is its any more.
func (t *Tree) openByName(ino uint64, flags int) (int, error) {
	names, err := t.Names(ino)
	if err != nil {
		return -1, err
	}
	for _, n := range names {
		fd, err := t.openAt(n, ino, flags)
		if err != nil || fd >= 0 {
			return fd, err
		}
	}
	return -1, nil
}

// openAt opens the name n if it is still that of ino, else it returns -1. What it finds is not opened before it is known: it could be a device.
func (t *Tree) openAt(n InodeName, ino uint64, flags int) (int, error) {
	dir, err := t.Open(n.Dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, nil
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, n.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil
	}
	defer unix.Close(fd)
	var st, root unix.Stat_t
	if unix.Fstat(fd, &st) != nil || unix.Fstat(t.root, &root) != nil || st.Ino != ino || st.Dev != root.Dev {
		return -1, nil
	}
	return unix.Open(fdPath(fd), flags&^unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_LARGEFILE, 0)
}
