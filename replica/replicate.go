package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"fractal-lazy/hive"
	"fractal-lazy/pace"
	"fractal-lazy/seal"
	"fractal-lazy/store"

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

// ReplicateOptions are what a Replicate can do without.
type ReplicateOptions struct {
	// Line is what blocks are sent over; nil: no limit.
	Line *pace.User
	// Pinning is called with each root before it is pinned at the second place; an error of it ends the Replicate. Whoever calls Replicate gives up the pin of a root
	// that no manifest there comes to name.
	Pinning func(root cid.Cid) error
	// Progress may be nil.
	Progress func(Progress)
}

// Replicate brings the snapshots of a volume up to the manifest last to a second place: their blocks first, then their manifests as they are,
// signature and all, so that a machine with the key mounts from there as from the first. Of manifests whose blocks the first place
// gave up only the manifest is posted. Where the manifest before one was removed from the first place by a purge, and the second never had it, a new manifest says the same
// without it. Called again after an error or a kill it goes on.
//
// all are the volume's manifests in the first place. Errors: ErrFenced where a machine has the volume in use from the second place,
// ErrBehind where that has another history; those of package store and of package hive.
//
// Order, for each snapshot: 1 Pinning, blocks and pin; 2 its manifest; 3 the pin is looked for, as in Publish; 4 the second Hive's writer, which a manifest sets, is cleared:
// nobody uses the volume from there. A crash before 2 leaves a pin that no manifest names, before 4 a writer that the next call clears.
func Replicate(ctx context.Context, from, to Place, key seal.Privkey, all []*hive.Manifest, last *hive.Manifest, o ReplicateOptions) (r Replicated, err error) {
	pub := key.Public()
	if err := to.Hive.Create(ctx, pub); err != nil {
		return r, err
	}
	v, err := to.Hive.Volume(ctx, pub)
	if err != nil {
		return r, err
	}
	there, err := to.Hive.Latest(ctx, pub)
	if err != nil && !errors.Is(err, hive.ErrNotFound) {
		return r, err
	}
	if there != nil {
		r.Generation = there.Generation
	}
	chain := upTo(all, last)
	begin := nextFor(chain, there)
	if begin < 0 && there.Generation >= last.Generation { // an older one than the newest there
		known, err := to.Hive.All(ctx, pub)
		if err != nil {
			return r, err
		}
		if slices.ContainsFunc(known, func(m *hive.Manifest) bool { return sameState(m, last) }) {
			begin = len(chain)
		}
	}
	if begin < 0 {
		return r, fmt.Errorf("%w: the second place has snapshots that this one has not; replicate the other way, or remove the volume there", ErrBehind)
	}
	if v.Writer != nil && (there == nil || *v.Writer != there.Machine) {
		return r, fmt.Errorf("%w: %s uses the volume from the second place", ErrFenced, v.Writer)
	}
	var prev cid.Cid
	begin = min(begin, len(chain)-1) // the last one again: its pin may have been lost there
	if begin > 0 {
		if prev, err = ParseRoot(chain[begin-1].Data); err != nil {
			return r, fmt.Errorf("generation %d: %w", chain[begin-1].Generation, err)
		}
	}
	for _, m := range chain[begin:] {
		root, err := ParseRoot(m.Data)
		if err != nil {
			return r, fmt.Errorf("generation %d: %w", m.Generation, err)
		}
		kept, err := isKept(ctx, from.Store, root, m == last)
		if err == nil && kept {
			err = r.snapshot(ctx, from, to, prev, root, o) // 1
		}
		if err != nil {
			return r, fmt.Errorf("generation %d: %w", m.Generation, err)
		}
		prev = root
		if there != nil && there.Generation >= m.Generation {
			continue
		}
		m = following(m, there)
		_, err = to.Hive.Post(ctx, pub, m.Sign(key)) // 2
		if err == nil && kept {
			err = r.snapshot(ctx, from, to, prev, root, o) // 3
		}
		if err != nil {
			return r, fmt.Errorf("generation %d: %w", m.Generation, err)
		}
		r.Manifests++
		there, r.Generation = m, m.Generation
		if err := to.Hive.SetWriter(ctx, pub, nil); err != nil { // 4
			return r, err
		}
	}
	if r.Manifests == 0 && v.Writer != nil { // a call before this one was killed
		return r, to.Hive.SetWriter(ctx, pub, nil)
	}
	return r, nil
}

// upTo returns the manifests up to last, ascending.
func upTo(all []*hive.Manifest, last *hive.Manifest) (chain []*hive.Manifest) {
	for _, m := range all {
		if m.Generation < last.Generation {
			chain = append(chain, m)
		}
	}
	slices.SortFunc(chain, func(a, b *hive.Manifest) int { return cmp.Compare(a.Generation, b.Generation) })
	return append(chain, last)
}

// nextFor says which of the chain is the first to be posted at a place whose newest manifest is there, nil for none; less than 0: that is none of this history, or newer than all
// of the chain. A purge may have removed it from the chain since: then the place is taken for one of this history where a machine made it that is known from the chain, which one
// that took the volume over from the second place is not. It is a pure function.
func nextFor(chain []*hive.Manifest, there *hive.Manifest) int {
	if there == nil {
		return 0
	}
	purged, known := -1, false
	for i, m := range chain {
		switch {
		case sameState(m, there):
			return i + 1
		case m.Parent != nil && m.Parent.Hash == there.Hash():
			return i
		case m.Generation == there.Generation:
			return -1
		case m.Generation > there.Generation && purged < 0:
			purged = i
		}
		known = known || m.Machine == there.Machine
	}
	if known {
		return purged
	}
	return -1
}

// sameState tells whether two manifests are of one snapshot: they may have different ones before them.
func sameState(a, b *hive.Manifest) bool {
	return a.Generation == b.Generation && a.Data == b.Data && a.Machine == b.Machine && a.Path == b.Path && a.Creation == b.Creation
}

// following is m as it can be posted after prev, nil for none: itself where that is its parent, or where it has none.
func following(m, prev *hive.Manifest) *hive.Manifest {
	if m.Parent == nil || prev != nil && m.Parent.Hash == prev.Hash() {
		return m
	}
	n := *m
	n.Parent, n.Size = nil, max(m.Size, hive.MinChildSize)
	n.SizeTotal = n.Size
	if prev != nil {
		n.Parent = &hive.Parent{Hash: prev.Hash()}
		n.SizeTotal += prev.SizeTotal
	}
	return &n
}

// isKept tells whether a snapshot is to be copied: one that the first place does not keep any more is left out, but for the last.
func isKept(ctx context.Context, from store.Store, root cid.Cid, last bool) (bool, error) {
	if last {
		return true, nil
	}
	return from.Pinned(ctx, root)
}

// snapshot copies one snapshot, if it is not pinned there.
func (r *Replicated) snapshot(ctx context.Context, from, to Place, prev, root cid.Cid, o ReplicateOptions) error {
	if o.Pinning != nil {
		if err := o.Pinning(root); err != nil {
			return err
		}
	}
	s, err := Copy(ctx, from.Store, to.Store, prev, root, o.Line, o.Progress)
	if s.Nodes > 0 {
		r.Snapshots++
	}
	r.Stats.Blocks += s.Blocks
	r.Stats.Bytes += s.Bytes
	r.Stats.Nodes += s.Nodes
	r.Stats.Whole = r.Stats.Whole || s.Whole
	return err
}
