// Package storetest is the test suite of package store: Run is to be called
// by the tests of every store.Store, with a function that opens a fresh one.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return memory.New() })
//	}
//
// Block, Node and Seq make blocks for other tests as well.
package storetest
