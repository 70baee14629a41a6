package fusefs

import (
	"errors"
	"reflect"
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// A process that is killed while the kernel copies a request into a page that it never had before fails that request with EIO: with a fatal signal
// no page is found any more. So every buffer that requests are read into is written to once, before its first use; as long as it is in use or in
// the library's pool, nobody takes its pages away again.

var errPool = errors.New("the protocol library keeps its buffers in another way than this program knows")

// populate has the protocol library read requests only into memory that is there. The library has no option for it: its pool of buffers is found by
// name. Before the library serves.
func populate(server *fuse.Server) error {
	pool, err := readPool(server)
	if err != nil {
		return err
	}
	fresh := pool.New
	pool.New = nil
	var used []any // what INIT was read into: only its first page was needed
	for b := pool.Get(); b != nil; b = pool.Get() {
		used = append(used, b)
	}
	pool.New = func() any {
		b := fresh()
		if b, ok := b.([]byte); ok {
			present(b)
		}
		return b
	}
	for _, b := range used {
		if b, ok := b.([]byte); ok {
			present(b)
		}
		pool.Put(b)
	}
	return nil
}

// readPool is where the library has the buffers that requests are read into. Not to be asked while it serves.
func readPool(server *fuse.Server) (*sync.Pool, error) {
	f := reflect.ValueOf(server).Elem().FieldByName("readPool")
	if !f.IsValid() || f.Type() != reflect.TypeFor[sync.Pool]() {
		return nil, errPool
	}
	pool := (*sync.Pool)(unsafe.Pointer(f.UnsafeAddr()))
	if pool.New == nil {
		return nil, errPool
	}
	return pool, nil
}

// present makes every page of b present.
func present(b []byte) {
	const page = 4096 // no architecture has smaller ones
	for i := 0; i < len(b); i += page {
		b[i] = 0
	}
	if len(b) > 0 {
		b[len(b)-1] = 0
	}
}
