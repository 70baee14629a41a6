// Package archive writes and reads the file that holds one published snapshot for an offline copy: a CAR, which other IPFS tools read too.
// docs/FORMAT.md has its fields.
//
// # Terms
//
//   - The head of a file is its header and its first block: the manifest with its signature.
//   - The walk is the one order in which the blocks follow: from the root, each node before what it links to, depth first. What is among the Window blocks that
//     were met last, with all below it, is left out. Writer and Reader do the same walk, so each of them knows at any time which block comes next.
//
// # Guarantees
//
// A file that a Reader reads to io.EOF is whole: every block that the root reaches was in it, and matched its CID; and the manifest that names the root
// is signed by the volume's key. No key but the public one is needed, and none stands in the file. One snapshot makes the same file, byte for byte, wherever it is written.
// Memory is bounded by Window and by what is read ahead, whatever the size of the snapshot; a block that is met again after more
// than Window others is written again.
//
// A Reader and a Write belong to one goroutine each. Nothing is kept after a crash; the caller's file is as long as it got.
//
// # Example
//
//	r, err := archive.NewReader(file, pub)
//	...
//	for {
//		b, err := r.Next()
//		if err == io.EOF {
//			break // whole
//		}
//		...
//	}
package archive
