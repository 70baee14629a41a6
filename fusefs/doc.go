// Package fusefs shows a BTRFS subvolume as a FUSE file system that behaves as the subvolume
// itself, also while parts of it are still remote.
//
// # Terms
//
// Tree opens inodes of the subvolume by number. Residency knows what of it is
// remote, and is asked before anything is touched that may be; File is the
// residency of one regular file. A handle is an open file of an application. Passthrough: the
// kernel reads and writes the backing file of a handle without asking us.
//
// # Identity without memory
//
// A node id of the protocol is the inode number (but 1 for the root, 256), opened anew by file handle for each operation.
// There is no table of the files seen: FORGET costs nothing, and only open files take memory and descriptors. Names are resolved one at
// a time from a directory's descriptor, never through a symbolic link, so that nobody who renames meanwhile leads us out of the subvolume.
//
// # Guarantees
//
//   - Permissions, ACLs and locks are the kernel's (default_permissions); what it lets through is done as root, and new
//     inodes are made with the caller's ids and umask by BTRFS's own rules (creds.go).
//   - An open never fails because handles of different modes meet (mode.go).
//   - A read returns only what the Residency has called readable.
//   - A request that waits ends when its process is being killed or the file system is aborted, and by no other signal (call.go).
//   - HiddenName and the marks (HiddenXattr) cannot be seen, made or changed. Nested subvolumes are refused with EXDEV.
//   - Under Freeze nothing changes the tree through this process.
//
// Differences to BTRFS that no file system of this protocol can avoid (docs/POSIX.md has all that are known): syncfs(2) on the mount does not reach BTRFS (fsync and
// sync do), and reflinks by ioctl are refused, while copy_file_range shares extents. A setuid
// or setgid bit that is set on a file somebody has open in passthrough mode is cleared by that one's next
// write even if it is privileged; chown(-1, -1) leaves these bits. operations in ops.go lists every request of the protocol.
//
// The limit of Options.Limit holds for what passes this process. Handles that were passed through to
// a writer before the volume was nearly full write on; a quota of the pool has to stand behind it, and gives them EDQUOT, which is ENOSPC to those who come by here.
//
// # Concurrency
//
// Requests are read and executed by readers, of which there are as many as are at work, and one or more that wait (server.go; on a mount that nobody uses one, without
// memory for a request: idle.go): operations run at the same time, but for those of one thread, which come one after the other anyway. FS.gate is taken last, also after the locks of the Residency: it is held around the
// system calls of a change alone. nodes.mu, node.mu, handles.mu, behind.mu, dirs.mu, victims.mu, server.mu and rooms.mu are leaves, no two of them held together. No lock is held
// while a Residency fetches.
//
// The process must not use files of its own mounts: a page fault or a close could wait for itself.
//
// # After a crash
//
// Nothing of this package is on disk. With Options.Hold another process goes on with the mount (Resume): the kernel keeps the connection and the
// backing files, a file in memory says which handles are open (table.go), and replayed requests are neither lost nor done twice (replay.go).
// Without it a mount whose process died answers ENOTCONN; unmount it and mount again. Each change is one system call on BTRFS and as atomic as there, but for a new inode whose caller has a more generous umask than this process:
// after a crash it may lack permission bits.
//
// # Example
//
//	tree, err := backing.OpenTree("/var/lib/fractal/volumes/.../data")
//	...
//	fs, err := fusefs.Mount(tree, residency, "/mnt/volume", fusefs.Options{Log: log})
//	...
//	err = fs.Freeze(func() error { return backing.Snapshot(data, snapshot, true) })
//	...
//	err = fs.Unmount() // EBUSY while in use; Detach takes it away at once
package fusefs
