package main

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

func (x *fsx) read() error {
	off, n := x.span(len(x.m.p), longest)
	return x.compare(off, n)
}

func (x *fsx) write() error {
	off, n := x.span(x.max, longest)
	return x.pwrite(x.fd, off, x.noise(n))
}

func (x *fsx) append() error {
	n := min(1+x.r.IntN(longest), x.max-len(x.m.p))
	if n <= 0 {
		return nil
	}
	x.detail(" %d+%d", len(x.m.p), n)
	fd, err := unix.Open(x.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	p := x.noise(n)
	if k, err := unix.Write(fd, p); err != nil || k != n {
		return fmt.Errorf("wrote %d of %d bytes: %w", k, n, err)
	}
	x.m.write(len(x.m.p), p)
	return nil
}

func (x *fsx) pwrite(fd, off int, p []byte) error {
	if k, err := unix.Pwrite(fd, p, int64(off)); err != nil || k != len(p) {
		return fmt.Errorf("wrote %d of %d bytes: %w", k, len(p), err)
	}
	x.m.write(off, p)
	return nil
}

// mapped runs do with a mapping of the whole file and the range in it.
func (x *fsx) mapped(off, n, prot int, do func(p []byte) error) error {
	mem, err := unix.Mmap(x.fd, 0, off+n, prot, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	err = do(mem[off : off+n])
	if x.r.IntN(4) == 0 {
		if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
			return fmt.Errorf("msync: %w", err)
		}
	}
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap: %w", err)
	}
	return err
}

func (x *fsx) mapRead() error {
	off, n := x.span(len(x.m.p), longest)
	if off+n > len(x.m.p) {
		return nil
	}
	return x.mapped(off, n, unix.PROT_READ, func(p []byte) error { return same("read through a mapping", off, p, x.m.at(off, n)) })
}

func (x *fsx) mapWrite() error {
	off, n := x.span(x.max, longest)
	if off+n > len(x.m.p) {
		if err := unix.Ftruncate(x.fd, int64(off+n)); err != nil {
			return err
		}
		x.m.resize(off + n)
	}
	data := x.noise(n)
	x.m.write(off, data)
	return x.mapped(off, n, unix.PROT_READ|unix.PROT_WRITE, func(p []byte) error { copy(p, data); return nil })
}

func (x *fsx) truncate() error {
	size, _ := x.span(x.max, 1)
	var err error
	if x.r.IntN(2) == 0 {
		err = unix.Ftruncate(x.fd, int64(size))
	} else {
		err = unix.Truncate(x.path, int64(size))
	}
	if err == nil {
		x.m.resize(size)
	}
	return err
}

func (x *fsx) punch() error {
	off, n := x.span(x.max, longest)
	err := unix.Fallocate(x.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
	if err == nil {
		x.m.zero(off, n)
	}
	return err
}

func (x *fsx) zero() error {
	off, n := x.span(x.max, longest)
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
	if x.r.IntN(2) == 0 {
		mode |= unix.FALLOC_FL_KEEP_SIZE
	}
	x.detail(" mode %#x", mode)
	err := unix.Fallocate(x.fd, mode, int64(off), int64(n))
	if err == nil {
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
			x.m.grow(off + n)
		}
		x.m.zero(off, n)
	}
	return err
}

func (x *fsx) fallocate() error {
	off, n := x.span(x.max, longest)
	mode := uint32(x.r.IntN(2)) * unix.FALLOC_FL_KEEP_SIZE
	x.detail(" mode %#x", mode)
	err := unix.Fallocate(x.fd, mode, int64(off), int64(n))
	if err == nil && mode == 0 {
		x.m.grow(off + n)
	}
	return err
}

// blocks draws a range of whole blocks inside the file; n is 0 where there is none.
func (x *fsx) blocks(size, longest int) (off, n int) {
	all := size / page
	if all < 2 {
		return 0, 0
	}
	off = x.r.IntN(all - 1)
	n = min(1+x.r.IntN(longest/page), all-1-off)
	x.detail(" %d+%d", off*page, n*page)
	return off * page, n * page
}

func (x *fsx) collapse() error {
	off, n := x.blocks(len(x.m.p), longest)
	if n == 0 {
		return nil
	}
	err := unix.Fallocate(x.fd, unix.FALLOC_FL_COLLAPSE_RANGE, int64(off), int64(n))
	if err == nil {
		x.m.p = append(x.m.p[:off:off], x.m.p[off+n:]...)
	}
	return err
}

func (x *fsx) insert() error {
	off, n := x.blocks(len(x.m.p), longest)
	if n == 0 || len(x.m.p)+n > x.max {
		return nil
	}
	err := unix.Fallocate(x.fd, unix.FALLOC_FL_INSERT_RANGE, int64(off), int64(n))
	if err == nil {
		x.m.p = append(append(x.m.p[:off:off], make([]byte, n)...), x.m.p[off:]...)
	}
	return err
}

