package backing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/btrfs.h and btrfs_tree.h.
const (
	quotaCtlEnableSimple = 4 // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, Linux 6.7
	qgroupLimitMaxRfer   = 1 << 0

	quotaTree       = 8
	qgroupStatusKey = 240
	qgroupInfoKey   = 242

	qgroupStatusOn           = 1 << 0
	qgroupStatusInconsistent = 1 << 2
	qgroupStatusSimple       = 1 << 3
)

type quotaMode int

const (
	quotaOff quotaMode = iota
	quotaFull
	quotaSimple
)

func (m quotaMode) String() string { return [...]string{"off", "full", "simple"}[m] }

// SetLimit lets the subvolume path allocate at most so many bytes; 0 removes
// the limit. It turns simple quotas on for the file system where no quotas
// are: ErrNoQuota where the kernel has none (Linux before 6.7).
//
// It is a backstop. Simple quotas charge an extent to the subvolume that wrote
// it, for as long as any snapshot holds it, and not what was there
// before they were on: leave headroom. Where somebody turned full quotas on,
// those are used as they are.
func SetLimit(path string, bytes uint64) error {
	return withSubvolume("limit the size of", path, func(fd int) error {
		mode, err := quotaState(fd)
		if err != nil {
			return err
		}
		if mode == quotaOff {
			if bytes == 0 {
				return nil
			}
			if err := enableSimpleQuota(fd); err != nil {
				return err
			}
		}
		info, err := subvolInfo(fd)
		if err != nil {
			return err
		}
		a := qgroupLimitArgs{qgroupID: info.treeID, flags: qgroupLimitMaxRfer, maxRfer: bytes}
		if bytes == 0 {
			a.maxRfer = ^uint64(0) // what the kernel clears a limit by
		}
		// By the directory that the subvolume is in: the change itself is charged, and where a full subvolume is charged, it fails.
		up, err := unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(up)
		return ioctl(up, iocQgroupLimit, unsafe.Pointer(&a))
	})
}

func enableSimpleQuota(fd int) error {
	a := quotaCtlArgs{cmd: quotaCtlEnableSimple}
	err := ioctl(fd, iocQuotaCtl, unsafe.Pointer(&a))
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: use Linux 6.7 or later, or do without a size limit on the disk: %w", ErrNoQuota, err)
	}
	if err != nil {
		return fmt.Errorf("turn simple quotas on: %w", err)
	}
	return nil
}

// Usage returns the bytes that the subvolume path refers to, as of the last
// commit where its quota group tells that, else by a walk over its inodes that takes
// as long as du(1).
//
// Full quotas always tell it, unless a rescan is due. Simple quotas tell it of a subvolume that was
// made empty after they were turned on; there it is what the subvolume allocated and nothing has
// freed yet, with what only its snapshots still hold.
func Usage(path string) (uint64, error) {
	var used uint64
	err := withSubvolume("get usage of", path, func(fd int) error {
		info, err := subvolInfo(fd)
		if err != nil {
			return err
		}
		st, ok, err := quotaStatus(fd)
		if err != nil {
			return err
		}
		exact := ok && st.mode == quotaFull && !st.inconsistent ||
			ok && st.mode == quotaSimple && info.otransid > st.enableGen && info.parentUUID == [16]byte{}
		if exact {
			item, ok, err := searchOne(fd, quotaTree, 0, qgroupInfoKey, info.treeID)
			if err != nil {
				return err
			}
			if ok && len(item) >= 16 {
				used = binary.LittleEndian.Uint64(item[8:]) // struct btrfs_qgroup_info_item: generation, rfer, ...
				return nil
			}
		}
		used, err = walkUsage(fd)
		return err
	})
	return used, err
}

// Occupied returns the bytes that the files of the subvolume path take, by a walk over its inodes: what du(1) says. What only
// snapshots still hold is not in it, nor are names and attributes. Data that was written and not yet flushed counts.
func Occupied(path string) (used uint64, err error) {
	err = withSubvolume("get usage of", path, func(fd int) error {
		used, err = walkUsage(fd)
		return err
	})
	return used, err
}

