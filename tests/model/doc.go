// Command model runs random operations on a mount of the driver and on a
// plain BTRFS directory side by side, and compares.
//
// Terms: a side is one of the two, the mount or the plain directory; a step is one
// operation on both. A stage is one life of a volume, from the failover that made it to the
// next; a sequence is a few stages, beginning with a new tree. The plain side goes on through all of them.
//
// After each step the result is compared (errno, count, bytes), and the objects that it touched:
// type, mode, owner, size, links, times, blocks, now and then xattrs, flags, holes
// and content. At the end of a stage everything is, on the mount and on a fresh
// mount of a snapshot, which a second process serves (a failover), and mostly goes on with.
//
// In between, by chance: the volume is remote, half fetched, being fetched, or complete; the block store is late, fails,
// or answers with other bytes; snapshots are taken, published and read back; the
// serving process is restarted, or killed.
//
// With a fetch timeout an operation may end with EIO while a fault is in force. It
// must not have changed anything, is repeated without the fault, and has to end as the plain one.
//
// Times are compared as pairs: one that an operation sets to "now" has to move on both sides, within
// the same step; all others have to be equal.
//
// What the two are not compared in, as no file system of the FUSE protocol can be the same: access
// times; the size of directories; the time of a store through a shared mapping; setuid and setgid bits set while the file is open.
//
// The serving process is one of its own; this one does one step after the other. A run that
// is killed leaves mounts under -dir.
//
//	go run ./tests/model -ops 1000000 -seed 7
//	go run ./tests/model -seed 7 -first 31 -sequences 1   # the one that failed, again
package main
