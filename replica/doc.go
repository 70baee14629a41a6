// Package replica publishes snapshots: it turns a read-only BTRFS snapshot
// into an encrypted tree of blocks, stores the blocks, pins their root and
// posts a signed manifest of it to the Hive.
//
// # Terms
//
// A Job is one snapshot to publish. Its Base is the snapshot published last.
// Where its local snapshot is still here, the kernel is asked what changed since
// (changeset.go), and only directories with changed names and changed ranges of files
// are looked at (patch.go): the cost is that of the change. Of a large file in which few sectors of a window changed, only
// these are sent (snapshot.Before). Otherwise, and where
// more changed than fits in memory, the walk (walk.go; search.go finds the files of a first snapshot) goes through the new snapshot and
// the base in step, so that what did not change is taken
// by reference and not read. Result.Way says which it was. A mark (package mark) says which files and
// directories of a snapshot are still remote: these keep their references
// too, unread, so a half-fetched volume can be published at any moment.
//
// An outline (Publisher.Outline) is the tree of a snapshot that is compared and not published: made the same way, with placeholders for content that was not read.
//
// # Guarantees
//
//   - A manifest is posted after every block below its root is stored and the
//     root is pinned, and never from a machine that is not the volume's writer.
//   - The root CID depends on the files and on their references only: a Job
//     that was killed and is published again ends with the same root, and what
//     it had stored is not sent again, but for small blocks (askFrom), which are not worth asking for.
//   - The walk takes a file from the base unread only where its inode, times and size
//     are the same and BTRFS shows no later change of it (unchanged.go). Bytes
//     that are remote are never read as zeros.
//   - By changes or with every directory listed, the same references give the same root.
//     The walk itself reads some files again that only had their attributes changed, or
//     that were renamed; then small ones lie in other packs, and the root is another one.
//   - Nothing of the volume is opened but regular files and directories, and
//     nothing by a path of more than one part.
//
// # Memory
//
// Blocks under way are bounded (upload.go); so are what is looked up ahead (search.go), the changes (maxChanges), the names of one directory
// for each level that the walk is in, and what package snapshot holds.
//
// # Concurrency
//
// A Publisher may be used by many goroutines. Publish waits for everything it
// started before it returns.
//
// # After a crash
//
// Blocks without a pin, or a pin without a manifest, may stay in the store;
// publishing the same Job again uses them. The node cache may hold torn
// files: each is checked against its CID when it is read.
//
// # Example
//
//	p := replica.New(replica.Deps{Store: st, Hive: client, Nodes: "/var/lib/fractal/nodes", Log: log})
//	r, err := p.Publish(ctx, replica.Job{Key: key, Machine: id, Snapshot: path, Created: now, Base: base})
//	if errors.Is(err, replica.ErrFenced) {
//		return stop()
//	}
//	base = r.Base
package replica
