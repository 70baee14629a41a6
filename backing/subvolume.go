package backing

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"time"
	"unsafe"

	"github.com/dennwc/btrfs"
	"golang.org/x/sys/unix"
)

// RootIno is the inode number of every subvolume's root directory.
const RootIno = 256

const subvolReadonly = 1 << 1 // BTRFS_SUBVOL_RDONLY

// CreateSubvolume makes path, whose parent folder must be there, an empty
// subvolume. ErrExists where the name is taken, ErrNotBtrfs where the parent
// is not on BTRFS.
func CreateSubvolume(path string) error {
	if err := checkFree("create subvolume", path); err != nil {
		return err
	}
	err := btrfs.CreateSubVolume(path)
	if errors.Is(err, unix.EEXIST) {
		err = ErrExists
	}
	return pathError("create subvolume", path, err)
}

// Snapshot makes dst a snapshot of the subvolume src, and commits it. What
// was written to src and not yet flushed is flushed first, but a block that is
// being rewritten meanwhile may be missed: keep writers out, or SyncFS right
// before, where that matters. Two callers must not make the same dst at once:
// the loser's snapshot may land inside the winner's.
func Snapshot(src, dst string, readonly bool) error {
	const op = "snapshot"
	if ok, err := IsSubvolume(src); err != nil {
		return err
	} else if !ok {
		return pathError(op, src, ErrNotSubvolume)
	}
	// The library makes a snapshot of the source's name inside dst where dst is a folder.
	if err := checkFree(op, dst); err != nil {
		return err
	}
	err := btrfs.SnapshotSubVolume(src, dst, readonly)
	if errors.Is(err, unix.EEXIST) {
		err = ErrExists
	}
	return pathError(op+" of "+src+" as", dst, err)
}

// checkFree makes sure that path is free and that its parent is on BTRFS.
func checkFree(op, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return pathError(op, path, ErrExists)
	} else if !errors.Is(err, os.ErrNotExist) {
		return pathError(op, path, err)
	}
	return CheckPool(filepath.Dir(filepath.Clean(path)))
}

// DeleteSubvolume deletes the subvolume path, read-only or not, commits that,
// and wakes the kernel's cleaner, so that its space comes back within
// milliseconds instead of half a minute. Files that are open in it stay readable until
// they are closed. ErrNested where other subvolumes live in it,
// ErrNotSubvolume for anything else, symbolic links to subvolumes included.
func DeleteSubvolume(path string) error {
	const op = "delete subvolume"
	path = filepath.Clean(path)
	dir, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError(op, path, err)
	}
	defer unix.Close(dir)
	name := filepath.Base(path)

	// The check and the deletion name the subvolume relative to one open
	// folder, and the kernel looks the name up without following links.
	if ok, err := isSubvolumeAt(dir, name); err != nil {
		return pathError(op, path, err)
	} else if !ok {
		return pathError(op, path, ErrNotSubvolume)
	}
	err = btrfs.DeleteSubVolume(fdPath(dir) + "/" + name)
	if errors.Is(err, unix.ENOTEMPTY) {
		err = fmt.Errorf("%w: delete those first: %w", ErrNested, err)
	}
	if err != nil {
		return pathError(op, path, err)
	}
	// A deleted tree is cleaned once the deletion is committed.
	return pathError("commit after "+op, path, ioctl(dir, iocSync, nil))
}

// IsSubvolume reports whether path is the root directory of a subvolume. A
// symbolic link is not. A path that is not there is an error.
func IsSubvolume(path string) (bool, error) {
	ok, err := isSubvolumeAt(unix.AT_FDCWD, path)
	return ok, pathError("look at", path, err)
}

func isSubvolumeAt(dir int, name string) (bool, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if st.Ino != RootIno || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, nil
	}
	return isBtrfs(fd)
}

