package replica

import (
	"context"
	"fmt"
	"slices"

	"fractal-lazy/hive"
	"fractal-lazy/pace"
	"fractal-lazy/seal"
	"fractal-lazy/store"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// Place is where snapshots are kept: a block store and the Hive beside it.
type Place struct {
	Store store.Store
	Hive  *hive.Client
}

// Replicated says what a Replicate did.
type Replicated struct {
	Generation uint64 // the newest that the second place has now
	Manifests  int    // posted
	Snapshots  int    // whose blocks were copied
	Stats      CopyStats
}

// Replicate brings the snapshots of a volume up to the manifest last to a second place: their blocks first, then their manifests as they are,
// signature and all, so that a machine with the key mounts from there as from the first. Of manifests whose blocks the first place
// gave up only the manifest is posted, since the chain needs it. Called again after an error or a kill it goes on.
//
// all are the volume's manifests in the first place. Errors: ErrFenced where a machine has the volume in use from the second place,
// ErrBehind where that has another history; those of package store and of package hive.
//
// Order, for each snapshot: 1 blocks and pin; 2 its manifest; 3 the second Hive's writer, which a manifest sets, is cleared: nobody
// uses the volume from there. A crash before 2 leaves a pin that no manifest names, before 3 a writer that the next call clears.
func Replicate(ctx context.Context, from, to Place, key seal.Privkey, all []*hive.Manifest, last *hive.Manifest, line *pace.User, tell func(Progress)) (r Replicated, err error) {
	pub := key.Public()
	if err := to.Hive.Create(ctx, pub); err != nil {
		return r, err
	}
	v, err := to.Hive.Volume(ctx, pub)
	if err != nil {
		return r, err
	}
	known, err := to.Hive.Snapshots(ctx, pub, nil, false)
	if err != nil {
		return r, err
	}
	has := map[hive.Hash]bool{}
	for _, h := range known {
		has[h] = true
	}
	chain, err := chainOf(all, last)
	if err != nil {
		return r, err
	}
	if err := checkPlace(v.Writer, chain, has, len(known)); err != nil {
		return r, err
	}
	var prev cid.Cid
	for _, m := range chain {
		root, err := ParseRoot(m.Data)
		if err != nil {
			return r, fmt.Errorf("generation %d: %w", m.Generation, err)
		}
		if !has[m.Hash()] || m == last { // the last one again: its pin may have been lost there
			if err := r.snapshot(ctx, from, to, prev, root, m == last, line, tell); err != nil {
				return r, fmt.Errorf("generation %d: %w", m.Generation, err)
			}
		}
		prev, r.Generation = root, m.Generation
		if has[m.Hash()] {
			continue
		}
		if _, err := to.Hive.Post(ctx, pub, m.Sign(key)); err != nil {
			return r, fmt.Errorf("generation %d: %w", m.Generation, err)
		}
		r.Manifests++
		if err := to.Hive.SetWriter(ctx, pub, nil); err != nil {
			return r, err
		}
	}
	if r.Manifests == 0 && v.Writer != nil { // a call before this one was killed
		return r, to.Hive.SetWriter(ctx, pub, nil)
	}
	return r, nil
}

// snapshot copies one snapshot. One that the first place does not keep any more is left out, but for the last.
func (r *Replicated) snapshot(ctx context.Context, from, to Place, prev, root cid.Cid, last bool, line *pace.User, tell func(Progress)) error {
	if !last {
		kept, err := from.Store.Pinned(ctx, root)
		if err != nil || !kept {
			return err
		}
	}
	s, err := Copy(ctx, from.Store, to.Store, prev, root, line, tell)
	if s.Nodes > 0 {
		r.Snapshots++
	}
	r.Stats.Blocks += s.Blocks
	r.Stats.Bytes += s.Bytes
	r.Stats.Nodes += s.Nodes
	r.Stats.Whole = r.Stats.Whole || s.Whole
	return err
}

// chainOf returns the manifests from the first to last.
func chainOf(all []*hive.Manifest, last *hive.Manifest) (chain []*hive.Manifest, err error) {
	by := map[hive.Hash]*hive.Manifest{}
	for _, m := range all {
		by[m.Hash()] = m
	}
	for m := last; m != nil; {
		chain = append(chain, m)
		if m.Parent == nil {
			break
		}
		next := by[m.Parent.Hash]
		if next == nil || len(chain) > len(all) {
			return nil, fmt.Errorf("%w: the Hive does not show the manifest before generation %d", hive.ErrNotFound, m.Generation)
		}
		m = next
	}
	slices.Reverse(chain)
	return chain, nil
}

// checkPlace refuses a place where the volume lives a life of its own. writer is who uses it there: after a
// call that was killed that is the machine of one of our own manifests, the newest one there.
func checkPlace(writer *uuid.UUID, chain []*hive.Manifest, has map[hive.Hash]bool, known int) error {
	shared, newest := 0, uuid.Nil
	for _, m := range chain {
		if has[m.Hash()] {
			shared, newest = shared+1, m.Machine
		}
	}
	switch {
	case known > shared && !has[chain[len(chain)-1].Hash()]:
		return fmt.Errorf("%w: the second place has snapshots that this one has not; replicate the other way, or remove the volume there", ErrBehind)
	case writer != nil && *writer != newest:
		return fmt.Errorf("%w: %s uses the volume from the second place", ErrFenced, writer)
	}
	return nil
}
