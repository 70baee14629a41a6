package backing

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residentStep is how much of a file is mapped at once to be asked about; a multiple of every page size.
const residentStep = 256 << 20

// Resident returns the ranges of fd, a regular file open for reading, within [0, size), that are in the page cache, in order and never touching each other. It
// reads nothing. Ranges begin at multiples of the page size, and end at such multiples or at size. (mincore: who may neither write
// the file nor own it is told that all is there.)
func Resident(fd int, size uint64) ([]Range, error) {
	page := uint64(os.Getpagesize())
	var list []Range
	for off := uint64(0); off < size; off += residentStep {
		n := min(residentStep, size-off)
		in, err := residentPages(fd, off, n, page)
		if err != nil {
			return nil, fmt.Errorf("look at the page cache: %w", err)
		}
		for i, b := range in {
			if b&1 == 0 {
				continue
			}
			at := off + uint64(i)*page
			length := min(page, size-at)
			if last := len(list) - 1; last >= 0 && list[last].End() == at {
				list[last].Len += length
			} else {
				list = append(list, Range{at, length})
			}
		}
	}
	return list, nil
}

func residentPages(fd int, off, n, page uint64) ([]byte, error) {
	m, err := unix.Mmap(fd, int64(off), int(n), unix.PROT_NONE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(m)
	in := make([]byte, (n+page-1)/page)
	_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(n), uintptr(unsafe.Pointer(&in[0])))
	if e != 0 {
		return nil, e
	}
	return in, nil
}
