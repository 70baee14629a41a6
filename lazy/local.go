package lazy

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// cloneFrom is from how many bytes on a piece is cloned, so that both files share it on the disk. Less is copied: small extents are kept
// within the tree itself, and those cannot be shared.
const cloneFrom = 64 << 10

// localPiece is what a source has of a window.
type localPiece struct {
	at   wire.Range
	data []byte
}

// bringLocal takes a window from a source, where one has it, and reports whether it did. Whatever is wrong there is no error: then the
// block is fetched.
func (f *file) bringLocal(ctx context.Context, w wire.Window, missing []wire.Range) bool {
	if len(f.t.sources) == 0 {
		return false
	}
	f.findOrigins(ctx)
	f.origins.mu.RLock()
	defer f.origins.mu.RUnlock()
	list := f.origins.list
	for i := range list {
		o := &list[i]
		if same, err := o.has(ctx, f.content, w); err != nil || !same {
			continue
		}
		done, err := f.fillLocal(o, w, missing)
		if err != nil {
			f.t.opt.Log.Warn().Err(err).Str("volume", f.t.opt.Volume).Str("op", "take local data").Uint64("ino", f.ino).Msg("not taken from this machine's old snapshot; fetched")
		}
		if done {
			return true
		}
	}
	return false
}

// localBase returns the data of a patched window, with its patch from the store and all else from a source that has the window on the same base: without its
// patch, or with an earlier one. Nil: none has, or what comes of it does not have the window's sum. done as in file.data.
func (f *file) localBase(ctx context.Context, w wire.Window) (data []byte, done func()) {
	if len(f.t.sources) == 0 {
		return nil, nil
	}
	base := f.readBase(ctx, w)
	if base == nil {
		return nil, nil
	}
	patch, done, err := f.t.fetch.data(ctx, w.Patch.Block, true)
	if err != nil {
		return nil, nil // asking for both meets the same
	}
	w.Off = 0 // of the base as it was read
	if data, err = snapshot.Piece(base, patch, f.content, w); err != nil {
		done()
		return nil, nil
	}
	f.t.taken.Add(uint64(len(base)))
	return data, done
}

// readBase reads the ranges of a patched window that stand in its base from a source that had the window on that base, nil where none has all of them on the disk.
// What was patched there is not what the base has; the sum of the window tells whether that matters.
func (f *file) readBase(ctx context.Context, w wire.Window) []byte {
	f.findOrigins(ctx)
	f.origins.mu.RLock()
	defer f.origins.mu.RUnlock()
	ranges := w.BaseRanges(f.content.Span(w.Index))
	start := w.Index * uint64(f.content.ChunkSize)
origins:
	for i := range f.origins.list {
		o := &f.origins.list[i]
		was, err := o.window(ctx, w.Index)
		if err != nil || was == nil || was.Block != w.Block || was.Off != w.Off {
			continue
		}
		base := make([]byte, 0, w.BaseBytes(f.content.Span(w.Index)))
		for _, r := range ranges {
			off := start + r.Off
			holes, err := backing.Holes(o.fd, off, off+r.Len)
			if err != nil || len(holes) > 0 { // it was remote in the source, too
				continue origins
			}
			p := base[len(base) : len(base)+int(r.Len)]
			if n, err := pread(o.fd, p, off); err != nil || n < len(p) {
				continue origins
			}
			base = base[:len(base)+len(p)]
		}
		return base
	}
	return nil
}

// findOrigins looks for the file's counterparts, where that was not done. A reader asks nobody but this machine; what it does not find then, the
// background may.
func (f *file) findOrigins(ctx context.Context) {
	hurried := urgencyOf(ctx).p == reader
	f.origins.mu.Lock()
	defer f.origins.mu.Unlock()
	if f.origins.complete || f.origins.tried && hurried {
		return
	}
	closeOrigins(f.origins.list) // nobody uses them, under this lock
	f.origins.list, f.origins.complete = f.t.originsOf(ctx, f.ino, f.content)
	f.origins.tried = true
	if !hurried {
		f.origins.complete = true // what the store does not have it is not asked for with each window
	}
}

// fillLocal fills what is missing of a window with what o has there. The bytes are read first, which has BTRFS check them, and then cloned: the
// clone is of extents that a read-only snapshot holds, so it is of the same bytes.
func (f *file) fillLocal(o *origin, w wire.Window, missing []wire.Range) (bool, error) {
	var have []localPiece
	for _, r := range missing {
		holes, err := backing.Holes(o.fd, r.Off, r.Off+r.Len)
		if err != nil || len(holes) > 0 {
			return false, err // it was remote in the source, too
		}
		p := localPiece{at: r, data: make([]byte, r.Len)}
		n, err := pread(o.fd, p.data, r.Off)
		if err != nil || uint64(n) < r.Len {
			return false, err
		}
		have = append(have, p)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	still, err := f.missingLocked(w) // others may have been here meanwhile
	if err != nil || len(still) == 0 {
		return err == nil, err
	}
	var n uint64
	err = f.quietlyLocked(func() error {
		for _, r := range still {
			b := within(have, r)
			if b == nil {
				return fmt.Errorf("inode %d: more is missing than was", f.ino)
			}
			if err := cloneOrWrite(f.fd, o.fd, b, r.Off); err != nil {
				return fmt.Errorf("fill inode %d of volume %s: %w", f.ino, f.t.opt.Volume, err)
			}
			n += r.Len
		}
		return nil
	})
	f.t.count.fetched(n)
	f.t.taken.Add(n)
	return err == nil, err
}

// within returns the bytes of r from the piece that it lies in.
func within(list []localPiece, r wire.Range) []byte {
	for _, p := range list {
		if p.at.Off <= r.Off && r.Off+r.Len <= p.at.Off+p.at.Len {
			return p.data[r.Off-p.at.Off:][:r.Len]
		}
	}
	return nil
}

// cloneOrWrite makes the bytes at off of file to those of file from, which are b: by sharing them, or where that cannot be, by writing.
func cloneOrWrite(to, from int, b []byte, off uint64) error {
	if len(b) >= cloneFrom && off%sector == 0 {
		whole := len(b) &^ (sector - 1) // the rest, at the end of the file, can be cloned only where both files end there
		err := unix.IoctlFileCloneRange(to, &unix.FileCloneRange{Src_fd: int64(from), Src_offset: off, Src_length: uint64(whole), Dest_offset: off})
		switch {
		case err == nil:
			b, off = b[whole:], off+uint64(whole)
		case errors.Is(err, unix.EIO):
			return err
		}
	}
	return pwrite(to, b, off)
}
