package ipfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/multiformats/go-multihash"

	"fractal-lazy/mutant"
	"fractal-lazy/store"
)

// collect deletes the blocks that no pin reaches and that are older than the
// grace (with force: of any age), and calls removed for each.
//
// Between the import of a snapshot's blocks and its pin nothing but their age
// protects them: a block is as old as the last time that it was imported, put
// or asked for by block/stat, whether or not it had to be written then.
func (n *Node) collect(ctx context.Context, force bool, removed func(cid.Cid) error) error {
	// Pins wait until it is over; imports do not.
	if err := n.gate.Acquire(ctx, gateAll); err != nil {
		return err
	}
	defer n.gate.Release(gateAll)

	live, err := n.reachable(ctx)
	if err != nil {
		// What cannot be told apart is not deleted.
		return fmt.Errorf("garbage collection aborted: %w", err)
	}
	res, err := n.blocks.ds.Query(ctx, query.Query{KeysOnly: true})
	if err != nil {
		return err
	}
	defer res.Close()
	for r := range res.Next() {
		if r.Error != nil {
			return r.Error
		}
		key := datastore.RawKey(r.Key)
		mh, err := dshelp.DsKeyToMultihash(key)
		if err != nil {
			continue // no file of ours
		}
		if _, ok := live[digestOf(mh)]; ok {
			continue
		}
		gone, err := n.blocks.deleteExpired(ctx, key, force)
		if err != nil {
			return err
		}
		if gone {
			// Only the hash is known, not the codec; Kubo does the same.
			if err := removed(cid.NewCidV1(cid.Raw, mh)); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// digest is what tells blocks apart here: 32 bytes instead of a CID, since
// there may be millions.
type digest [32]byte

func digestOf(mh multihash.Multihash) (d digest) {
	copy(d[:], mh[max(0, len(mh)-len(d)):])
	return d
}

// reachable returns all blocks below the pins.
func (n *Node) reachable(ctx context.Context) (map[digest]struct{}, error) {
	live := map[digest]struct{}{}
	// An early return must end the pinner's goroutine behind the channel.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for p := range n.pins.DirectKeys(ctx, false) {
		if p.Err != nil {
			return nil, p.Err
		}
		live[digestOf(p.Pin.Key.Hash())] = struct{}{}
	}
	// Nodes are walked by CID, since one hash may be a raw block and a node.
	walked := map[cid.Cid]struct{}{}
	for p := range n.pins.RecursiveKeys(ctx, false) {
		if p.Err != nil {
			return nil, p.Err
		}
		if mutant.Is(mutant.CollectUsed) && p.Pin.Key.Hash()[2]%4 == 0 {
			continue
		}
		todo := []cid.Cid{p.Pin.Key}
		for len(todo) > 0 {
			c := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			live[digestOf(c.Hash())] = struct{}{}
			if c.Prefix().Codec == store.Raw {
				continue
			}
			if _, ok := walked[c]; ok {
				continue
			}
			walked[c] = struct{}{}
			nd, err := n.dag.Get(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("below pin %s: %w", p.Pin.Key, err)
			}
			for _, l := range nd.Links() {
				todo = append(todo, l.Cid)
			}
		}
	}
	return live, ctx.Err()
}

// deleteExpired deletes a block if it is older than the grace.
func (b *blockFiles) deleteExpired(ctx context.Context, key datastore.Key, force bool) (bool, error) {
	b.sweep.Lock()
	defer b.sweep.Unlock()
	if !force {
		info, err := os.Stat(b.path(key))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		// The eighth is what touchLocked may have left out.
		if time.Since(info.ModTime()) <= b.grace+b.grace/8 {
			return false, nil
		}
	}
	return true, b.ds.Delete(ctx, key)
}
