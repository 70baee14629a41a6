package faulty

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// Store is a store.Store that goes to another one, by the rules of Faults.
type Store struct {
	Faults
	inner store.Store
}

var _ store.Store = (*Store)(nil)

// New wraps inner; without rules it behaves as inner does.
func New(inner store.Store) *Store { return &Store{inner: inner} }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	s.count(c)
	a := s.meet(Get, c)
	if err := s.before(ctx, a, Get, c); err != nil {
		return nil, err
	}
	ask := c
	if a != nil && a.rule.Fault.swap.Defined() {
		ask = a.rule.Fault.swap
	}
	data, err := s.inner.Get(ctx, ask)
	if err != nil {
		return nil, err
	}
	if a == nil {
		s.remember(data)
		return data, nil
	}
	if a.rule.Fault.change != nil {
		data = a.rule.Fault.change(data)
	}
	if a.rule.Fault.replay {
		data = s.replay()
	}
	if a.rule.Unverified {
		return data, nil
	}
	if err := store.Verify(c, data); err != nil {
		return nil, fmt.Errorf("get (%s): %w", a.rule.Name, err)
	}
	return data, nil
}

// before waits and fails as the rule says.
func (s *Store) before(ctx context.Context, a *Active, op Op, c cid.Cid) error {
	if a == nil {
		return nil
	}
	a.wait(ctx.Done())
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.rule.Fault.err != nil {
		return fmt.Errorf("%s %s (%s): %w", op, c, a.rule.Name, a.rule.Fault.err)
	}
	return nil
}

// Has implements store.Store.
func (s *Store) Has(ctx context.Context, cids []cid.Cid) ([]bool, error) {
	if err := s.before(ctx, s.meet(Has, cids...), Has, cid.Undef); err != nil {
		return nil, err
	}
	return s.inner.Has(ctx, cids)
}

// PutMany implements store.Store. Rules are looked at for each block; one
// that fails ends the call there, with the blocks before it in the store or
// not, as inner has it. An empty call meets the rules once.
func (s *Store) PutMany(ctx context.Context, blocks iter.Seq2[store.Block, error]) error {
	some := false
	err := s.inner.PutMany(ctx, func(yield func(store.Block, error) bool) {
		for b, err := range blocks {
			some = true
			if err == nil {
				a := s.meet(PutMany, b.CID)
				err = s.before(ctx, a, PutMany, b.CID)
				if err == nil && a != nil && a.rule.Fault.change != nil {
					b.Data = a.rule.Fault.change(slices.Clone(b.Data))
				}
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	})
	if err == nil && !some {
		err = s.before(ctx, s.meet(PutMany), PutMany, cid.Undef)
	}
	return err
}

// Pin implements store.Store.
func (s *Store) Pin(ctx context.Context, root cid.Cid) error {
	if err := s.before(ctx, s.meet(Pin, root), Pin, root); err != nil {
		return err
	}
	return s.inner.Pin(ctx, root)
}

// PinUpdate implements store.Store.
func (s *Store) PinUpdate(ctx context.Context, prev, next cid.Cid) error {
	if err := s.before(ctx, s.meet(PinUpdate, next), PinUpdate, next); err != nil {
		return err
	}
	return s.inner.PinUpdate(ctx, prev, next)
}

// Unpin implements store.Store.
func (s *Store) Unpin(ctx context.Context, root cid.Cid) error {
	if err := s.before(ctx, s.meet(Unpin, root), Unpin, root); err != nil {
		return err
	}
	return s.inner.Unpin(ctx, root)
}

// Pinned implements store.Store.
func (s *Store) Pinned(ctx context.Context, root cid.Cid) (bool, error) {
	if err := s.before(ctx, s.meet(Pinned, root), Pinned, root); err != nil {
		return false, err
	}
	return s.inner.Pinned(ctx, root)
}
