package snapshot

import (
	"fmt"
	"slices"
	"sync/atomic"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"
)

// openFile is closed when its last user is done with it.
type openFile struct {
	File
	users atomic.Int64
}

func (b *builder) release(f *openFile) {
	if f != nil && f.users.Add(-1) == 0 {
		if err := f.Close(); err != nil {
			b.fail(fmt.Errorf("close file: %w", err))
		}
	}
}

// builtFile is the content of a file; its CIDs are there when the result is.
type builtFile struct {
	result
	content *wire.Content
}

// fileBuild cuts one file into windows.
type fileBuild struct {
	b       *builder
	f       *openFile
	name    string
	content *wire.Content
	join    *join // all index nodes or, without any, all windows
	windows uint64
	kept    uint64
	levels  []*fileNode // the open node of each level
	held    []*fileNode // leaves, while it may be that the windows stand in the entry
	inline  []*wire.Window
}

// file cuts a regular file. Of an inode with several names the content is
// built once, as far as it is remembered.
func (b *builder) file(n *Node) (*builtFile, error) {
	if n.Link != 0 {
		if f, ok := b.links.Get(n.Link); ok {
			b.filesDone.Add(1)
			return f, nil
		}
	}
	if n.Open == nil {
		return nil, fmt.Errorf("%w: file without content", wire.ErrFormat)
	}
	file, err := n.Open(b.ctx)
	if err != nil {
		return nil, err
	}
	f := &openFile{File: file}
	f.users.Store(1)
	defer b.release(f)

	built := &builtFile{content: &wire.Content{Size: f.Size(), ChunkSize: b.opt.ChunkSize}}
	if built.content.Size > wire.MaxFileSize {
		return nil, fmt.Errorf("%w: file of %d bytes", wire.ErrFormat, built.content.Size)
	}
	fb := &fileBuild{b: b, f: f, name: n.Name, content: built.content}
	fb.join = newJoin(func(w *worker) {
		for i, win := range fb.inline {
			fb.content.Windows[i].Block = win.Block
		}
		b.filesDone.Add(1)
		b.progress()
		built.set(w)
	})
	if err := fb.cut(); err != nil {
		return nil, err
	}
	if err := fb.finish(); err != nil {
		return nil, err
	}
	if fb.windows > 0 && fb.kept == fb.windows {
		b.kept.Add(1)
	}
	fb.join.done(b.walker)
	if n.Link != 0 {
		b.links.Add(n.Link, built)
	}
	return built, nil
}

// cut asks for the data ranges, a run of windows at a time: longer runs where
// there are holes, so that a huge empty file takes few questions.
func (fb *fileBuild) cut() error {
	const run = wire.IndexFanout
	size, chunk := fb.content.Size, uint64(fb.content.ChunkSize)
	step := run * chunk
	for off := uint64(0); off < size; {
		end := off + min(step, size-off)
		ranges, err := fb.f.Ranges(fb.b.ctx, off, end)
		if err != nil {
			return fmt.Errorf("data ranges: %w", err)
		}
		if err := fb.runOf(ranges, off, end); err != nil {
			return err
		}
		if off = end; len(ranges) > 0 {
			step = run * chunk
		} else if step < 1<<62 {
			step *= 2
		}
	}
	return nil
}

// runOf hands the ranges of [from, to) on, window by window.
func (fb *fileBuild) runOf(ranges []wire.Range, from, to uint64) error {
	size, chunk := fb.content.Size, uint64(fb.content.ChunkSize)
	var (
		index uint64       // of the window being gathered
		parts []wire.Range // its ranges, relative to it
	)
	flush := func() error {
		if len(parts) == 0 {
			return nil
		}
		w := parts
		parts = nil
		return fb.window(index, w)
	}
	at := from
	for _, r := range ranges {
		end := r.Off + r.Len
		if r.Len == 0 || r.Off < at || end < r.Off || end > to || r.Off%wire.Sector != 0 || (end%wire.Sector != 0 && end != size) {
			return fmt.Errorf("%w: data range of %d bytes at %d is out of order or off its sectors", wire.ErrFormat, r.Len, r.Off)
		}
		at = end
		for off := r.Off; off < end; {
			if i := off / chunk; i != index {
				if err := flush(); err != nil {
					return err
				}
				index = i
			}
			start := index * chunk
			n := min(end, start+chunk) - off
			if k := len(parts); k > 0 && parts[k-1].Off+parts[k-1].Len == off-start {
				parts[k-1].Len += n
			} else {
				parts = append(parts, wire.Range{Off: off - start, Len: n})
			}
			off += n
		}
	}
	return flush()
}

