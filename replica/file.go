package replica

import (
	"context"
	"fmt"
	"io"
	"sync"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

var (
	_ snapshot.File = (*localFile)(nil)
	_ snapshot.File = (*partialFile)(nil)
)

// localFile is a regular file of the snapshot with nothing remote in it.
type localFile struct {
	size   uint64
	before []*remote // contents of earlier snapshots to compare windows with, the newest first

	mu sync.Mutex // the descriptor's position
	fd int
}

// Size implements snapshot.File.
func (f *localFile) Size() uint64 { return f.size }

// Ranges implements snapshot.File.
func (f *localFile) Ranges(_ context.Context, off, end uint64) ([]wire.Range, error) {
	list, err := f.data(off, end)
	return widen(list, f.size), err
}

// Known implements snapshot.File: a file that gets here was changed, and which of its windows were is not known without reading.
func (f *localFile) Known(context.Context, uint64, uint32) (wire.Window, bool, error) {
	return wire.Window{}, false, nil
}

// Previous implements snapshot.File.
func (f *localFile) Previous(ctx context.Context, index uint64, chunkSize uint32) (wire.Window, bool, error) {
	for _, v := range f.before {
		if v.content.ChunkSize != chunkSize {
			continue
		}
		if w, ok, err := v.window(ctx, index); ok || err != nil {
			return w, ok, err
		}
	}
	return wire.Window{}, false, nil
}

// Before implements snapshot.File: what changed is not known.
func (f *localFile) Before(context.Context, uint64, uint32) (*snapshot.Before, error) {
	return nil, nil
}

// ReadAt implements snapshot.File.
func (f *localFile) ReadAt(ctx context.Context, p []byte, off uint64) error {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Pread(f.fd, p, int64(off))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		if n == 0 { // the snapshot is read-only: it cannot have shrunk
			return fmt.Errorf("read at %d: %w", off, io.ErrUnexpectedEOF)
		}
		p, off = p[n:], off+uint64(n)
	}
	return nil
}

// Close implements snapshot.File.
func (f *localFile) Close() error { return unix.Close(f.fd) }

// data returns the data ranges of the backing file within [off, end).
func (f *localFile) data(off, end uint64) ([]wire.Range, error) {
	f.mu.Lock()
	list, err := backing.DataRanges(f.fd, off, min(end, f.size))
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	out := make([]wire.Range, len(list))
	for i, r := range list {
		out[i] = wire.Range{Off: r.Off, Len: r.Len}
	}
	return out, nil
}

// partialFile is a file with a pending mark that an application has changed: some of it is local, some remote, and some neither.
type partialFile struct {
	localFile
	mark   *mark.File
	remote *remote // of the mark
}

// missing returns what of [off, end) is remote: within the counted size, data in the reference, not in the list of zeros, and a
// hole here. local is what data returned for the same bounds.
func (f *partialFile) missing(ctx context.Context, local []wire.Range, off, end uint64) ([]wire.Range, error) {
	list, err := f.remote.ranges(ctx, off, min(end, f.size, f.mark.Valid))
	if err != nil {
		return nil, err
	}
	return wire.Subtract(wire.Subtract(list, f.mark.Zero), local), nil
}

// Ranges implements snapshot.File.
func (f *partialFile) Ranges(ctx context.Context, off, end uint64) ([]wire.Range, error) {
	local, err := f.data(off, end)
	if err != nil {
		return nil, err
	}
	gone, err := f.missing(ctx, local, off, end)
	if err != nil {
		return nil, err
	}
	return widen(wire.Union(local, gone), f.size), nil
}

// Known implements snapshot.File: a window of the mark with nothing local in it, that neither the list of zeros, nor the counted
// size, nor the file's size touches, is what it was.
func (f *partialFile) Known(ctx context.Context, index uint64, chunkSize uint32) (wire.Window, bool, error) {
	c := &f.mark.Content
	if c.ChunkSize != chunkSize {
		return wire.Window{}, false, nil
	}
	off := index * uint64(chunkSize)
	end := min(off+uint64(chunkSize), c.Size)
	// A window ends at the size of its file: one that is cut elsewhere has other ranges.
	if off >= end || end != min(off+uint64(chunkSize), f.size) || f.mark.Valid < end || overlaps(f.mark.Zero, off, end) {
		return wire.Window{}, false, nil
	}
	local, err := f.data(off, end)
	if err != nil || len(local) > 0 {
		return wire.Window{}, false, err
	}
	return f.remote.window(ctx, index)
}

// ReadAt implements snapshot.File.
func (f *partialFile) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if err := f.localFile.ReadAt(ctx, p, off); err != nil { // holes read as zeros
		return err
	}
	end := off + uint64(len(p))
	local, err := f.data(off, end)
	if err != nil {
		return err
	}
	gone, err := f.missing(ctx, local, off, end)
	if err != nil {
		return err
	}
	for _, r := range gone {
		if err := f.remote.read(ctx, p[r.Off-off:r.Off+r.Len-off], r.Off); err != nil {
			return err
		}
	}
	return nil
}