// SetReadonly makes a subvolume read-only or writable. EBUSY: read-only was
// asked for while files are open for writing in it.
func SetReadonly(path string, ro bool) error {
	const op = "set read-only flag of"
	return withSubvolume(op, path, func(fd int) error {
		var flags uint64
		if err := ioctl(fd, iocSubvolGetFlags, unsafe.Pointer(&flags)); err != nil {
			return err
		}
		want := flags &^ subvolReadonly
		if ro {
			want |= subvolReadonly
		}
		if want == flags {
			return nil
		}
		return ioctl(fd, iocSubvolSetFlags, unsafe.Pointer(&want))
	})
}

// Subvolume is what BTRFS knows of a subvolume.
type Subvolume struct {
	ID         uint64 // of its tree
	Path       string // Info: as given; List: below the file system's own root
	UUID       [16]byte
	ParentUUID [16]byte // of what it is a snapshot of; zeros where it is none
	Readonly   bool     // Info only
	// Generation is that of its last committed change; see Generation. Info only.
	Generation uint64
	// CreatedTransid is the transaction that made it. A snapshot holds
	// exactly the changes of its source up to that transaction.
	CreatedTransid uint64
	Created        time.Time
}

// Info returns what BTRFS knows of the subvolume path.
func Info(path string) (Subvolume, error) {
	var s Subvolume
	err := withSubvolume("get subvolume info of", path, func(fd int) error {
		a, err := subvolInfo(fd)
		if err != nil {
			return err
		}
		s = Subvolume{
			ID: a.treeID, Path: path, UUID: a.uuid, ParentUUID: a.parentUUID,
			Readonly:   a.flags&1 != 0, // BTRFS_ROOT_SUBVOL_RDONLY, not the ioctl's bit
			Generation: a.generation, CreatedTransid: a.otransid,
			Created: time.Unix(int64(a.otime.sec), int64(a.otime.nsec)),
		}
		return nil
	})
	return s, err
}

// List returns all subvolumes of the file system that dir, a subvolume's root, is on, by ID.
func List(dir string) ([]Subvolume, error) {
	const op = "list subvolumes of"
	fs, err := btrfs.Open(dir, true)
	if err != nil {
		return nil, pathError(op, dir, err)
	}
	defer fs.Close()
	found, err := fs.ListSubvolumes(nil)
	if err != nil {
		return nil, pathError(op, dir, err)
	}
	var list []Subvolume
	for _, i := range found {
		list = append(list, Subvolume{ID: i.RootID, Path: i.Path, UUID: i.UUID, ParentUUID: i.ParentUUID,
			CreatedTransid: i.OTransID, Created: i.OTime})
	}
	sort.Slice(list, func(a, b int) bool { return list[a].ID < list[b].ID })
	return list, nil
}

// Nested returns how many subvolumes live directly in the subvolume path.
func Nested(path string) (int, error) {
	n := 0
	err := withSubvolume("look for nested subvolumes in", path, func(fd int) error {
		var a rootrefArgs
		for {
			err := ioctl(fd, iocSubvolRootref, unsafe.Pointer(&a))
			if err != nil && err != unix.EOVERFLOW {
				return err
			}
			n += int(a.numItems)
			if err == nil {
				return nil
			}
			// EOVERFLOW: the array is full and the kernel moved minTreeID past its last.
		}
	})
	return n, err
}

func subvolInfo(fd int) (*subvolInfoArgs, error) {
	a := new(subvolInfoArgs)
	return a, ioctl(fd, iocGetSubvolInfo, unsafe.Pointer(a))
}

// withSubvolume runs do with a descriptor of the subvolume path.
func withSubvolume(op, path string, do func(fd int) error) error {
	fd, err := openDir(path)
	if err != nil {
		return pathError(op, path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError(op, path, err)
	}
	if ok, err := isBtrfs(fd); err != nil {
		return pathError(op, path, err)
	} else if !ok {
		return notBtrfs(path)
	}
	if st.Ino != RootIno {
		return pathError(op, path, ErrNotSubvolume)
	}
	return pathError(op, path, do(fd))
}
