package hive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"fractal-lazy/seal"

	"golang.org/x/sync/errgroup"
)

// inFlight is how many manifests are fetched at once, and how many of a long list Latest looks at.
const inFlight = 16

// Latest returns the manifest of the highest generation, ErrNotFound where the volume has none. One manifest that fails its
// checks, among those it has to look at, fails it: the rest would be a guess at what the newest state is.
//
// It costs two round trips however long the list is, if the Hive lists hashes in the order of generations, as ours does: the list;
// then, all at once, the last sixteen manifests and the children of the very last. Where these are not in ascending order, or
// the last has a child, the list's order means nothing and every manifest is fetched.
func (c *Client) Latest(ctx context.Context, p seal.Pubkey) (*Manifest, error) {
	list, err := c.Snapshots(ctx, p, nil, false)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("latest manifest of volume %s: %w: it has none", p, ErrNotFound)
	}
	if len(list) <= inFlight {
		all, err := c.manifests(ctx, p, list)
		if err != nil {
			return nil, err
		}
		return highest(all), nil
	}

	tail := list[len(list)-inFlight:]
	last := tail[len(tail)-1]
	var found []*Manifest
	var children []Hash
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { found, err = c.manifests(gctx, p, tail); return err })
	g.Go(func() (err error) { children, err = c.Snapshots(gctx, p, &last, false); return err })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if len(children) == 0 && ascending(found) {
		return found[len(found)-1], nil
	}
	all, err := c.manifests(ctx, p, list)
	if err != nil {
		return nil, err
	}
	return highest(all), nil
}

// All returns every manifest, ascending by generation. It fetches them all, sixteen at a time; one that fails its checks fails it.
func (c *Client) All(ctx context.Context, p seal.Pubkey) ([]*Manifest, error) {
	list, err := c.Snapshots(ctx, p, nil, false)
	if err != nil {
		return nil, err
	}
	all, err := c.manifests(ctx, p, list)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, byGeneration)
	return all, nil
}

// manifests fetches every manifest of the list, in its order. One that the Hive lists and does not have is ErrUnavailable, and never
// ErrNotFound: that would say that there is no snapshot, and a volume that begins empty.
func (c *Client) manifests(ctx context.Context, p seal.Pubkey, list []Hash) ([]*Manifest, error) {
	out := make([]*Manifest, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	for i, h := range list {
		g.Go(func() (err error) {
			out[i], err = c.Manifest(ctx, p, h)
			if errors.Is(err, ErrNotFound) {
				return fmt.Errorf("%w: the Hive lists manifest %s and does not have it", ErrUnavailable, h)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// byGeneration orders two of one generation, which a correct Hive does not have, by their hashes: everybody picks the same one.
func byGeneration(a, b *Manifest) int {
	switch {
	case a.Generation < b.Generation:
		return -1
	case a.Generation > b.Generation:
		return 1
	}
	ha, hb := a.Hash(), b.Hash()
	return bytes.Compare(ha[:], hb[:])
}

func highest(all []*Manifest) *Manifest { return slices.MaxFunc(all, byGeneration) }

func ascending(all []*Manifest) bool {
	for i := 1; i < len(all); i++ {
		if all[i].Generation <= all[i-1].Generation {
			return false
		}
	}
	return true
}
