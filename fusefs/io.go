package fusefs

import (
	"context"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Read is FUSE_READ. The data goes from the page cache of the backing file to the kernel without passing our memory.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	c := f.begin("read", cancel, &in.InHeader)
	h, err := f.handles.get(in.Fh)
	if err != nil {
		return nil, c.end(err)
	}
	if r := h.node.remote(); r != nil {
		h.node.fetching.Add(1)
		err := r.Read(c, in.Offset, uint64(in.Size))
		h.node.fetching.Add(-1)
		if t, ok := r.(Through); ok && errors.Is(err, ErrNoSpace) {
			n, err := t.ReadThrough(c, in.Offset, buf)
			if err != nil {
				return nil, c.end(err)
			}
			return fuse.ReadResultData(buf[:n]), c.end(nil)
		}
		if err != nil {
			return nil, c.end(err)
		}
	}
	return fuse.ReadResultFd(uintptr(h.node.fdR), int64(in.Offset), int(in.Size)), c.end(nil)
}

// Write is FUSE_WRITE. The offset is the kernel's also for O_APPEND: it holds
// the size of the file, and the descriptor written to is not O_APPEND.
func (f *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	c := f.begin("write", cancel, &in.InHeader)
	h, err := f.handles.get(in.Fh)
	if err == nil && h.node.fdW < 0 {
		err = unix.EBADF
	}
	if err != nil {
		return 0, c.end(err)
	}
	n := h.node
	if err := f.room(n.fdW, in.Offset, uint64(len(data))); err != nil {
		return 0, c.end(err)
	}
	var written int
	kill := in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0
	do := func() error {
		return f.change(func() error {
			return f.maybePlain(c, kill, n.fdW, func() (err error) {
				put := keepCaps(n.fdW, in.WriteFlags)
				skip := c.alreadyAppended(n.fdW, in.Offset, uint64(len(data)))
				written, err = pwriteAll(n.fdW, data[skip:], int64(in.Offset)+int64(skip))
				written += skip
				return errors.Join(err, put())
			})
		})
	}
	err = f.again(func() error { return f.aroundWrite(c, n, in.Offset, uint64(len(data)), do) })
	if written > 0 {
		err = nil // the rest is for the next write to fail on
	}
	return uint32(written), c.end(err)
}

// keepCaps returns what puts the capabilities of a file back after a write: one that brings what was stored through a
// mapping must not take them away, as any other does.
func keepCaps(fd int, flags uint32) func() error {
	var caps [64]byte
	n := 0
	if flags&fuse.WRITE_CACHE != 0 {
		n, _ = unix.Fgetxattr(fd, capsXattr, caps[:]) // -1 where there are none
	}
	return func() error {
		if n <= 0 {
			return nil
		}
		return unix.Fsetxattr(fd, capsXattr, caps[:n], 0)
	}
}

const capsXattr = "security.capability"

// aroundWrite runs do, which writes [off, off+n) of nd, under its residency.
func (f *FS) aroundWrite(ctx context.Context, nd *node, off, n uint64, do func() error) error {
	if r := nd.remote(); r != nil {
		return r.Write(ctx, off, n, do)
	}
	return do()
}

// pwriteAll writes all of p. After an error it returns what was written before it.
func pwriteAll(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, unix.EIO
		}
		done += n
	}
	return done, nil
}

// preadAll reads until p is full or the file ends.
func preadAll(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// Lseek is FUSE_LSEEK: SEEK_DATA and SEEK_HOLE, from the true content.
func (f *FS) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	c := f.begin("lseek", cancel, &in.InHeader)
	h, err := f.handles.get(in.Fh)
	if err != nil {
		return c.end(err)
	}
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return c.end(unix.EINVAL)
	}
	if !f.flushMapped(h.node) {
		out.Offset, err = allData(h.node.fdR, in.Offset, in.Whence)
		return c.end(err)
	}
	if r := h.node.remote(); r != nil {
		out.Offset, err = r.Seek(c, in.Offset, int(in.Whence))
		return c.end(err)
	}
	off, err := unix.Seek(h.node.fdR, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return c.end(err)
}

// flushMapped has the kernel write what was stored through mappings of its own pages, which it does not do by itself before it asks
// for data and holes: a copy of the file would miss it. It waits for pages that are being read; while one of
// them may wait for the network, it does nothing and returns false.
func (f *FS) flushMapped(n *node) bool {
	n.mu.Lock()
	storers := n.storers
	n.mu.Unlock()
	if storers == 0 {
		return true
	}
	if n.fetching.Load() > 0 {
		return false
	}
	f.server.invalidate(inoToNode(n.ino), 0, 0)
	return true
}

// allData answers SEEK_DATA and SEEK_HOLE for a file whose holes are not known: it has none.
func allData(fd int, off uint64, whence uint32) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	if off >= uint64(st.Size) {
		return 0, unix.ENXIO
	}
	if whence == unix.SEEK_DATA {
		return off, nil
	}
	return uint64(st.Size), nil
}

