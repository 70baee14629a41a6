package volume

import (
	"errors"
	"fmt"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// bind is a front without a file system of ours: the subvolume itself, bound
// onto the mount point. The kernel serves it alone, with this process dead as well.
type bind struct {
	tree *backing.Tree
	path string
}

var _ front = (*bind)(nil)

// BindSubvolume is the mount of mount=direct: it binds the subvolume data onto path. The new mount has neither
// nosuid, nodev nor noexec, as a FUSE mount has none of them, whatever the pool is mounted with.
//
// It is made aside, given its flags, and only then put in place: where the mount
// point is shared, other name spaces get a copy at once, which flags that come later would not reach.
func BindSubvolume(data, path string, readOnly bool) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, data, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("bind %s: %w", data, err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{
		Attr_clr:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY,
		Propagation: unix.MS_PRIVATE, // not a peer of the pool's own mount
	}
	if readOnly {
		attr.Attr_set, attr.Attr_clr = unix.MOUNT_ATTR_RDONLY, attr.Attr_clr&^unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("set the flags of the bind of %s: %w", data, err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("put the bind of %s on %s: %w", data, path, err)
	}
	return nil
}

// isBound reports whether path shows the root of the subvolume data.
func isBound(data, path string) bool {
	var a, b unix.Stat_t
	return unix.Lstat(data, &a) == nil && unix.Lstat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino && b.Ino == backing.RootIno
}

// Freeze runs do, which takes a snapshot. Nobody can hold the writes of a plain
// BTRFS. What dirty data there is goes to the disk right before, so that no
// block is missed because it is just being rewritten: the snapshot holds each write that completed before the call. Of the
// writes that come during it some are in it and others are not; but whatever an application had made durable before it wrote something else is
// in if that is.
func (b *bind) Freeze(do func() error) error {
	if err := unix.Syncfs(b.tree.RootFD()); err != nil {
		return fmt.Errorf("snapshot: flush: %w", err)
	}
	return do()
}

// Unmount takes the mount away; EBUSY where a process of this name space uses it.
func (b *bind) Unmount() error {
	err := unix.Unmount(b.path, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // somebody has done so
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", b.path, err)
	}
	return nil
}

// Abort returns ErrInUse. Nothing can take a plain subvolume away from a process
// that has it: detached, it would write on, past the final snapshot.
func (b *bind) Abort() error {
	return fmt.Errorf("%w: processes still have files of %s open, or are in it: end them (`fuser -vm %s` names them)", ErrInUse, b.path, b.path)
}

// Wait returns at once: a bind has nothing that ends later.
func (b *bind) Wait() {}
