// Package memory is a store.Store that lives in the process: for tests, and
// as the plainest reading of what a Store has to do.
//
// It keeps every block until GC is called; GC removes what no pin reaches.
// Pins are recursive: they follow the links of dag-cbor blocks. Unlike a
// real node it has no grace period, so that a test can show what an unpinned
// snapshot costs.
//
// Every method may be called at once from many goroutines; Pin, PinUpdate and
// GC exclude each other and every Put. Nothing outlives the process.
//
//	s := memory.New()
//	err := s.PutMany(ctx, blocks)
//	err = s.Pin(ctx, root)
//	removed := s.GC()
package memory
