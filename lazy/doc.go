// Package lazy makes what is remote local: on demand, and in the background.
//
// A Tree stands beside the BTRFS subvolume of one volume and answers, for
// package fusefs, whether names and bytes are here yet; where they are not, it
// brings them. What is missing is not kept in any table: a directory that is
// not filled carries a mark with its reference (package mark), a file with
// missing bytes carries its reference too, and which bytes are missing follows
// from the file itself. So data and mark cannot disagree after a crash.
//
// What comes first of the rest: what a reader waits for; then the working set that was recorded with the snapshot (foresee.go), directories, small
// files, large ones.
//
// # State of a sector
//
// For each 4 KiB sector of a file with a pending mark, in this order:
//
//  1. the backing file has data there: local;
//  2. at or past the mark's valid size, or in its zero-list, or a hole of the
//     reference: zeros;
//  3. otherwise: missing.
//
// A sector turns from missing to local by fetching or by a write that covers
// it whole. Fetched data is only ever written into missing sectors.
//
// # Rules
//
// The rules that keep this right through crashes carry the names that the
// comments in this package use:
//
//	R1  Before a file is extended, the sector of its old end is fetched:
//	    BTRFS zeroes its tail, and a zeroed sector looks local.
//	R2  The mark's valid size is lowered to the file's size just before an
//	    extension, never at a truncation and never after the extension.
//	R3  The zero-list is written before the hole that it speaks of is made.
//	R4  A sector that a write covers in part is fetched first.
//	R5  A file is complete when its data is durable; only then its mark says so.
//	R6  The filling of a directory is committed before an fsync of any
//	    application is acknowledged; and before what is made durable without
//	    asking (in passthrough mode) can have to do with it.
//
// # Locks
//
// In this order: Tree.links (shared by who reads attributes), Tree.looks (the
// same, of files that nobody uses), file.mu (shared
// by the application's operations, exclusive for filling holes and changing
// marks), fusefs.FS.gate, Tree.still, Tree.flags, committer.gate, Tree.mu (maps only, never held over a system call
// that may wait). No lock is held while a block is on its way.
//
// # Crash
//
// A directory half filled keeps its mark and is filled again; what was made
// before is taken over. Fetched data that did not reach the disk is a hole
// again and is fetched again. What a fetch does to the times, capabilities and flags of
// a file is in marks before it is done. A Tree that is opened on what a crash left
// finds all of that from the marks, by one search of the subvolume's tree.
//
// All methods of Tree may be called from many goroutines at once.
//
//	root, err := lazy.Create(ctx, "/pool/v/data", blocks, sealer, cid)
//	tree, err := lazy.Open(ctx, subvolume, blocks, sealer, lazy.Options{})
//	go tree.Run(ctx)
//	fs, err := fusefs.Mount(subvolume, tree, "/mnt/v", fusefs.Options{})
package lazy
