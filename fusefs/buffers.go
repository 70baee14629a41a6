package fusefs

import (
	"math/bits"
	"sync"
	"unsafe"
)

// A process that is killed while the kernel copies a request into a page that it never had before fails that request with EIO: with a fatal signal
// no page is found any more. So all memory that requests are read into is written to once, before its first use, and stays.

// roomSize is what the kernel wants to find for any request: a header, the struct of a write, and its data.
const roomSize = maxWrite + 4096

// rooms is memory for requests that no reader of any mount uses. A mount that nobody uses has one reader, and that one has its own.
var rooms struct {
	mu   sync.Mutex
	free [][]byte
}

// keptRooms bounds rooms.free: 16 MiB.
const keptRooms = 16

// takeRoom returns memory for one request, all of it present. The data of a write lies on a page's boundary in it.
func takeRoom() []byte {
	rooms.mu.Lock()
	defer rooms.mu.Unlock()
	if n := len(rooms.free); n > 0 {
		room := rooms.free[n-1]
		rooms.free = rooms.free[:n-1]
		return room
	}
	return newRoom()
}

// giveRoom gives back what takeRoom returned, or nil.
func giveRoom(room []byte) {
	if room == nil {
		return
	}
	rooms.mu.Lock()
	defer rooms.mu.Unlock()
	if len(rooms.free) < keptRooms {
		rooms.free = append(rooms.free, room)
	}
}

func newRoom() []byte {
	const page = 4096
	b := make([]byte, roomSize+page)
	data := uintptr(unsafe.Pointer(&b[0])) + headerSize + writeSize
	room := b[(page-data%page)%page:][:roomSize]
	present(room)
	return room
}

const writeSize = 40 // struct fuse_write_in

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

// reader is what one reader needs for one request at a time.
type reader struct {
	request [4096]byte // a copy of a request that may wait
	answer  [4096]byte
	in, out [1][]byte
}

var readerPool = sync.Pool{New: func() any { return new(reader) }}

// answers are pools of memory for long answers, by the power of two of their size.
var answers [32]sync.Pool

// answerRoom returns size bytes to make an answer in, and what gives them back.
func (r *reader) answerRoom(size int) (room []byte, give func()) {
	if size <= len(r.answer) {
		return r.answer[:], func() {}
	}
	pool := &answers[bits.Len(uint(size-1))]
	if b, ok := pool.Get().(*[]byte); ok {
		return *b, func() { pool.Put(b) }
	}
	b := make([]byte, 1<<bits.Len(uint(size-1)))
	return b, func() { pool.Put(&b) }
}
