// Package snapshot writes and reads the Merkle tree that a snapshot is:
// encrypted, content-addressed, whole by itself. docs/FORMAT.md specifies it,
// package wire has its bytes.
//
// # Terms
//
// The tree is made of blocks of at most 1 MiB. A directory is a page, or pages
// under index nodes. A file is cut into windows of one chunk size; the data of
// a window is a block of its own or, where it is small, a piece of a pack that
// it shares with its neighbours. A reference (wire.Content, wire.DirRef) names
// what is below without reading it; Build takes references to what is known
// to be unchanged as they are.
//
// # What it guarantees
//
//   - Build is deterministic: equal trees with equal references and options
//     make equal blocks, whatever the number of workers.
//   - A block is put only after all blocks that it links to. What a cancelled
//     or failed Build leaves in the sink is unreferenced and can be built
//     again; nothing else is left behind.
//   - Memory is bounded, not by the tree: a few buffers a worker, the pages
//     that wait for packs under construction, and a page a level on the path.
//   - One changed name rewrites its page and one index node a level above. With
//     a Patch that is also all that is read, and the blocks are those that a
//     listing of the whole directory would give.
//   - A window that changed in few places is written as a patch: its block is kept, and what changed since that was written is
//     a piece of a pack. Whoever puts both together checks the sum of the result (Piece).
//   - Reader returns nothing that did not open with the volume's key and pass
//     every check of package wire. Damage is an error that matches ErrDamaged,
//     seal.ErrOpen, wire.ErrVersion or wire.ErrFeature; errors of the Getter
//     pass through wrapped. That a block matches its CID is the Getter's duty.
//
// A Reader may be used from many goroutines at once. Build starts goroutines
// and has ended them when it returns.
//
//	root, _, stats, err := snapshot.Build(ctx, tree, sink, key.Sealer(), snapshot.Options{})
//
//	r := snapshot.NewReader(store, key.Sealer())
//	top, err := r.Root(ctx, root)
//	for entry, err := range r.Dir(ctx, top.Dir) {
//		...
//	}
package snapshot
