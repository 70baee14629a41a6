package snapshot

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// pagesAhead is how many pages of a directory are fetched at once.
const pagesAhead = 4

// totals are what a node says of all below it.
type totals struct{ files, dirs, bytes uint64 }

func (t *totals) entry(e *wire.Entry) {
	if e.Content != nil {
		t.files++
		t.bytes += e.Content.Data
	}
	if e.Dir != nil {
		t.files += e.Dir.Files
		t.dirs += e.Dir.Dirs + 1
		t.bytes += e.Dir.Bytes
	}
}

func totalsOf(entries []wire.Entry) (t totals) {
	for i := range entries {
		t.entry(&entries[i])
	}
	return t
}

// Dir yields the entries of a directory in byte order of their names, fetching
// a few pages ahead. An error is the last thing it yields; the entries before
// it are good. Entries may be kept.
func (r *Reader) Dir(ctx context.Context, ref wire.DirRef) iter.Seq2[wire.Entry, error] {
	top := wire.DirChild{Node: ref.Node, Files: ref.Files, Dirs: ref.Dirs, Bytes: ref.Bytes}
	if ref.Depth == 0 {
		return func(yield func(wire.Entry, error) bool) {
			entries, err := r.page(ctx, top)
			emit(entries, err, yield)
		}
	}
	return func(yield func(wire.Entry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()

		type page struct {
			entries []wire.Entry
			err     error
		}
		queue := make(chan chan page, pagesAhead-1)
		running.Go(func() {
			defer close(queue)
			for child, err := range r.pages(ctx, top, ref.Depth) {
				slot := make(chan page, 1)
				if err != nil {
					slot <- page{err: err}
				} else {
					running.Go(func() {
						entries, err := r.page(ctx, child)
						slot <- page{entries, err}
					})
				}
				select {
				case queue <- slot:
				case <-ctx.Done():
					return
				}
			}
		})
		last := ""
		for slot := range queue {
			p := <-slot
			if p.err == nil && len(p.entries) > 0 {
				if p.entries[0].Name <= last {
					p.err = fmt.Errorf("%w: pages overlap in the directory of index %s", ErrDamaged, ref.Node)
				}
				last = p.entries[len(p.entries)-1].Name
			}
			if !emit(p.entries, p.err, yield) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(wire.Entry{}, err)
		}
	}
}

func emit(entries []wire.Entry, err error, yield func(wire.Entry, error) bool) bool {
	if err != nil {
		yield(wire.Entry{}, err)
		return false
	}
	for _, e := range entries {
		if !yield(e, nil) {
			return false
		}
	}
	return true
}

// page reads one page and holds it against what its parent says.
func (r *Reader) page(ctx context.Context, child wire.DirChild) ([]wire.Entry, error) {
	entries, err := decodeNode(ctx, r, seal.KindDir, child.Node, wire.DecodeDir)
	if err != nil {
		return nil, err
	}
	if totalsOf(entries) != (totals{child.Files, child.Dirs, child.Bytes}) ||
		(child.First != "" && (len(entries) == 0 || entries[0].Name != child.First)) {
		return nil, fmt.Errorf("%w: page %s is not the one its parent names", ErrDamaged, child.Node)
	}
	return entries, nil
}

// pages yields the pages below an index node, in order.
func (r *Reader) pages(ctx context.Context, node wire.DirChild, level uint8) iter.Seq2[wire.DirChild, error] {
	return func(yield func(wire.DirChild, error) bool) { r.walkPages(ctx, node, level, yield) }
}

func (r *Reader) walkPages(ctx context.Context, node wire.DirChild, level uint8, yield func(wire.DirChild, error) bool) bool {
	if level == 0 {
		return yield(node, nil)
	}
	children, err := r.dirIndex(ctx, node, level)
	if err != nil {
		yield(wire.DirChild{}, err)
		return false
	}
	for _, c := range children {
		if !r.walkPages(ctx, c, level-1, yield) {
			return false
		}
	}
	return true
}

// dirIndex reads one index node and holds it against what its parent says.
func (r *Reader) dirIndex(ctx context.Context, node wire.DirChild, level uint8) ([]wire.DirChild, error) {
	children, err := decodeNode(ctx, r, seal.KindDirIndex, node.Node, func(l []cid.Cid, b []byte) ([]wire.DirChild, error) {
		return wire.DecodeDirIndex(level, l, b)
	})
	if err != nil {
		return nil, err
	}
	var sum totals
	for _, c := range children {
		sum.files, sum.dirs, sum.bytes = sum.files+c.Files, sum.dirs+c.Dirs, sum.bytes+c.Bytes
	}
	if sum != (totals{node.Files, node.Dirs, node.Bytes}) || (node.First != "" && children[0].First != node.First) {
		return nil, fmt.Errorf("%w: index %s is not the one its parent names", ErrDamaged, node.Node)
	}
	return children, nil
}
