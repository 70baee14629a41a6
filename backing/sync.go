package backing

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SyncFS writes all delayed data of the file system that path is on and
// commits it. When it returns nil, all that was done before it was called is on the disk.
func SyncFS(path string) error {
	const op = "sync file system of"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return pathError(op, path, err)
	}
	defer unix.Close(fd)
	return pathError(op, path, unix.Syncfs(fd))
}

// StartSync begins the commit of the transaction that is open on fd's file
// system and returns its number for WaitSync, at once. What is committed is
// metadata and the data that was already flushed: delayed data may stay behind.
func StartSync(fd int) (transid uint64, err error) {
	err = ioctl(fd, iocStartSync, unsafe.Pointer(&transid))
	return transid, pathError("start commit on", fdPath(fd), err)
}

// WaitSync returns when transaction transid is on the disk; 0 is the one that is open now.
func WaitSync(fd int, transid uint64) error {
	return pathError("wait for commit on", fdPath(fd), ioctl(fd, iocWaitSync, unsafe.Pointer(&transid)))
}

// Generation returns the number of the last committed transaction that changed
// the subvolume path: any file's data, names, attributes, xattrs or flags.
// It lags behind: what was written, even with fsync, shows after the next commit only
// (SyncFS; by itself within 30 s). A snapshot of the subvolume
// changes it as well. Reads change it where the file system is not mounted noatime.
func Generation(path string) (uint64, error) {
	s, err := Info(path)
	return s.Generation, err
}

// Changed reports whether the subvolume path has changed since generation
// since, committing first, so that everything done before the call counts.
// gen is the generation found, for the next call.
//
// After a snapshot, since is the snapshot's CreatedTransid (Info), not the
// source's Generation read later: a change between the two would be missed. The snapshot
// holds what the transaction holds, and what comes after is in a later one.
func Changed(path string, since uint64) (changed bool, gen uint64, err error) {
	if err := SyncFS(path); err != nil {
		return false, 0, err
	}
	gen, err = Generation(path)
	return gen > since, gen, err
}