// apart draws a second offset for n bytes whose range does not meet the first.
func (x *fsx) apart(off, n int) (int, bool) {
	for range 10 {
		to := x.r.IntN(max(x.max-n, 1))
		if x.r.IntN(2) == 0 {
			to &^= page - 1
		}
		if to+n <= off || off+n <= to {
			x.detail(" to %d", to)
			return to, true
		}
	}
	return 0, false
}

func (x *fsx) copyRange() error {
	off, n := x.span(len(x.m.p), longest)
	n = min(n, len(x.m.p)-off)
	to, ok := x.apart(off, n)
	if !ok || n <= 0 {
		return nil
	}
	for n > 0 {
		in, out := int64(off), int64(to)
		k, err := unix.CopyFileRange(x.fd, &in, x.fd, &out, n, 0)
		if err != nil {
			return err
		}
		if k <= 0 || k > n {
			return fmt.Errorf("copied %d of %d bytes", k, n)
		}
		x.m.write(to, bytes.Clone(x.m.at(off, k)))
		off, to, n = off+k, to+k, n-k
	}
	return nil
}

func (x *fsx) clone() error {
	off, n := x.blocks(len(x.m.p), longest)
	if n == 0 {
		return nil
	}
	to, ok := x.apart(off, n)
	if to &^= page - 1; !ok || to < off+n && off < to+n {
		return nil
	}
	err := unix.IoctlFileCloneRange(x.fd, &unix.FileCloneRange{Src_fd: int64(x.fd), Src_offset: uint64(off), Src_length: uint64(n), Dest_offset: uint64(to)})
	if err == nil {
		x.m.write(to, bytes.Clone(x.m.at(off, n)))
	}
	return err
}

// dedupe changes no byte, whether the two ranges are the same or not.
func (x *fsx) dedupe() error {
	off, n := x.blocks(len(x.m.p), longest)
	if n == 0 {
		return nil
	}
	to := off + n
	if to+n > len(x.m.p)&^(page-1) {
		return nil
	}
	arg := unix.FileDedupeRange{Src_offset: uint64(off), Src_length: uint64(n), Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(x.fd), Dest_offset: uint64(to)}}}
	if err := unix.IoctlFileDedupeRange(x.fd, &arg); err != nil {
		return err
	}
	if s := arg.Info[0].Status; s < 0 {
		return unix.Errno(-s)
	}
	return x.compare(off, 2*n)
}

// unbuffered returns a descriptor with O_DIRECT.
func (x *fsx) unbuffered() (int, error) {
	var err error
	if x.direct < 0 {
		x.direct, err = unix.Open(x.path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	}
	return x.direct, err
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, n+page)
	skip := page - int(uintptr(unsafe.Pointer(&b[0]))%page)
	return b[skip : skip+n]
}

func (x *fsx) directRead() error {
	off, n := x.blocks(len(x.m.p), longest)
	if n == 0 {
		return nil
	}
	fd, err := x.unbuffered()
	if err != nil {
		return err
	}
	p := aligned(n)
	k, err := unix.Pread(fd, p, int64(off))
	if err != nil {
		return err
	}
	return same("read directly", off, p[:k], x.m.at(off, n))
}

func (x *fsx) directWrite() error {
	off, n := x.blocks(x.max, longest)
	if n == 0 {
		return nil
	}
	fd, err := x.unbuffered()
	if err != nil {
		return err
	}
	p := aligned(n)
	copy(p, x.noise(n))
	return x.pwrite(fd, off, p)
}

// seek holds what SEEK_DATA and SEEK_HOLE say against the model: what they call a hole has to be zeros.
func (x *fsx) seek() error {
	end := int64(len(x.m.p))
	for off := int64(0); off < end; {
		data, err := unix.Seek(x.fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data = end
		} else if err != nil {
			return fmt.Errorf("SEEK_DATA from %d: %w", off, err)
		}
		hole := x.m.p[off:min(data, end)]
		if i := len(hole) - len(bytes.TrimLeft(hole, "\x00")); i < len(hole) {
			return fmt.Errorf("SEEK_DATA from %d says %d, but byte %d is %#x", off, data, off+int64(i), hole[i])
		}
		if data >= end {
			return nil
		}
		if off, err = unix.Seek(x.fd, data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("SEEK_HOLE from %d: %w", data, err)
		}
		if off <= data || off > end {
			return fmt.Errorf("SEEK_HOLE from %d says %d", data, off)
		}
	}
	return nil
}

func (x *fsx) sync() error {
	if x.r.IntN(2) == 0 {
		return unix.Fdatasync(x.fd)
	}
	return unix.Fsync(x.fd)
}

func (x *fsx) reopen() error {
	if err := x.close(); err != nil {
		return err
	}
	return x.open()
}

// drop makes the kernel forget its pages, as far as it likes.
func (x *fsx) drop() error { return unix.Fadvise(x.fd, 0, 0, unix.FADV_DONTNEED) }
