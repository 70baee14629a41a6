package lazy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// zeroGaps is how many gaps a full zero-list loses at once: that takes one sync.
const zeroGaps = 64

// addZero keeps R3.
func (f *file) addZero(ctx context.Context, z wire.Range) error {
	f.mu.Lock()
	if f.local.Load() {
		f.mu.Unlock()
		return nil
	}
	m := *f.m
	m.Zero = insert(m.Zero, clip(z, 0, roundUp(m.Valid)))
	err := error(mark.ErrFull)
	if len(m.Zero) <= mark.MaxZero {
		err = f.setMarkLocked(&m)
	}
	list := f.m.Zero
	f.mu.Unlock()
	if !errors.Is(err, mark.ErrFull) {
		return err
	}
	return f.joinZero(ctx, narrowest(list, zeroGaps))
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
	if err := f.t.commit.sync(f.fd, func() error { return unix.Fdatasync(f.fd) }); err != nil {
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
