// Package mark reads and writes the extended attributes that tell what of a
// volume is still remote. They live in the trusted namespace, beside the
// inode that they speak of, so that BTRFS commits and logs them with it:
//
//	trusted.fractal.dir   a directory whose names are not filled yet
//	trusted.fractal.file  a regular file that came from a snapshot: pending
//	                      (something may be missing) or clean (complete, and
//	                      unchanged since, as long as its ctime says so)
//	trusted.fractal.link  an inode with several names, some of which may not
//	                      be filled yet
//	trusted.fractal.tree  the root directory of a volume that is not complete
//	trusted.fractal.lifted  the root directory, while the flags of an inode are lifted
//	trusted.fractal.source  the root directory of a clone: whose blocks all other
//	                      marks refer to
//
// Package lazy writes them, package replica reads them from BTRFS snapshots;
// docs/FORMAT.md specifies their bytes. A mark that does not decode is an
// error for its reader and never "no mark": its inode would read as zeros.
//
// All functions may be called from many goroutines at once; who changes a
// mark holds the inode's lock in package lazy.
package mark
