// Package backing is all that the program knows of BTRFS: subvolumes and
// their snapshots, inodes reopened by number, holes and data, commits,
// limits, and the pool that holds everything. It imports no sibling.
//
// # Terms
//
// A pool is a folder on BTRFS; a subvolume is a tree of files with inode
// numbers of its own, whose root directory is inode 256 (RootIno). Inode
// numbers of one subvolume are never used twice, and an inode never changes
// its type. A transaction is what BTRFS writes as a whole; its number, the
// transid, only grows, and a generation is the transid of a last change.
//
// # Guarantees
//
//   - Nothing here follows a symbolic link in the last part of a path.
//   - An error names the path and the step, wraps the errno or one of the
//     package's sentinels, and says what to do where something can be done.
//   - Data and holes are exact to 4 KiB, the only sector size that
//     [PoolInfo.Check] accepts.
//
// # Concurrency
//
// Every function may be called from many goroutines, and a [Tree] used by
// them; a descriptor whose position is used ([DataRanges], [Holes],
// [ReadDir]) belongs to one caller at a time.
//
// # After a crash
//
// A subvolume or snapshot that was made, or deleted, and not followed by a
// commit ([SyncFS], [DeleteSubvolume]) may be missing, or back. Snapshots are
// committed by the call that makes them. A pool half made by
// [LoopPool.Create] leaves its file behind; deleting it is enough.
//
// # Example
//
//	if err := backing.CheckPool(dir); err != nil {
//		return err // says how to make one
//	}
//	if err := backing.CreateSubvolume(dir + "/data"); err != nil {
//		return err
//	}
//	t, err := backing.OpenTree(dir + "/data")
//	if err != nil {
//		return err
//	}
//	defer t.Close()
//	fd, err := t.Open(backing.RootIno, unix.O_RDONLY|unix.O_DIRECTORY)
package backing
