package lazy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// zeroGaps is how many gaps a full zero-list loses at once: that takes one sync.
const zeroGaps = 64

// withZeroLocked is the mark with z in its zero-list.
func (f *file) withZeroLocked(z wire.Range) *mark.File {
	m := *f.m
	m.Zero = insert(m.Zero, clip(z, 0, roundUp(m.Valid)))
	return &m
}

// zeroFullLocked reports whether the zero-list has no room for z, and the mark for what it may have to hold.
func (f *file) zeroFullLocked(z wire.Range) bool {
	m := f.withZeroLocked(z)
	if !m.Kept {
		m.Held, m.Mtime, m.Caps, m.Flags = true, wire.Time{Sec: math.MaxInt64, Nsec: 1e9 - 1}, make([]byte, mark.MaxCaps), protectedFlags
	}
	_, err := m.Encode()
	return errors.Is(err, mark.ErrFull)
}

// zeroedLocked runs do, which makes the hole z, and keeps R3: z is on the zero-list
// before. mu is held exclusively where z is not empty.
//
// Where do fails, what was missing of z is missing again. What was here and is
// not any more stays on the list, for do may have done a part of its work.
func (f *file) zeroedLocked(z wire.Range, do func() error) error {
	if z.Len == 0 {
		return do()
	}
	before := *f.m
	z = clip(z, 0, roundUp(before.Valid))
	here, err := backing.DataRanges(f.fd, z.Off, z.Off+z.Len)
	if err != nil {
		return fmt.Errorf("inode %d: %w", f.ino, err)
	}
	if err := f.setMarkLocked(f.withZeroLocked(z)); err != nil {
		return err
	}
	old, err := backing.Statx(f.fd)
	if err != nil {
		return err
	}
	failed := do()
	if failed == nil {
		return f.movedLocked(&before, z, old.Mtime)
	}
	for _, r := range here {
		holes, err := backing.Holes(f.fd, r.Off, r.Off+r.Len)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, h := range holes {
			end := roundUp(h.Off + h.Len)
			before.Zero = insert(before.Zero, wire.Range{Off: h.Off, Len: end - h.Off})
		}
	}
	if err := f.setMarkLocked(&before); err != nil && !errors.Is(err, mark.ErrFull) {
		return errors.Join(failed, err)
	}
	return failed
}

// movedLocked moves the modification time from old on where z, which is a hole now, had data that
// was missing: BTRFS does not where it finds a hole already.
func (f *file) movedLocked(before *mark.File, z wire.Range, old unix.StatxTimestamp) error {
	st, err := backing.Statx(f.fd)
	if err != nil || st.Mtime != old {
		return err
	}
	had := f.content.Depth > 0 // then the index would have to be fetched to know
	for _, r := range subtract(clip(z, 0, min(st.Size, before.Valid)), before.Zero) {
		for i := range f.content.Windows {
			for _, d := range f.dataOf(f.content.Windows[i]) {
				had = had || clip(d, r.Off, r.Off+r.Len).Len > 0
			}
		}
	}
	if !had {
		return nil
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(f.fd), now, 0); err != nil {
		return fmt.Errorf("set times of inode %d: %w", f.ino, err)
	}
	return nil
}

// joinZero makes ranges of the zero-list one, by what lies between them. That
// is not zeros: but what the file has there counts before the list does, and so the list
// may cover it once it is here for good.
//
// Order: 1 all of it is fetched; 2 it is durable, and so is what an application
// wrote there; 3 the mark. A crash before 3 leaves the list as it was.
func (f *file) joinZero(ctx context.Context, gaps []wire.Range) error {
	for _, g := range gaps {
		if err := f.bring(ctx, g.Off, g.Off+g.Len); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.local.Load() {
		return nil
	}
	if f.fd < 0 {
		return f.t.closed()
	}
	if err := f.t.commit.sync(f.fd, func() error { return f.t.bt.Fsync(f.fd, true) }); err != nil {
		return fmt.Errorf("sync inode %d: %w", f.ino, err)
	}
	m := *f.m
	for _, g := range gaps {
		m.Zero = insert(m.Zero, g)
	}
	return f.setMarkLocked(&m)
}

// narrowest returns the n narrowest gaps between the ranges of list.
func narrowest(list []wire.Range, n int) []wire.Range {
	var gaps []wire.Range
	for i := 1; i < len(list); i++ {
		end := list[i-1].Off + list[i-1].Len
		gaps = append(gaps, wire.Range{Off: end, Len: list[i].Off - end})
	}
	slices.SortStableFunc(gaps, func(a, b wire.Range) int { return cmp.Compare(a.Len, b.Len) })
	return gaps[:min(n, len(gaps))]
}