// Charged returns what the quota group of the subvolume path stands at, which SetLimit limits: with simple quotas
// what the subvolume allocated since they are on and nothing has freed yet, snapshots included. It is cheap. ErrNoQuota where quotas are off.
//
// Where sysfs has it, it is what the kernel knows now; else as of the last commit.
func Charged(path string) (charged uint64, err error) {
	err = withSubvolume("get quota of", path, func(fd int) error {
		info, err := subvolInfo(fd)
		if err != nil {
			return err
		}
		var fs fsInfoArgs
		if err := ioctl(fd, iocFSInfo, unsafe.Pointer(&fs)); err != nil {
			return err
		}
		b, err := os.ReadFile(fmt.Sprintf("/sys/fs/btrfs/%s/qgroups/0_%d/referenced", uuidString(fs.fsid), info.treeID))
		if err == nil {
			charged, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			return err
		}
		if mode, err := quotaState(fd); err != nil {
			return err
		} else if mode == quotaOff {
			return ErrNoQuota
		}
		item, ok, err := searchOne(fd, quotaTree, 0, qgroupInfoKey, info.treeID)
		if err == nil && ok && len(item) >= 16 {
			charged = binary.LittleEndian.Uint64(item[8:])
		}
		return err
	})
	return charged, err
}

type quotaInfo struct {
	mode         quotaMode
	inconsistent bool
	enableGen    uint64 // simple only: the transaction that turned them on
}

func quotaState(fd int) (quotaMode, error) {
	st, ok, err := quotaStatus(fd)
	if err != nil || !ok {
		return quotaOff, err
	}
	return st.mode, nil
}

// quotaStatus reads struct btrfs_qgroup_status_item: version, generation,
// flags, rescan, and for simple quotas enable_gen. There is no quota tree
// while quotas are off.
func quotaStatus(fd int) (st quotaInfo, ok bool, err error) {
	item, ok, err := searchOne(fd, quotaTree, 0, qgroupStatusKey, 0)
	if err != nil || !ok || len(item) < 32 {
		return st, false, err
	}
	flags := binary.LittleEndian.Uint64(item[16:])
	if flags&qgroupStatusOn == 0 {
		return st, false, nil
	}
	st.mode, st.inconsistent = quotaFull, flags&qgroupStatusInconsistent != 0
	if flags&qgroupStatusSimple != 0 {
		st.mode = quotaSimple
		if len(item) >= 40 {
			st.enableGen = binary.LittleEndian.Uint64(item[32:])
		}
	}
	return st, true, nil
}

// searchOne returns the item with exactly this key of a tree, as the disk has it.
func searchOne(fd int, tree, objectID uint64, typ uint32, offset uint64) ([]byte, bool, error) {
	const header = 32 // struct btrfs_ioctl_search_header: transid 8, objectid 8, offset 8, type 4, len 4
	a := treeSearchArgs{key: searchKey{
		treeID: tree, minObjectID: objectID, maxObjectID: objectID, minType: typ, maxType: typ,
		minOffset: offset, maxOffset: offset, maxTransid: ^uint64(0), nrItems: 1,
	}}
	err := ioctl(fd, iocTreeSearch, unsafe.Pointer(&a))
	if errors.Is(err, unix.ENOENT) { // no such tree
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("search tree %d: %w", tree, err)
	}
	if a.key.nrItems == 0 {
		return nil, false, nil
	}
	size := int(binary.NativeEndian.Uint32(a.buf[28:]))
	if size > len(a.buf)-header {
		return nil, false, fmt.Errorf("search tree %d: item of %d bytes", tree, size)
	}
	return a.buf[header : header+size], true, nil
}

// walkUsage adds up the blocks of every inode once. dir stays the caller's.
func walkUsage(dir int) (uint64, error) {
	seen := map[uint64]bool{} // inodes with several names
	var walk func(dir int) (uint64, error)
	walk = func(dir int) (uint64, error) {
		var sum uint64
		var subdirs []string
		err := ReadDir(dir, func(name string, _ uint64, typ uint8) error {
			var st unix.Stat_t
			err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == unix.ENOENT { // deleted meanwhile
				return nil
			}
			if err != nil {
				return pathError("stat", name, err)
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				if st.Ino != RootIno { // a nested subvolume is not ours
					subdirs = append(subdirs, name)
				}
				return nil
			}
			if st.Nlink > 1 {
				if seen[st.Ino] {
					return nil
				}
				seen[st.Ino] = true
			}
			sum += uint64(st.Blocks) * 512
			return nil
		})
		if err != nil {
			return 0, err
		}
		for _, name := range subdirs {
			fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
				continue
			}
			if err != nil {
				return 0, pathError("open", name, err)
			}
			n, err := walk(fd)
			unix.Close(fd)
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}
	return walk(dir)
}
