package lazy

import (
	"context"
	"errors"
	"sync"
	"time"

	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

const (
	// foreseeing is how many blocks of the working set are on their way at once: enough to fill a link, and few enough that a block which it does not have soon
	// gets its turn.
	foreseeing = 8
	// maxForeseen bounds what is held in memory of it, in sealed bytes.
	maxForeseen = 32 << 20
	// foreseenFor is how long it is held where the volume does not become complete before.
	foreseenFor = 10 * time.Minute
)

// errFull ends the fetching of a working set.
var errFull = errors.New("no more of it is held")

// foreseen holds blocks that are likely to be wanted soon. The zero value holds none.
type foreseen struct {
	mu     sync.Mutex
	blocks map[cid.Cid][]byte
	bytes  int
}

func (f *foreseen) get(c cid.Cid) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blocks[c]
}

// put reports whether there was room.
func (f *foreseen) put(c cid.Cid, b []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes+len(b) > maxForeseen {
		return false
	}
	if f.blocks == nil {
		f.blocks = map[cid.Cid][]byte{}
	}
	if _, ok := f.blocks[c]; !ok {
		f.bytes += len(b)
	}
	f.blocks[c] = b
	return true
}

// size is how many sealed bytes are held.
func (f *foreseen) size() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return uint64(f.bytes)
}

func (f *foreseen) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocks, f.bytes = nil, 0
}

// foresee brings a block that is not here, and holds it.
func (f *fetcher) foresee(ctx context.Context, c cid.Cid) error {
	if f.here(ctx, c) != nil {
		return nil
	}
	b, done, err := f.get(ctx, c, false)
	if err != nil {
		return err
	}
	defer done()
	if !f.foreseen.put(c, b) {
		return errFull
	}
	return nil
}

// foresee fetches the working set that was recorded with the snapshot, in the order in which it was used, before anybody asks: an application that starts asks for one
// block after the other, and waits a round trip for each. It is for a volume that nobody has looked into on this machine yet.
//
// What goes wrong with it nobody misses: what is wanted is fetched when it is wanted.
func (t *Tree) foresee(ctx context.Context, want Prefetch) {
	budget, err := want.budget()
	if err != nil || want == PrefetchNone || !t.fresh {
		return
	}
	ctx = withPriority(ctx, ahead)
	root, err := t.reader.Root(ctx, t.root)
	var trace *wire.Trace
	if err == nil && root.Trace.Defined() {
		trace, err = t.reader.Trace(ctx, root.Trace)
	}
	if err != nil {
		t.opt.Log.Debug().Err(err).Str("volume", t.opt.Volume).Str("op", "foresee").Msg("the recorded working set cannot be read")
	}
	if trace == nil {
		return
	}
	defer t.fetch.foreseen.drop()
	began := time.Now()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(foreseeing)
	for _, c := range trace.Blocks {
		// What is on this machine in an older state is taken from there.
		if c.Prefix().Codec != store.DagCBOR && (len(t.sources) > 0 || t.spent()+t.fetch.foreseen.size() >= budget) {
			continue
		}
		if gctx.Err() != nil {
			break
		}
		group.Go(func() error { return t.fetch.foresee(gctx, c) })
	}
	err = group.Wait()
	t.opt.Log.Debug().AnErr("ended", err).Str("volume", t.opt.Volume).Str("op", "foresee").Int("blocks", len(trace.Blocks)).Dur("took", time.Since(began)).
		Msg("the recorded working set is here")
	select {
	case <-time.After(foreseenFor):
	case <-t.done:
	case <-ctx.Done():
	}
}
