package fusefs

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// absent counts the pages of b that are not in memory.
func absent(t *testing.T, b []byte) (n int) {
	t.Helper()
	page := uintptr(os.Getpagesize())
	first := uintptr(unsafe.Pointer(&b[0])) &^ (page - 1)
	length := uintptr(unsafe.Pointer(&b[len(b)-1])) + 1 - first
	resident := make([]byte, (length+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, first, length, uintptr(unsafe.Pointer(&resident[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, r := range resident {
		n += 1 - int(r&1)
	}
	return n
}

// Requests are read only into memory that is there: also with buffers that are taken while others are in use, and after collections.
func TestBuffers_AreInMemoryBeforeRequestsAreReadIntoThem(t *testing.T) {
	var used [][]byte
	for range 24 {
		b := takeRoom()
		used = append(used, b)
		if len(b) < maxWrite+headerSize+writeSize {
			t.Fatalf("a buffer of %d bytes", len(b))
		}
		if at := uintptr(unsafe.Pointer(&b[headerSize+writeSize])); at%4096 != 0 {
			t.Errorf("the data of a write is at %#x", at)
		}
		if n := absent(t, b); n != 0 {
			t.Errorf("%d pages are not there", n)
		}
	}
	for _, b := range used {
		giveRoom(b)
	}
	runtime.GC()
	for range 4 {
		if n := absent(t, takeRoom()); n != 0 {
			t.Errorf("%d pages are not there", n)
		}
	}
}
