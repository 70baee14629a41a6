// Package store is the contract of a block store: a place that keeps
// content-addressed blocks for a volume, on this machine or another.
//
// # Terms
//
//   - A block is up to 1 MiB of bytes; its CID (CIDv1, SHA-256) is computed
//     from them, so a block never changes and whoever has the CID can tell
//     whether the bytes are the right ones.
//   - A root is the CID of a dag-cbor block from which all other blocks of a
//     snapshot are reached by links (Links).
//   - A pin on a root protects everything it reaches; what no pin reaches may
//     be collected by the store, at a time of its choosing.
//
// # Guarantees
//
// No Store returns bytes from Get that do not hash to the CID asked for,
// whatever the machine at the other end does. PutMany returns nil only after
// all blocks are durable, as far as the store tells the truth about that (a
// Kubo daemon with its default configuration does not fsync; see package
// ipfs). No Store retries: time-outs and repetition are the caller's policy.
//
// Every method may be called from many goroutines at once.
//
// # After a crash
//
// What PutMany acknowledged is there. Of a PutMany that did not return, any
// part may be there, and putting it again is the repair. A Pin that did not
// return may or may not hold.
//
// # Example
//
//	err := s.PutMany(ctx, func(yield func(store.Block, error) bool) {
//		yield(store.Block{CID: store.Sum(store.Raw, data), Data: data}, nil)
//	})
//	...
//	data, err := s.Get(ctx, c)
//	if errors.Is(err, store.ErrNotFound) { ... }
//
// The suite that every implementation passes is package storetest.
package store
