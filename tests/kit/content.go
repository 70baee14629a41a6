package kit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

const (
	sector = 4096
	// wholeLimit is the size from which on the middle of holes is not read.
	wholeLimit = 64 << 20
	// sampleStep is how far apart large holes are looked into.
	sampleStep = 16 << 20
)

// dataRanges returns {begin, end} of all data, by SEEK_DATA and SEEK_HOLE.
func dataRanges(fd int, size int64) ([][2]int64, error) {
	var list [][2]int64
	for off := int64(0); off < size; {
		begin, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("seek data at %d: %w", off, err)
		}
		end, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("seek hole at %d: %w", begin, err)
		}
		if begin < off || end <= begin {
			return nil, fmt.Errorf("seek from %d: data at %d, hole at %d", off, begin, end)
		}
		if n := len(list); n > 0 && list[n-1][1] == begin {
			list[n-1][1] = end
		} else {
			list = append(list, [2]int64{begin, end})
		}
		off = end
	}
	return list, nil
}

// hashFile returns a hash of what reading the file gives. Up to wholeLimit it is
// the SHA-256 of everything, as sha256sum(1) prints it. Above, it is that of all
// sectors that are not zero, each after its offset, and of the holes only the ends and
// samples are read.
func hashFile(fd int, size int64, data [][2]int64) (string, error) {
	h := sha256.New()
	if size <= wholeLimit {
		n, err := io.CopyBuffer(h, io.NewSectionReader(readerAt(fd), 0, size), make([]byte, 256<<10))
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes read of %d", n, size)
		}
		return fmt.Sprintf("%x", h.Sum(nil)), err
	}
	buf := make([]byte, 256<<10)
	read := func(begin, end int64) error {
		for off := begin &^ (sector - 1); off < end; {
			b := buf[:min(int64(len(buf)), end-off)]
			if _, err := io.ReadFull(io.NewSectionReader(readerAt(fd), off, int64(len(b))), b); err != nil {
				return fmt.Errorf("at %d: %w", off, err)
			}
			for i := 0; i < len(b); i += sector {
				if s := b[i:min(i+sector, len(b))]; !bytes.Equal(s, zeroSector[:len(s)]) {
					h.Write(binary.BigEndian.AppendUint64(nil, uint64(off)+uint64(i)))
					h.Write(s)
				}
			}
			off += int64(len(b))
		}
		return nil
	}
	at := int64(0)
	for _, r := range append(data, [2]int64{size, size}) {
		for off := at; off < r[0]; off += sampleStep {
			if err := read(off, min(off+sector, r[0])); err != nil {
				return "", err
			}
		}
		if last := r[0] - 1; last >= at+sector {
			if err := read(max(last&^(sector-1), at), r[0]); err != nil {
				return "", err
			}
		}
		if err := read(r[0], r[1]); err != nil {
			return "", err
		}
		at = (r[1] + sector - 1) &^ (sector - 1)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

var zeroSector [sector]byte

// readerAt is pread(2) of a descriptor.
type readerAt int

func (fd readerAt) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Pread(int(fd), b[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}
