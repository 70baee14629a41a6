package backing

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Range is a run of bytes.
type Range struct{ Off, Len uint64 }

// End is the offset behind the range.
func (r Range) End() uint64 { return r.Off + r.Len }

// DataRanges returns the data ranges of fd, a regular file, within [off, end), in order and
// never touching each other, by SEEK_DATA and SEEK_HOLE. Data not yet on the disk counts, so do
// compressed and inline extents; preallocated space is a hole. Ranges begin at multiples of 4 KiB,
// or at off; they end at such multiples, at end, or at the end of the file. It
// moves fd's position.
func DataRanges(fd int, off, end uint64) ([]Range, error) {
	var list []Range
	for off < end {
		data, err := seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO { // no data up to the end of the file, or past it
			break
		}
		if err != nil {
			return nil, fmt.Errorf("seek data at %d: %w", off, err)
		}
		if data >= end {
			break
		}
		hole, err := seek(fd, data, unix.SEEK_HOLE)
		if err == unix.ENXIO { // truncated between the two
			break
		}
		if err != nil {
			return nil, fmt.Errorf("seek hole at %d: %w", data, err)
		}
		hole = min(hole, end)
		if n := len(list); n > 0 && list[n-1].End() == data {
			list[n-1].Len += hole - data
		} else {
			list = append(list, Range{data, hole - data})
		}
		if hole <= off { // filled between the two, no progress otherwise
			hole = off + 1
		}
		off = hole
	}
	return list, nil
}

// Holes returns the holes of fd within [off, end), as DataRanges does the
// data; end may lie past the file's size, what lies past it counts as hole.
func Holes(fd int, off, end uint64) ([]Range, error) {
	data, err := DataRanges(fd, off, end)
	if err != nil {
		return nil, err
	}
	var list []Range
	for _, r := range data {
		if r.Off > off {
			list = append(list, Range{off, r.Off - off})
		}
		off = r.End()
	}
	if off < end {
		list = append(list, Range{off, end - off})
	}
	return list, nil
}

func seek(fd int, off uint64, whence int) (uint64, error) {
	if int64(off) < 0 {
		return 0, unix.ENXIO
	}
	n, err := unix.Seek(fd, int64(off), whence)
	return uint64(n), err
}
