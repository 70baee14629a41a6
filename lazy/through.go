package lazy

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/fusefs"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

var _ fusefs.Through = (*file)(nil)

// ReadThrough implements fusefs.Through: on a full disk what is missing is
// served from memory and not kept.
func (f *file) ReadThrough(ctx context.Context, off uint64, buf []byte) (int, error) {
	ctx, cancel := timeout(withPriority(ctx, reader), f.t.opt.FetchTimeout, f.t.opt.Volume)
	defer cancel()
	end := min(off+uint64(len(buf)), f.content.Size)
	cs := uint64(f.content.ChunkSize)
	data := map[uint64][]byte{} // of windows
	var windows []wire.Window
	if off < end {
		for w, err := range f.t.reader.Windows(ctx, f.content, off/cs, (end-1)/cs+1) {
			if err != nil {
				return 0, f.t.wrap(f.ino, err)
			}
			b, done, err := f.data(ctx, w, true) // the next read will be here, too
			if err != nil {
				return 0, err
			}
			done()
			windows, data[w.Index] = append(windows, w), b
		}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return 0, f.t.closed()
	}
	// What is missing first: a sector that an application writes meanwhile is
	// then served as it was, and not as the hole that it no longer is.
	type piece struct {
		w wire.Window
		r wire.Range
	}
	var gone []piece
	for _, w := range windows {
		missing, err := f.missingLocked(w)
		if err != nil {
			return 0, err
		}
		for _, r := range missing {
			gone = append(gone, piece{w, r})
		}
	}
	n, err := pread(f.fd, buf, off)
	if err != nil {
		return 0, fmt.Errorf("read inode %d of volume %s: %w", f.ino, f.t.opt.Volume, err)
	}
	for _, g := range gone {
		r := clip(g.r, off, off+uint64(n))
		if r.Len == 0 {
			continue
		}
		b, err := f.slice(g.w, data[g.w.Index], r)
		if err != nil {
			return 0, err
		}
		copy(buf[r.Off-off:], b)
	}
	return n, nil
}

// pread reads len(p) bytes at off, fewer only at the end of the file.
func pread(fd int, p []byte, off uint64) (int, error) {
	n := 0
	for n < len(p) {
		k, err := unix.Pread(fd, p[n:], int64(off)+int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return n, err
		case k == 0:
			return n, nil
		default:
			n += k
		}
	}
	return n, nil
}
