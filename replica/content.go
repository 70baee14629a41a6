package replica

import (
	"context"
	"sync"

	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
)

// remote is the content of one file as a snapshot holds it, read window by window. It keeps the windows of one index leaf and the
// last opened blocks, since both are asked for again and again in a pass over the file. Safe for concurrent use.
type remote struct {
	reader  *snapshot.Reader
	content *wire.Content
	blocks  *lru.Cache[cid.Cid, []byte] // opened
	patched *lru.Cache[uint64, []byte]  // data of windows that have a patch

	mu     sync.Mutex
	leaf   uint64 // windows of [leaf*IndexFanout, (leaf+1)*IndexFanout)
	loaded bool
	list   map[uint64]wire.Window
}

// openBlocks is how many opened blocks of one file are kept, of at most wire.MaxChunk or wire.MaxPack bytes each: the builder reads
// several windows at once, and each in pieces.
const openBlocks = 4

func newRemote(r *snapshot.Reader, c *wire.Content) *remote {
	blocks, err := lru.New[cid.Cid, []byte](openBlocks)
	if err != nil { // the size is a constant above 0
		panic(err)
	}
	patched, err := lru.New[uint64, []byte](openBlocks)
	if err != nil {
		panic(err)
	}
	return &remote{reader: r, content: c, blocks: blocks, patched: patched}
}

// window returns the window at index; false where the content has a hole there.
func (v *remote) window(ctx context.Context, index uint64) (wire.Window, bool, error) {
	if index >= windows(v.content) {
		return wire.Window{}, false, nil
	}
	v.mu.Lock()
	leaf, ok := v.leaf, v.loaded
	w, found := v.list[index]
	v.mu.Unlock()
	if ok && leaf == index/wire.IndexFanout {
		return w, found, nil
	}
	leaf = index / wire.IndexFanout
	list := map[uint64]wire.Window{}
	for w, err := range v.reader.Windows(ctx, v.content, leaf*wire.IndexFanout, (leaf+1)*wire.IndexFanout) {
		if err != nil {
			return wire.Window{}, false, err
		}
		list[w.Index] = w
	}
	v.mu.Lock()
	v.leaf, v.loaded, v.list = leaf, true, list
	v.mu.Unlock()
	w, found = list[index]
	return w, found, nil
}

// ranges returns the data ranges of the content within [off, end).
func (v *remote) ranges(ctx context.Context, off, end uint64) ([]wire.Range, error) {
	end = min(end, v.content.Size)
	var out []wire.Range
	size := uint64(v.content.ChunkSize)
	for off < end {
		index := off / size
		w, ok, err := v.window(ctx, index)
		if err != nil {
			return nil, err
		}
		stop := min((index+1)*size, end)
		if ok {
			for _, r := range dataOf(&w, v.content) {
				a, b := max(index*size+r.Off, off), min(index*size+r.Off+r.Len, stop)
				if a < b {
					out = append(out, wire.Range{Off: a, Len: b - a})
				}
			}
		}
		off = stop
	}
	return wire.Union(out, nil), nil
}

// read fills p with the content's bytes at off, where it has data; the rest of p stays as it is.
func (v *remote) read(ctx context.Context, p []byte, off uint64) error {
	size := uint64(v.content.ChunkSize)
	end := min(off+uint64(len(p)), v.content.Size)
	for at := off; at < end; at = (at/size + 1) * size {
		w, ok, err := v.window(ctx, at/size)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		data, err := v.data(ctx, w)
		if err != nil {
			return err
		}
		pos := uint64(0)
		for _, r := range dataOf(&w, v.content) {
			start := w.Index*size + r.Off
			a, b := max(start, off), min(start+r.Len, end)
			if a < b {
				copy(p[a-off:b-off], data[pos+a-start:])
			}
			pos += r.Len
		}
	}
	return nil
}

// data returns the data of a window, its ranges one behind the other.
func (v *remote) data(ctx context.Context, w wire.Window) ([]byte, error) {
	if w.Patch != nil {
		if data, ok := v.patched.Get(w.Index); ok {
			return data, nil
		}
	}
	base, err := v.open(ctx, w.Block)
	if err != nil {
		return nil, err
	}
	var patch []byte
	if w.Patch != nil {
		if patch, err = v.open(ctx, w.Patch.Block); err != nil {
			return nil, err
		}
	}
	data, err := snapshot.Piece(base, patch, v.content, w)
	if err == nil && w.Patch != nil {
		v.patched.Add(w.Index, data)
	}
	return data, err
}

func (v *remote) open(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := v.blocks.Get(c); ok {
		return data, nil
	}
	data, err := v.reader.Data(ctx, c)
	if err == nil {
		v.blocks.Add(c, data)
	}
	return data, err
}

// windows is how many windows a content of that size is divided into.
func windows(c *wire.Content) uint64 {
	if c.ChunkSize == 0 {
		return 0
	}
	size := uint64(c.ChunkSize)
	return c.Size/size + min(c.Size%size, 1)
}

// dataOf returns the data ranges of w, relative to its start; no list stands for the whole window.
func dataOf(w *wire.Window, c *wire.Content) []wire.Range {
	if w.Data != nil {
		return w.Data
	}
	size := uint64(c.ChunkSize)
	return []wire.Range{{Off: 0, Len: min(size, c.Size-w.Index*size)}}
}
