package archive

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"fractal-lazy/hive"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

const (
	aheadFrame = 16 // blocks of one node that are read at once
	aheadAll   = 48 // of all nodes
)

// Getter is what Write needs of a store.
type Getter interface {
	Get(ctx context.Context, c cid.Cid) ([]byte, error)
}

// Stats counts what was written or read; the manifest is not in it.
type Stats struct {
	Blocks, Bytes uint64
}

type fetched struct {
	data []byte
	err  error
}

// Write writes the snapshot that a manifest names. signed is the manifest with its signature, which is checked against pub. After an error w has got the beginning of a file,
// which no Reader takes for a whole one. It reads up to 48 blocks ahead.
func Write(ctx context.Context, w io.Writer, src Getter, pub seal.Pubkey, signed []byte) (Stats, error) {
	m, err := hive.Open(pub, signed)
	if err != nil {
		return Stats{}, err
	}
	root, err := replica.ParseRoot(m.Data)
	if err != nil {
		return Stats{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &writer{ctx: ctx, src: src, w: bufio.NewWriterSize(w, 256<<10), walk: newWalk(root)}
	head := store.Block{CID: store.Sum(store.Raw, signed), Data: signed}
	if err := store.WriteCARHeader(x.w, root, head.CID); err != nil {
		return x.stats, err
	}
	if err := store.WriteCARBlock(x.w, head); err != nil {
		return x.stats, err
	}
	for {
		c, in, more := x.walk.next(x.leave)
		if !more {
			return x.stats, x.w.Flush()
		}
		data, err := x.get(c, in)
		if err != nil {
			return x.stats, fmt.Errorf("read block %s: %w", c, err)
		}
		if err := store.Verify(c, data); err != nil {
			return x.stats, err
		}
		if err := store.WriteCARBlock(x.w, store.Block{CID: c, Data: data}); err != nil {
			return x.stats, err
		}
		x.stats.Blocks++
		x.stats.Bytes += uint64(len(data))
		if err := x.walk.took(c, data); err != nil {
			return x.stats, err
		}
	}
}

type writer struct {
	ctx   context.Context
	src   Getter
	w     *bufio.Writer
	walk  *walk
	ahead int // being read, or read and not written
	stats Stats
}

// get returns a block, and has those that follow it in its node read meanwhile.
func (x *writer) get(c cid.Cid, in *frame) ([]byte, error) {
	mine, begun := in.ahead[c]
	for i := 0; i < len(in.links) && i < aheadFrame && x.ahead < aheadAll; i++ {
		l := in.links[i]
		if _, twice := in.ahead[l]; twice || l.Equals(c) || x.walk.seen.Contains(l) {
			continue
		}
		if in.ahead == nil {
			in.ahead = map[cid.Cid]chan fetched{}
		}
		ch := make(chan fetched, 1)
		in.ahead[l] = ch
		x.ahead++
		go func() { // ends with ctx
			data, err := x.src.Get(x.ctx, l)
			ch <- fetched{data, err}
		}()
	}
	if !begun {
		return x.src.Get(x.ctx, c)
	}
	delete(in.ahead, c)
	x.ahead--
	select {
	case f := <-mine:
		return f.data, f.err
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
}

// leave forgets what was read ahead of a node and met elsewhere before.
func (x *writer) leave(f *frame) { x.ahead -= len(f.ahead) }
