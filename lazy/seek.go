package lazy

import (
	"context"
	"errors"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// Seek implements fusefs.File: data is what is here or missing, holes are the
// rest. What is here and what is missing is looked up under one lock: a range
// that arrives between the two would be neither, and copied as zeros by those
// who go by the holes.
func (f *file) Seek(ctx context.Context, off uint64, whence int) (uint64, error) {
	ctx, cancel := timeout(withPriority(ctx, reader), f.t.opt.FetchTimeout, f.t.opt.Volume)
	defer cancel()
	f.mu.RLock()
	size, err := f.sizeLocked()
	f.mu.RUnlock()
	if err != nil {
		return 0, err
	}
	if off >= size {
		return 0, unix.ENXIO
	}
	if whence == unix.SEEK_DATA {
		return f.seekData(ctx, off, size)
	}
	return f.seekHole(ctx, off, size)
}

func (f *file) seekData(ctx context.Context, off, size uint64) (uint64, error) {
	here, err := f.localData(off, size)
	if err != nil || here == off {
		return here, err
	}
	// Before here nothing was local a moment ago. What is data there is in the
	// windows, missing or arrived since.
	cs := uint64(f.content.ChunkSize)
	for w, err := range f.t.reader.Windows(ctx, f.content, off/cs, (here-1)/cs+1) {
		if err != nil {
			return 0, f.t.wrap(f.ino, err)
		}
		start := max(off, w.Index*cs)
		data, err := f.dataFrom(w, start, min((w.Index+1)*cs, here))
		if err != nil {
			return 0, err
		}
		if len(data) > 0 {
			return data[0].Off, nil
		}
	}
	if here >= size {
		return 0, unix.ENXIO
	}
	return here, nil
}

func (f *file) seekHole(ctx context.Context, off, size uint64) (uint64, error) {
	cs := uint64(f.content.ChunkSize)
	for off < size {
		here, err := f.localEnd(off, size)
		if err != nil {
			return 0, err
		}
		if off = here; off == size {
			break
		}
		index := off / cs
		w := wire.Window{Index: index, Data: []wire.Range{}} // a window that is not listed has no data
		for listed, err := range f.t.reader.Windows(ctx, f.content, index, index+1) {
			if err != nil {
				return 0, f.t.wrap(f.ino, err)
			}
			w = listed
		}
		end := min((index+1)*cs, size)
		data, err := f.dataFrom(w, off, end)
		if err != nil {
			return 0, err
		}
		if len(data) == 0 || data[0].Off > off {
			return off, nil
		}
		if off = data[0].Off + data[0].Len; off < end {
			return off, nil
		}
	}
	return size, nil
}

// dataFrom returns what of [from, to), in window w, is data: here or missing.
func (f *file) dataFrom(w wire.Window, from, to uint64) ([]wire.Range, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	missing, err := f.missingLocked(w)
	if err != nil {
		return nil, err
	}
	var out []wire.Range
	for _, r := range missing {
		out = insert(out, clip(r, from, to))
	}
	if f.fd < 0 {
		return nil, f.t.closed()
	}
	here, err := backing.DataRanges(f.fd, from, to)
	for _, r := range here {
		out = insert(out, clip(wire.Range{Off: r.Off, Len: r.Len}, from, to))
	}
	return out, err
}

// missing returns the missing ranges of a window.
func (f *file) missing(w wire.Window) ([]wire.Range, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.missingLocked(w)
}

// localEnd returns the end of the data of the backing file that off is in; off
// where it is in none.
func (f *file) localEnd(off, size uint64) (uint64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return 0, f.t.closed()
	}
	n, err := unix.Seek(f.fd, int64(off), unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // truncated meanwhile
		return size, nil
	}
	return min(uint64(n), size), err
}

// localData returns the first offset from off on where the backing file has
// data; size where it has none.
func (f *file) localData(off, size uint64) (uint64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return 0, f.t.closed()
	}
	n, err := unix.Seek(f.fd, int64(off), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, nil
	}
	return min(uint64(n), size), err
}
