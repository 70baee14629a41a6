// Package wire turns the nodes of a snapshot into bytes and back. It does no
// I/O and knows no keys; docs/FORMAT.md specifies every byte of it.
//
// # Terms
//
// A node is a block of the snapshot tree: the root, a page of a directory, an
// index of pages, an index of a file's windows, a trace. Its payload is CBOR,
// to be compressed and sealed by package snapshot. Its links, the CIDs of the
// blocks below, stand in the clear beside the sealed payload; the payload
// refers to them by their number. A window is one ChunkSize of a file; its
// data stands in a block of its own, or as a piece of a pack.
//
// # What it guarantees
//
//   - There is one encoding of every value. Decoders refuse any other, so that
//     what was decoded encodes to the same bytes again.
//   - Decoders enforce every bound in types.go before they allocate by it, and
//     every rule of order and shape. What comes out needs no further check.
//   - Errors are ErrFormat, ErrVersion or ErrFeature, wrapped; nothing panics
//     on foreign bytes.
//
// All functions may be called from many goroutines at once. Nothing that they
// return shares memory with what was passed in.
//
//	links, payload, err := wire.EncodeDir(entries)
//	block, err := wire.EncodeNode(links, sealed(payload))
//
//	n, err := wire.DecodeNode(block)
//	entries, err := wire.DecodeDir(n.Links, opened(n.Sealed))
package wire
