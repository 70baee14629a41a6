package backing

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CheckPool returns ErrNotBtrfs where dir is not on BTRFS.
func CheckPool(dir string) error {
	ok, err := isBtrfsPath(dir)
	if err != nil {
		return pathError("look at", dir, err)
	}
	if !ok {
		return notBtrfs(dir)
	}
	return nil
}

func notBtrfs(dir string) error {
	return fmt.Errorf("%s: %w: put it on one, or make a pool in a file there with `fractal-lazy pool create`", dir, ErrNotBtrfs)
}

func isBtrfsPath(path string) (bool, error) {
	var st unix.Statfs_t
	err := retry(func() error { return unix.Statfs(path, &st) })
	return err == nil && uint32(st.Type) == unix.BTRFS_SUPER_MAGIC, err
}

func isBtrfs(fd int) (bool, error) {
	var st unix.Statfs_t
	err := retry(func() error { return unix.Fstatfs(fd, &st) })
	return err == nil && uint32(st.Type) == unix.BTRFS_SUPER_MAGIC, err
}

func retry(do func() error) error {
	for {
		if err := do(); err != unix.EINTR {
			return err
		}
	}
}

// PoolInfo is what a pool's file system says of itself.
type PoolInfo struct {
	Dir        string   `json:"dir"`
	FSType     string   `json:"fs_type"`     // "btrfs", or the magic number in hex
	Size       uint64   `json:"size"`        // bytes
	Free       uint64   `json:"free"`        // bytes, for data, as statfs(2) estimates them
	SectorSize uint32   `json:"sector_size"` // bytes; 0 where it is not BTRFS
	UUID       string   `json:"uuid"`
	Devices    []string `json:"devices"`
	// LoopFile is the file behind the only device where that is a loop device.
	LoopFile string `json:"loop_file,omitempty"`
	Quota    string `json:"quota"` // "off", "simple", or "full"
}

// Check returns nil where the pool can hold volumes, or an error that says why not.
func (s PoolInfo) Check() error {
	if s.FSType != "btrfs" {
		return notBtrfs(s.Dir)
	}
	if s.SectorSize != 4096 {
		return fmt.Errorf("%s: BTRFS with sectors of %d bytes: make it anew with mkfs.btrfs --sectorsize 4096", s.Dir, s.SectorSize)
	}
	return nil
}

// PoolStatus returns the state of the pool that dir is in. A folder that is not
// on BTRFS is no error: its FSType says so.
func PoolStatus(dir string) (PoolInfo, error) {
	const op = "get status of pool"
	s := PoolInfo{Dir: dir}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(dir, &st) }); err != nil {
		return s, pathError(op, dir, err)
	}
	s.Size, s.Free = st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	if uint32(st.Type) != unix.BTRFS_SUPER_MAGIC {
		s.FSType = fmt.Sprintf("%#x", uint32(st.Type))
		return s, nil
	}
	s.FSType = "btrfs"
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return s, pathError(op, dir, err)
	}
	defer unix.Close(fd)
	var info fsInfoArgs
	if err := ioctl(fd, iocFSInfo, unsafe.Pointer(&info)); err != nil {
		return s, pathError(op, dir, err)
	}
	s.SectorSize = info.sectorSize
	s.UUID = uuidString(info.fsid)
	for id := uint64(1); id <= info.maxID && uint64(len(s.Devices)) < info.numDevices; id++ {
		dev := devInfoArgs{devID: id}
		err := ioctl(fd, iocDevInfo, unsafe.Pointer(&dev))
		if errors.Is(err, unix.ENODEV) { // a number that is no longer used
			continue
		}
		if err != nil {
			return s, pathError(op, dir, err)
		}
		path, _, _ := bytes.Cut(dev.path[:], []byte{0})
		s.Devices = append(s.Devices, string(path))
	}
	if len(s.Devices) == 1 {
		s.LoopFile = loopFile(s.Devices[0])
	}
	mode, err := quotaState(fd)
	if err != nil {
		return s, pathError(op, dir, err)
	}
	s.Quota = mode.String()
	return s, nil
}

// loopFile returns the file behind the loop device dev, or "".
func loopFile(dev string) string {
	b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

func uuidString(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
