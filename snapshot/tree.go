package snapshot

import (
	"context"
	"iter"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// Sink takes the blocks of a snapshot under construction, children before
// parents; from many goroutines at once. It may keep a block's Data. A block
// that Put returned nil for counts as stored: its parent may come at once.
type Sink interface {
	Put(ctx context.Context, b store.Block) error
}

// Node is one name of the tree to build.
type Node struct {
	wire.Entry
	// Children lists a directory in byte order of names; called where
	// Entry.Dir is nil. (Dir set: the reference is taken as it is.) One
	// listing is read at a time for each level of the tree.
	Children func(ctx context.Context) iter.Seq2[Node, error]
	// Patch, where set and Entry.Dir is nil, stands for Children: the directory
	// is what it was in an earlier snapshot, but for some names.
	Patch *Patch
	// Open opens a regular file; called where Entry.Content is nil. (Content
	// set: taken as it is.) Of names with one Entry.Link the first is opened,
	// and others again where it was long ago.
	Open func(ctx context.Context) (File, error)
}

// Patch makes a directory from an earlier one. The result is the same, block
// for block, as that of a listing of all its names, as long as the earlier one was
// made by Build: pages between changed names are not fetched.
type Patch struct {
	Reader *Reader
	Old    wire.DirRef
	// Names that may have changed, ascending, each once.
	Names []string
	// Node makes the node that a name of Names stands for now; it is called once for
	// each, in order. was is the name's entry in Old, nil where there is none. False: there is no such name now.
	Node func(ctx context.Context, name string, was *wire.Entry) (Node, bool, error)
}

// File is an open regular file to be cut into chunks. It must not change while
// it is open. ReadAt is called from several goroutines at once; the others
// from one.
type File interface {
	// Size in bytes.
	Size() uint64
	// Ranges returns the data ranges of [off, end), ascending, merged, widened
	// to sectors (but for the file's end); true content: what is still remote
	// counts as data too. off is a multiple of the chunk size, end too or the
	// file's size.
	Ranges(ctx context.Context, off, end uint64) ([]wire.Range, error)
	// Known returns the window at index from the snapshot before where its
	// content is known to be the same without reading it (still remote, or
	// unchanged); chunkSize is the new snapshot's. It is asked only for windows
	// with data. A window that is not valid in a file of this Size and
	// chunkSize is not taken: the content is read.
	Known(ctx context.Context, index uint64, chunkSize uint32) (wire.Window, bool, error)
	// Previous returns the window at index of the snapshot before, changed or
	// not, so that an equal block is not put again. It is asked only for
	// windows that get a block of their own.
	Previous(ctx context.Context, index uint64, chunkSize uint32) (wire.Window, bool, error)
	// Before returns the window at index of an earlier snapshot with what changed since, nil where one of them is not known. It is asked only for
	// windows that get a block of their own.
	Before(ctx context.Context, index uint64, chunkSize uint32) (*Before, error)
	// ReadAt fills p from off on; a short read is an error.
	ReadAt(ctx context.Context, p []byte, off uint64) error
	// Close is called once, after all other calls have returned.
	Close() error
}

// Options of Build. The zero value: 256 KiB chunks, default zstd.
type Options struct {
	ChunkSize   uint32 // bytes; a power of two, wire.MinChunk to wire.MaxChunk
	Compression Compression
	Workers     int // sealing goroutines; 0: GOMAXPROCS
	// NoPatches has every window that changed written whole. Windows with a patch that did not change are taken by reference all the same.
	NoPatches bool
	// Features of the root from whose tree references are taken. Unsure: there may be references of which it is not known.
	Features uint64
	Unsure   bool
	// Trace, where set, returns the working set to go with the tree, whose root directory dir and all below it were put by then: the CID
	// that put, which stores one, returned, or that of an equal tree before; cid.Undef: there is none.
	Trace func(ctx context.Context, dir *wire.DirRef, put PutTrace) (cid.Cid, error)
	// Progress, where set, is told of files done and bytes read so far; from
	// any goroutine, so that a lower number may follow a higher one.
	Progress func(files, bytes uint64)
	// Have, where set, tells of blocks that are stored already, with all that
	// they link to: they are not put. From any goroutine.
	Have func(c cid.Cid) bool
}

// PutTrace stores a recorded working set. Its blocks have to be of the tree that is built.
type PutTrace func(t *wire.Trace) (cid.Cid, error)

// Stats counts what a Build did.
type Stats struct {
	Files, Dirs   uint64 // names visited, without the root
	BytesRead     uint64 // from files
	Blocks, Bytes uint64 // put into the sink
	FilesKept     uint64 // taken by reference, in directories that were too
}
