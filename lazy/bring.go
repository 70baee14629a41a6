package lazy

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/mark"
	"fractal-lazy/mutant"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// parallelWindows is how many windows of one file one reader's request asks
// for at once.
const parallelWindows = 8

// bring returns when nothing of [off, end) is missing. It fetches whole
// windows, at the priority of ctx.
func (f *file) bring(ctx context.Context, off, end uint64) error {
	end = min(end, f.content.Size)
	if off >= end {
		return nil
	}
	cs := uint64(f.content.ChunkSize)
	first, last := off/cs, (end-1)/cs
	if first == last {
		return f.bringOne(ctx, first)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelWindows)
	var err error
	for w, werr := range f.t.reader.Windows(ctx, f.content, first, last+1) {
		if werr != nil {
			err = f.t.wrap(f.ino, werr)
			break
		}
		if f.here.has(w.Index) {
			continue
		}
		if gctx.Err() != nil {
			break // one has failed
		}
		group.Go(func() error { return f.bringWindow(gctx, w) })
	}
	if werr := group.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr
	}
	return err
}

// bringOne is bring for what lies in the one window i.
func (f *file) bringOne(ctx context.Context, i uint64) error {
	if f.here.has(i) {
		return nil
	}
	for w, err := range f.t.reader.Windows(ctx, f.content, i, i+1) {
		if err != nil {
			return f.t.wrap(f.ino, err)
		}
		return f.bringWindow(ctx, w)
	}
	f.here.add(i) // a window that is not listed is a hole
	return nil
}

// wrap names the volume and the inode of an error from the snapshot's reader.
func (t *Tree) wrap(ino uint64, err error) error {
	switch {
	case errors.Is(err, fusefs.ErrRemote), errors.Is(err, fusefs.ErrTimeout), errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%w: volume %s: inode %d: %w", fusefs.ErrIntegrity, t.opt.Volume, ino, err)
}

// bringWindow fetches one window and writes it where it is missing.
func (f *file) bringWindow(ctx context.Context, w wire.Window) error {
	missing, err := f.missing(w)
	if err != nil {
		return err
	}
	if len(missing) > 0 && !f.bringLocal(ctx, w, missing) {
		data, done, err := f.data(ctx, w, f.content.Data <= wire.MaxPacked)
		if err != nil {
			return err
		}
		defer done() // when it is in the file
		if err := f.fill(w, data); err != nil {
			return err
		}
	}
	f.here.add(w.Index)
	f.t.finish.consider(f)
	return nil
}

// data fetches the data of a window, its ranges one behind the other: from its block, and that of its patch, which is asked for at once. keep: others will want
// pieces of the same block; of a patch's they always may. The caller calls done when the data is where the next one finds it.
func (f *file) data(ctx context.Context, w wire.Window, keep bool) (data []byte, done func(), err error) {
	if mutant.Is(mutant.WindowBefore) {
		w = f.windowBefore(ctx, w)
	}
	if w.Patch == nil {
		block, done, err := f.t.fetch.data(ctx, w.Block, keep)
		if err != nil {
			return nil, nil, err
		}
		if data, err = f.piece(block, nil, w); err != nil {
			done()
			return nil, nil, err
		}
		return data, done, nil
	}
	if data, done = f.localBase(ctx, w); data != nil {
		return data, done, nil
	}
	var base, patch []byte
	var baseDone, patchDone func()
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		base, baseDone, err = f.t.fetch.data(gctx, w.Block, keep)
		return err
	})
	group.Go(func() (err error) {
		patch, patchDone, err = f.t.fetch.data(gctx, w.Patch.Block, true)
		return err
	})
	err = group.Wait() // the first error
	done = func() {
		for _, d := range []func(){baseDone, patchDone} {
			if d != nil {
				d()
			}
		}
	}
	if err == nil {
		data, err = f.piece(base, patch, w)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return data, done, nil
}

// windowBefore is a fault, where it can be had: the window before w in its place.
func (f *file) windowBefore(ctx context.Context, w wire.Window) wire.Window {
	if w.Index == 0 || w.Data != nil || (w.Index+1)*uint64(f.content.ChunkSize) > f.content.Size {
		return w
	}
	for b, err := range f.t.reader.Windows(ctx, f.content, w.Index-1, w.Index) {
		if err == nil && b.Data == nil {
			b.Index = w.Index
			return b
		}
	}
	return w
}

// piece returns the data of a window from opened blocks.
func (f *file) piece(base, patch []byte, w wire.Window) ([]byte, error) {
	data, err := snapshot.Piece(base, patch, f.content, w)
	if err != nil {
		return nil, fmt.Errorf("%w: volume %s: inode %d: block %s: %w", fusefs.ErrIntegrity, f.t.opt.Volume, f.ino, w.Block, err)
	}
	return data, nil
}

// fill writes a window's data into what is missing of it.
func (f *file) fill(w wire.Window, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	missing, err := f.missingLocked(w) // others may have been here meanwhile
	if err != nil || len(missing) == 0 {
		return err
	}
	var n uint64
	err = f.quietlyLocked(func() error {
		for _, r := range missing {
			b, err := f.slice(w, data, r)
			if err != nil {
				return err
			}
			if err := pwrite(f.fd, b, r.Off); err != nil {
				return fmt.Errorf("fill inode %d of volume %s: %w", f.ino, f.t.opt.Volume, err)
			}
			n += r.Len
		}
		return nil
	})
	f.t.count.fetched(n)
	return err
}