// window takes one window with data: by reference, as a piece of a pack, or
// as a block of its own.
func (fb *fileBuild) window(index uint64, ranges []wire.Range) error {
	b, chunk := fb.b, fb.content.ChunkSize
	span := fb.content.Span(index)
	leaf, err := fb.leaf(index)
	if err != nil {
		return err
	}
	known, ok, err := fb.f.Known(b.ctx, index, chunk)
	if err != nil {
		return fmt.Errorf("known window %d: %w", index, err)
	}
	w := &wire.Window{Index: index}
	fb.windows++
	leaf.windows = append(leaf.windows, w)
	if ok && known.Index == index && known.Check(fb.content.Size, chunk) == nil {
		fb.keep(w, known)
		fb.content.Data += w.Bytes(span)
		return nil
	}
	if len(ranges) != 1 || ranges[0].Len != span {
		w.Data = ranges
	}
	n := w.Bytes(span)
	fb.content.Data += n
	start := index * uint64(chunk)
	if n <= wire.MaxPacked {
		return b.addPiece(fb.f, fb.name, piece{&w.Block, leaf.join}, &w.Off, n, func(_ *worker, into []byte) error {
			return b.read(fb.f, into, ranges, start)
		})
	}
	if done, err := fb.patch(w, ranges, leaf.join); done || err != nil {
		return err
	}
	prev, ok, err := fb.f.Previous(b.ctx, index, chunk)
	if err != nil {
		return fmt.Errorf("previous window %d: %w", index, err)
	}
	if !ok || prev.Off != 0 || prev.Check(fb.content.Size, chunk) != nil || prev.Index != index {
		prev = wire.Window{}
	}
	if prev.Patch != nil && !slices.Equal(prev.Data, w.Data) {
		prev.Patch = nil // its sum is of other ranges
	}
	// Who looks at the windows of an entry does not wait for the workers: whether one of them has a patch is known before.
	if prev.Patch != nil && fb.windows <= wire.MaxInline {
		buf := b.walker.content(b, n)
		if err := b.read(fb.f, buf, ranges, start); err != nil {
			return err
		}
		if Sum(buf) == prev.Patch.Sum {
			fb.keep(w, prev)
			return nil
		}
		prev.Patch = nil
	}
	leaf.add()
	return b.submit(fb.f, func(wk *worker) {
		if err := b.chunk(wk, fb.f, w, prev, ranges, start, n); err != nil {
			b.fail(err)
			return
		}
		leaf.done(wk)
	})
}

// keep takes a window by reference.
func (fb *fileBuild) keep(w *wire.Window, known wire.Window) {
	*w = known
	fb.kept++
	fb.b.refer(w)
}

// content returns the worker's buffer for n bytes, with one spare byte before it.
func (wk *worker) content(b *builder, n uint64) []byte {
	if wk.buf == nil {
		wk.buf = make([]byte, 1+b.opt.ChunkSize)
	}
	return wk.buf[1 : 1+n]
}

// chunk stores a window as a block of its own, unless it is what it was.
func (b *builder) chunk(wk *worker, f *openFile, w *wire.Window, prev wire.Window, ranges []wire.Range, start, n uint64) error {
	data := wk.content(b, n)
	if err := b.read(f, data, ranges, start); err != nil {
		return err
	}
	if prev.Patch != nil && Sum(data) == prev.Patch.Sum {
		*w = prev
		b.refer(w)
		return nil
	}
	block := wk.sealData(b.sealer, wk.buf[:1+n])
	if prev.Block.Defined() && store.Sum(store.Raw, block).Equals(prev.Block) {
		w.Block = prev.Block
		return nil
	}
	var err error
	w.Block, err = b.put(store.Raw, block)
	return err
}

// read fills p with the ranges, one behind the other.
func (b *builder) read(f *openFile, p []byte, ranges []wire.Range, start uint64) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	for _, r := range ranges {
		if err := f.ReadAt(b.ctx, p[:r.Len], start+r.Off); err != nil {
			return fmt.Errorf("read file: %w", err)
		}
		p = p[r.Len:]
		b.bytesRead.Add(r.Len)
	}
	b.progress()
	return nil
}
