package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"

	"fractal-lazy/mutant"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// Kind of a Change.
type ChangeKind string

const (
	Added      ChangeKind = "added"
	Removed    ChangeKind = "removed"
	Changed    ChangeKind = "changed"    // other content, or another target
	Attributes ChangeKind = "attributes" // the same content; owner, mode, times, attributes or names of the inode are others
	Retyped    ChangeKind = "retyped"    // a file became a directory, and the like
	// Repacked: size, times and all else are the same, and its data, 64 KiB or less of each window, is in another block, which it shares with other
	// files. Mostly it is one of these that changed; without the data that cannot be told.
	Repacked ChangeKind = "repacked"
)

// Change is one name that differs between two snapshots. A directory that came or went stands for all below it.
type Change struct {
	Path  string
	Kind  ChangeKind
	Mode  uint32 // st_mode, of what is there now, or was
	Was   uint64 // size before; of a directory that went, of the data below it
	Now   uint64 // size after; of a directory that came, of the data below it
	Bytes uint64 // data in windows that differ: at most that much changed
	Files uint64 // in a directory that came or went
	Dirs  uint64
}

// Diff yields what changed from the snapshot with root a to that with root b, each directory before what is in it, names in byte
// order. It reads tree nodes and no content; subtrees, pages and index nodes that both have are skipped unread. Memory is bounded by a page and the index nodes above it
// for each level of the tree. An error is the last thing it yields. A rename is one name removed and one added.
func Diff(ctx context.Context, r *Reader, a, b cid.Cid) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		if a.Equals(b) {
			return
		}
		was, err := r.Root(ctx, a)
		if err != nil {
			yield(Change{}, err)
			return
		}
		now, err := r.Root(ctx, b)
		if err != nil {
			yield(Change{}, err)
			return
		}
		d := &differ{ctx: ctx, r: r, yield: yield}
		if !sameAttr(&was.Attr, &now.Attr) && !d.tell(Change{Path: "/", Kind: Attributes, Mode: now.Mode}) {
			return
		}
		d.dirs("", was.Dir, now.Dir)
	}
}

type differ struct {
	ctx   context.Context
	r     *Reader
	yield func(Change, error) bool
}

// tell reports whether to go on.
func (d *differ) tell(c Change) bool { return d.yield(c, nil) }

func (d *differ) fail(path string, err error) bool {
	d.yield(Change{}, fmt.Errorf("compare %s/: %w", path, err))
	return false
}

// dirs compares two directories of one path.
func (d *differ) dirs(path string, was, now wire.DirRef) bool {
	if was.Node.Equals(now.Node) && was.Depth == now.Depth {
		return true
	}
	a, b := d.open(was), d.open(now)
	defer a.stop()
	defer b.stop()
	for {
		if err := skipEqual(a, b); err != nil {
			return d.fail(path, err)
		}
		x, err := a.peek(d)
		if err != nil {
			return d.fail(path, err)
		}
		y, err := b.peek(d)
		if err != nil {
			return d.fail(path, err)
		}
		var on bool
		switch {
		case x == nil && y == nil:
			return true
		case y == nil || x != nil && x.Name < y.Name:
			a.entries = a.entries[1:]
			on = mutant.Is(mutant.DiffRemoved) || d.tell(gone(path, x))
		case x == nil || y.Name < x.Name:
			b.entries = b.entries[1:]
			on = d.tell(came(path, y))
		default:
			a.entries, b.entries = a.entries[1:], b.entries[1:]
			on = d.entries(path, x, y)
		}
		if !on {
			return false
		}
	}
}

// cursor goes through a directory by its pages.
type cursor struct {
	next    func() (wire.DirChild, error, bool)
	stop    func()
	ahead   *wire.DirChild // the next page, not read; nil: not known
	end     bool
	entries []wire.Entry // what is left of the page that was read
}

func (d *differ) open(ref wire.DirRef) *cursor {
	top := wire.DirChild{Node: ref.Node, Files: ref.Files, Dirs: ref.Dirs, Bytes: ref.Bytes}
	next, stop := iter.Pull2(d.r.pages(d.ctx, top, ref.Depth))
	return &cursor{next: next, stop: stop}
}

// page returns the next page where the one that was read is used up; nil where it is not, or where there is none.
func (c *cursor) page() (*wire.DirChild, error) {
	if len(c.entries) > 0 || c.end || c.ahead != nil {
		if len(c.entries) > 0 {
			return nil, nil
		}
		return c.ahead, nil
	}
	child, err, ok := c.next()
	if err != nil {
		return nil, err
	}
	if !ok {
		c.end = true
		return nil, nil
	}
	c.ahead = &child
	return c.ahead, nil
}

// skipEqual passes pages that come next on both sides and are the same.
func skipEqual(a, b *cursor) error {
	for {
		x, err := a.page()
		if err != nil || x == nil {
			return err
		}
		y, err := b.page()
		if err != nil || y == nil || !x.Node.Equals(y.Node) {
			return err
		}
		a.ahead, b.ahead = nil, nil
	}
}

// peek returns the next entry; nil: there is none.
func (c *cursor) peek(d *differ) (*wire.Entry, error) {
	for len(c.entries) == 0 {
		p, err := c.page()
		if err != nil || p == nil {
			return nil, err
		}
		if c.entries, err = d.r.page(d.ctx, *p); err != nil {
			return nil, err
		}
		c.ahead = nil
	}
	return &c.entries[0], nil
}