// missingLocked returns the missing ranges of a window.
func (f *file) missingLocked(w wire.Window) ([]wire.Range, error) {
	if f.local.Load() {
		return nil, nil
	}
	size, err := f.sizeLocked()
	if err != nil {
		return nil, err
	}
	limit := min(size, f.m.Valid)
	var out []wire.Range
	for _, r := range f.dataOf(w) {
		if r = clip(r, 0, limit); r.Len == 0 {
			continue
		}
		for _, r := range subtract(r, f.m.Zero) {
			holes, err := backing.Holes(f.fd, r.Off, r.Off+r.Len)
			if err != nil {
				return nil, fmt.Errorf("inode %d: %w", f.ino, err)
			}
			for _, h := range holes {
				out = append(out, wire.Range{Off: h.Off, Len: h.Len})
			}
		}
	}
	return out, nil
}

// isMissingLocked reports whether the sector at off, a multiple of its size,
// may be missing. Where the file's index has to be fetched to know, it says yes
// for a hole, and bring finds out.
func (f *file) isMissingLocked(off uint64) (bool, error) {
	if off >= f.m.Valid || off >= f.content.Size || f.here.has(off/uint64(f.content.ChunkSize)) {
		return false, nil
	}
	if covers(f.m.Zero, wire.Range{Off: off, Len: sector}) {
		return false, nil
	}
	holes, err := backing.Holes(f.fd, off, off+1)
	return len(holes) > 0, err
}

// dataOf returns the data ranges of a window, as offsets in the file.
func (f *file) dataOf(w wire.Window) []wire.Range {
	start := w.Index * uint64(f.content.ChunkSize)
	if w.Data == nil {
		return []wire.Range{clip(wire.Range{Off: start, Len: uint64(f.content.ChunkSize)}, 0, f.content.Size)}
	}
	out := make([]wire.Range, len(w.Data))
	for i, r := range w.Data {
		out[i] = wire.Range{Off: start + r.Off, Len: r.Len}
	}
	return out
}

// slice returns the bytes of r, which lies in one data range of w, from the
// window's data.
func (f *file) slice(w wire.Window, data []byte, r wire.Range) ([]byte, error) {
	at := uint64(0)
	for _, d := range f.dataOf(w) {
		if d.Off <= r.Off && r.Off+r.Len <= d.Off+d.Len {
			from := at + r.Off - d.Off
			return data[from : from+r.Len], nil
		}
		at += d.Len
	}
	return nil, fmt.Errorf("%w: volume %s: inode %d has no data at %d", fusefs.ErrIntegrity, f.t.opt.Volume, f.ino, r.Off)
}

// quietlyLocked runs do, which writes to the file, so that only its content
// changes: a write clears capabilities and moves times.
//
// Order: 1 the mark holds times, capabilities and flags, where it does not yet; 2 the write; 3 the capabilities, which are read from the
// inode. The times follow when an application changes the file, or when it is finished: till then nobody sees those of the inode. After a crash the mark is
// right, whatever the inode says. So many windows in a row cost one mark.
func (f *file) quietlyLocked(do func() error) error {
	f.t.still.RLock() // no snapshot in the middle of it
	defer f.t.still.RUnlock()
	attr, full, err := f.holdLocked()
	if err != nil {
		return err
	}
	err = do() // a part of it may have been done before an error
	if len(attr.Caps) == 0 && !full {
		return err
	}
	return errors.Join(err, f.t.quietLifted(f.fd, func() error {
		if full {
			if err := setMtime(f.fd, attr.Mtime); err != nil {
				return err
			}
		}
		return setCaps(f.fd, attr.Caps)
	}))
}

// holdLocked has the mark hold the attributes, and returns a mark that does. full: that is not the one on disk, which has no room for them; so they have to be put
// back at once, and a crash before that loses them. (Only a mark of a version before this one can be so long.)
func (f *file) holdLocked() (attr *mark.File, full bool, err error) {
	if f.m.Attributes() {
		return f.m, false, nil
	}
	m := *f.m
	m.Held = true
	st, err := backing.Statx(f.fd)
	if err != nil {
		return nil, false, err
	}
	m.Mtime = wireTime(st.Mtime)
	if m.Caps, err = getCaps(f.fd); err != nil {
		return nil, false, err
	}
	flags, err := backing.GetFlags(f.fd)
	if err != nil {
		return nil, false, err
	}
	m.Flags = flags & protectedFlags
	err = f.t.quietLifted(f.fd, func() error { return f.writeMarkLocked(&m) })
	switch {
	case errors.Is(err, mark.ErrFull):
		return &m, true, nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		err = fmt.Errorf("%w: %w", fusefs.ErrNoSpace, err)
	}
	return &m, false, err
}

// pwrite writes all of b at off.
func pwrite(fd int, b []byte, off uint64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, int64(off))
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			return fmt.Errorf("%w: %w", fusefs.ErrNoSpace, err)
		case err != nil:
			return err
		default:
			b, off = b[n:], off+uint64(n)
		}
	}
	return nil
}
