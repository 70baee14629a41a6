package replica

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/pace"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// copyAtOnce is how many blocks are read from the source at once.
const copyAtOnce = 16

// CopyStats counts what a Copy did.
type CopyStats struct {
	Blocks, Bytes uint64 // sent
	Nodes         uint64 // of the tree, looked at
	Whole         bool   // every node was looked at, since the store turned out to lack blocks below some that it has
}

// Copy makes dst hold, and pin, all that root reaches, reading what dst lacks from src. No key is needed: the links
// stand in plain sight. prev is a root that dst may hold pinned, so that the pin costs the difference; undefined: none. line is
// what the blocks are sent over; nil: no limit.
//
// What lies below a node that dst has is taken to be there, since nodes are sent after what is below them. The pin proves it; where it
// finds a gap (a copy that was killed, a collection in the middle of one), everything is looked at once more.
//
// Order: 1 blocks; 2 the pin. A crash before 2 leaves blocks that a collection may take, and the next Copy sends those again.
func Copy(ctx context.Context, src, dst store.Store, prev, root cid.Cid, line *pace.User, tell func(Progress)) (CopyStats, error) {
	c := &copier{src: src, dst: dst, line: line, progress: &reporter{tell: tell}}
	if done, err := dst.Pinned(ctx, root); err != nil || done {
		return CopyStats{}, err
	}
	for {
		err := c.copyAll(ctx, root)
		if err != nil {
			return c.stats, err
		}
		c.progress.phase("pin")
		err = pinFrom(ctx, dst, prev, root)
		if !errors.Is(err, store.ErrNotFound) || c.stats.Whole {
			if err != nil {
				err = fmt.Errorf("pin: %w", err)
			}
			return c.stats, err
		}
		c.stats.Whole = true
	}
}

// pinFrom pins root, at the cost of its difference from prev where that is pinned.
func pinFrom(ctx context.Context, s store.Store, prev, root cid.Cid) error {
	if prev.Defined() {
		err := s.PinUpdate(ctx, prev, root)
		if !errors.Is(err, store.ErrNotPinned) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return s.Pin(ctx, root)
}

type copier struct {
	src, dst store.Store
	line     *pace.User // that the blocks are sent over; nil: no limit
	progress *reporter
	up       *uploader
	stats    CopyStats
}

func (c *copier) copyAll(ctx context.Context, root cid.Cid) error {
	c.progress.phase("copy")
	c.up = newUploader(ctx, c.dst, false, c.line, func(sent int) { c.progress.sent(sent) })
	c.up.ask.Store(0) // it is asked here, a node's links at a time
	defer c.up.Abort()
	has, err := c.dst.Has(ctx, []cid.Cid{root})
	if err == nil && (!has[0] || c.stats.Whole) {
		err = c.node(ctx, root, has[0])
	}
	if err != nil {
		return err
	}
	return c.up.Finish()
}

// node copies what is below a node, and then the node, which dst may have already.
func (c *copier) node(ctx context.Context, id cid.Cid, there bool) error {
	data, err := c.src.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("read node %s: %w", id, err)
	}
	links, err := store.Links(id, data)
	if err != nil {
		return err
	}
	c.stats.Nodes++
	has, err := c.dst.Has(ctx, links)
	if err != nil {
		return err
	}
	if err := c.content(ctx, links, has); err != nil {
		return err
	}
	for i, l := range links {
		if l.Prefix().Codec == store.DagCBOR && (!has[i] || c.stats.Whole) {
			if err := c.node(ctx, l, has[i]); err != nil {
				return err
			}
		}
	}
	if there {
		return nil
	}
	return c.put(ctx, store.Block{CID: id, Data: data})
}

// content copies the blocks of content that a node names.
func (c *copier) content(ctx context.Context, links []cid.Cid, has []bool) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(copyAtOnce)
	blocks := make(chan store.Block, copyAtOnce)
	seen := map[cid.Cid]bool{}
	sent := make(chan error, 1)
	go func() {
		var err error
		for b := range blocks {
			if err == nil {
				err = c.put(ctx, b)
			}
		}
		sent <- err
	}()
	for i, l := range links {
		if has[i] || seen[l] || l.Prefix().Codec != store.Raw {
			continue
		}
		seen[l] = true
		group.Go(func() error {
			data, err := c.src.Get(gctx, l)
			if err != nil {
				return fmt.Errorf("read block %s: %w", l, err)
			}
			blocks <- store.Block{CID: l, Data: data}
			return nil
		})
	}
	err := group.Wait()
	close(blocks)
	return errors.Join(err, <-sent)
}

func (c *copier) put(ctx context.Context, b store.Block) error {
	c.stats.Blocks++
	c.stats.Bytes += uint64(len(b.Data))
	return c.up.Put(ctx, b)
}