func came(path string, e *wire.Entry) Change {
	c := Change{Path: path + "/" + e.Name, Kind: Added, Mode: e.Mode, Now: sizeOf(e), Bytes: bytesOf(e)}
	if e.Dir != nil {
		c.Files, c.Dirs = e.Dir.Files, e.Dir.Dirs
	}
	return c
}

func gone(path string, e *wire.Entry) Change {
	c := came(path, e)
	c.Kind, c.Was, c.Now = Removed, c.Now, 0
	return c
}

func sizeOf(e *wire.Entry) uint64 {
	switch {
	case e.Content != nil:
		return e.Content.Size
	case e.Dir != nil:
		return e.Dir.Bytes
	}
	return uint64(len(e.Target))
}

func bytesOf(e *wire.Entry) uint64 {
	switch {
	case e.Content != nil:
		return e.Content.Data
	case e.Dir != nil:
		return e.Dir.Bytes
	}
	return 0
}

// entries compares two entries of one name.
func (d *differ) entries(path string, was, now *wire.Entry) bool {
	full := path + "/" + now.Name
	if was.Mode&typeBits != now.Mode&typeBits {
		c := Change{Path: full, Kind: Retyped, Mode: now.Mode, Was: sizeOf(was), Now: sizeOf(now), Bytes: bytesOf(was) + bytesOf(now)}
		return d.tell(c)
	}
	c := Change{Path: full, Mode: now.Mode, Was: sizeOf(was), Now: sizeOf(now)}
	same := sameAttr(&was.Attr, &now.Attr) && was.Nlink == now.Nlink && (was.Link == 0) == (now.Link == 0)
	if !same {
		c.Kind = Attributes
	}
	switch {
	case now.Dir != nil:
		c.Was, c.Now = 0, 0
	case was.Target != now.Target:
		c.Kind = Changed
	case now.Content != nil:
		n, sure, err := d.contents(was.Content, now.Content)
		if err != nil {
			return d.fail(full, err)
		}
		c.Bytes = n
		sure = sure || was.Content.Size != now.Content.Size || was.Content.Data != now.Content.Data
		switch {
		case n == 0 && was.Content.Size == now.Content.Size:
		case !sure && same:
			c.Kind = Repacked
		case !sure && was.Mtime == now.Mtime:
			c.Kind = Attributes // and repacked
		default:
			c.Kind = Changed
		}
	}
	if c.Kind != "" && !d.tell(c) {
		return false
	}
	return now.Dir == nil || d.dirs(full, *was.Dir, *now.Dir)
}

const typeBits = 0o170000 // S_IFMT

// contents returns how much data is in windows that differ, on the side that has more. sure: one of them has a block of its own, or is known to have changed, so its data is
// another; a piece of a pack has another block when its neighbours change, and of what was not read (Placeholder) nobody knows.
func (d *differ) contents(was, now *wire.Content) (n uint64, sure bool, err error) {
	if was.ChunkSize != now.ChunkSize {
		return max(was.Data, now.Data), false, nil
	}
	if was.Depth == now.Depth && was.Depth > 0 && was.Index.Equals(now.Index) {
		return 0, false, nil
	}
	const all = 1 << 62
	a, stopA := iter.Pull2(d.r.Windows(d.ctx, was, 0, all))
	defer stopA()
	b, stopB := iter.Pull2(d.r.Windows(d.ctx, now, 0, all))
	defer stopB()
	differs := func(data uint64, blocks ...cid.Cid) {
		n += data
		is := func(with [8]byte) bool {
			return slices.ContainsFunc(blocks, func(c cid.Cid) bool { return begins(c, with) })
		}
		sure = sure || is(placeChanged) || data > wire.MaxPacked && !is(placeUnread)
	}
	x, err, okA := a()
	if err != nil {
		return 0, false, err
	}
	y, err, okB := b()
	for err == nil && (okA || okB) {
		switch {
		case !okB || okA && x.Index < y.Index:
			differs(windowData(&x, was), x.Block)
			x, err, okA = a()
		case !okA || y.Index < x.Index:
			differs(windowData(&y, now), y.Block)
			y, err, okB = b()
		default:
			if !sameData(&x, &y) {
				differs(max(windowData(&x, was), windowData(&y, now)), x.Block, y.Block)
			}
			if x, err, okA = a(); err == nil {
				y, err, okB = b()
			}
		}
	}
	return n, sure, err
}

// sameData tells whether two windows of one index have the same bytes in the same ranges, as far as that is known.
func sameData(x, y *wire.Window) bool {
	if x.Patch != nil && y.Patch != nil && x.Patch.Sum == y.Patch.Sum && slices.Equal(x.Data, y.Data) {
		return true
	}
	return x.Same(y)
}

// windowData is how many bytes of data a window has.
func windowData(w *wire.Window, c *wire.Content) (n uint64) {
	if w.Data == nil {
		return min(uint64(c.ChunkSize), c.Size-w.Index*uint64(c.ChunkSize))
	}
	for _, r := range w.Data {
		n += r.Len
	}
	return n
}

func sameAttr(a, b *wire.Attr) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Rdev == b.Rdev && a.Mtime == b.Mtime && a.Flags == b.Flags &&
		slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y wire.Xattr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) })
}