// Fallocate is FUSE_FALLOCATE: preallocation, punching, zeroing. The kernel refuses the modes that BTRFS has not either.
func (f *FS) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	c := f.begin("fallocate", cancel, &in.InHeader)
	h, err := f.handles.get(in.Fh)
	if err == nil && h.node.fdW < 0 {
		err = unix.EBADF
	}
	if err != nil {
		return c.end(err)
	}
	n := h.node
	if in.Mode&unix.FALLOC_FL_PUNCH_HOLE == 0 {
		if err := f.room(n.fdW, in.Offset, in.Length); err != nil {
			return c.end(err)
		}
	}
	do := func() error {
		return f.change(func() error {
			return f.maybePlain(c, !keepsSuid(n.fdW, in.Pid), n.fdW, func() error {
				return unix.Fallocate(n.fdW, in.Mode, int64(in.Offset), int64(in.Length))
			})
		})
	}
	r := n.remote()
	switch {
	case r == nil:
		err = f.again(do)
	case in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0:
		err = r.Punch(c, in.Offset, in.Length, do)
	default:
		err = r.Write(c, in.Offset, in.Length, do)
	}
	return c.end(err)
}

// copyAtOnce bounds what one copy_file_range of a file with missing parts fetches, and what one into such a file
// copies; the caller comes back for more.
const (
	copyAtOnce = 16 << 20
	copyInto   = 1 << 20
)

// CopyFileRange is FUSE_COPY_FILE_RANGE: BTRFS shares whole blocks and copies the rest.
func (f *FS) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	c := f.begin("copy_file_range", cancel, &in.InHeader)
	n, err := f.copyRange(c, in)
	return uint32(n), c.end(err)
}

func (f *FS) copyRange(c *call, in *fuse.CopyFileRangeIn) (int, error) {
	src, err := f.handles.get(in.FhIn)
	if err != nil {
		return 0, err
	}
	dst, err := f.handles.get(in.FhOut)
	if err != nil {
		return 0, err
	}
	if dst.node.fdW < 0 {
		return 0, unix.EBADF
	}
	var st unix.Stat_t
	if err := unix.Fstat(src.node.fdR, &st); err != nil {
		return 0, err
	}
	if in.OffIn >= uint64(st.Size) {
		return 0, nil
	}
	// The answer has 32 bits; a multiple of the block keeps the copies shared.
	n := min(in.Len, uint64(st.Size)-in.OffIn, 1<<31-1<<20)
	if r := src.node.remote(); r != nil {
		n = min(n, copyAtOnce)
		if err := r.Read(c, in.OffIn, n); err != nil {
			return 0, err
		}
	}
	var data []byte
	r := dst.node.remote()
	if r != nil {
		// BTRFS would copy holes as holes, and a hole in such a file is what is still missing (R3): so bytes are copied.
		data = make([]byte, min(n, copyInto))
		k, err := preadAll(src.node.fdR, data, int64(in.OffIn))
		if err != nil || k == 0 {
			return 0, err
		}
		data, n = data[:k], uint64(k)
	}
	if err := f.room(dst.node.fdW, in.OffOut, n); err != nil {
		return 0, err
	}
	var copied int
	do := func() error {
		return f.change(func() error {
			return f.maybePlain(c, !keepsSuid(dst.node.fdW, in.Pid), dst.node.fdW, func() (err error) {
				offIn, offOut := int64(in.OffIn), int64(in.OffOut)
				if data != nil {
					if err := copyRefused(dst.node.fdW); err != nil {
						return err
					}
					copied, err = pwriteAll(dst.node.fdW, data, offOut)
				} else {
					copied, err = unix.CopyFileRange(src.node.fdR, &offIn, dst.node.fdW, &offOut, int(n), 0)
				}
				return err
			})
		})
	}
	if r != nil {
		err = r.Write(c, in.OffOut, n, do)
	} else {
		err = do()
	}
	if copied > 0 {
		err = nil // the rest is for the next call to fail on
	}
	return copied, err
}

// copyRefused is what copy_file_range says of a target that was made immutable after it was opened; a write there is not refused.
func copyRefused(fd int) error {
	flags, err := unix.IoctlGetUint32(fd, fsGetFlags)
	if err == nil && flags&flImmutable != 0 {
		err = unix.EPERM
	}
	return err
}

const fsyncDataOnly = 1 // FUSE_FSYNC_FDATASYNC

// Fsync is FUSE_FSYNC.
func (f *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	c := f.begin("fsync", cancel, &in.InHeader)
	h, err := f.handles.get(in.Fh)
	if err != nil {
		return c.end(err)
	}
	return c.end(f.sync(c, h.node.fdR, in.FsyncFlags))
}

// FsyncDir is FUSE_FSYNCDIR.
func (f *FS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	c := f.begin("fsyncdir", cancel, &in.InHeader)
	d, err := f.openDir(c.ino)
	if err != nil {
		return c.end(err)
	}
	defer d.release()
	return c.end(f.sync(c, d.fd, in.FsyncFlags))
}

func (f *FS) sync(c *call, fd int, flags uint32) error {
	do := func() error { return f.tree.Fsync(fd, flags&fsyncDataOnly != 0) }
	if f.res.Complete() {
		return do()
	}
	return f.res.Sync(c, fd, do)
}
