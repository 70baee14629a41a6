package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// Store is a store.Store in memory. The zero value is not usable: see New.
type Store struct {
	mu     sync.RWMutex
	blocks map[cid.Cid][]byte
	pins   map[cid.Cid]struct{}
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{blocks: map[cid.Cid][]byte{}, pins: map[cid.Cid]struct{}{}}
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.Check(c); err != nil {
		return nil, err
	}
	s.mu.RLock()
	data, ok := s.blocks[c]
	s.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("get %s: %w", c, store.ErrNotFound)
	}
	// A stored slice is never written to again; the copy is the caller's.
	return slices.Clone(data), nil
}

// Has implements store.Store.
func (s *Store) Has(ctx context.Context, cids []cid.Cid) ([]bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]bool, len(cids))
	for i, c := range cids {
		_, out[i] = s.blocks[c]
	}
	return out, nil
}

// PutMany implements store.Store. Blocks are visible one by one, as they come.
func (s *Store) PutMany(ctx context.Context, blocks iter.Seq2[store.Block, error]) error {
	for b, err := range blocks {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(b.Data) > store.MaxBlock {
			return fmt.Errorf("put %s: %w", b.CID, store.ErrTooLarge)
		}
		if err := store.Verify(b.CID, b.Data); err != nil {
			return fmt.Errorf("put: %w", err)
		}
		if _, err := store.Links(b.CID, b.Data); err != nil {
			return fmt.Errorf("put: %w", err)
		}
		data := slices.Clone(b.Data)
		s.mu.Lock()
		s.blocks[b.CID] = data
		s.mu.Unlock()
	}
	return ctx.Err()
}

// Pin implements store.Store.
func (s *Store) Pin(ctx context.Context, root cid.Cid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.walkLocked(root, map[cid.Cid]struct{}{}); err != nil {
		return fmt.Errorf("pin %s: %w", root, err)
	}
	s.pins[root] = struct{}{}
	return nil
}

// PinUpdate implements store.Store. It fails with store.ErrNotPinned where
// prev is not pinned.
func (s *Store) PinUpdate(ctx context.Context, prev, next cid.Cid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pins[prev]; !ok {
		return fmt.Errorf("pin %s after %s: %w", next, prev, store.ErrNotPinned)
	}
	// What prev reaches is there, since it is pinned; with it marked as
	// seen, the walk visits the difference only.
	seen := map[cid.Cid]struct{}{}
	if err := s.walkLocked(prev, seen); err != nil {
		return fmt.Errorf("pin %s after %s: %w", next, prev, err)
	}
	if err := s.walkLocked(next, seen); err != nil {
		return fmt.Errorf("pin %s after %s: %w", next, prev, err)
	}
	s.pins[next] = struct{}{}
	return nil
}

// Unpin implements store.Store.
func (s *Store) Unpin(ctx context.Context, root cid.Cid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins, root)
	return nil
}

// Pinned implements store.Store.
func (s *Store) Pinned(ctx context.Context, root cid.Cid) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.pins[root]
	return ok, nil
}

// GC removes every block that no pin reaches and returns how many those were.
func (s *Store) GC() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[cid.Cid]struct{}{}
	for root := range s.pins {
		// What is pinned is complete, unless a test removed a block by
		// Remove; then as much of it is kept as can be reached.
		_ = s.walkLocked(root, seen)
	}
	removed := 0
	for c := range s.blocks {
		if _, ok := seen[c]; !ok {
			delete(s.blocks, c)
			removed++
		}
	}
	return removed
}

// Remove drops one block, pinned or not: the loss of data that a test wants
// to see handled.
func (s *Store) Remove(c cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blocks, c)
}

// CIDs returns the CIDs of all blocks held, in no order.
func (s *Store) CIDs() []cid.Cid {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]cid.Cid, 0, len(s.blocks))
	for c := range s.blocks {
		out = append(out, c)
	}
	return out
}

// Size returns the number of blocks and the sum of their lengths in bytes.
func (s *Store) Size() (blocks int, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, data := range s.blocks {
		bytes += int64(len(data))
	}
	return len(s.blocks), bytes
}

// walkLocked adds root and all it reaches to seen, without entering what is
// there already. A missing block is an error, after everything else that can
// be reached has been visited.
func (s *Store) walkLocked(root cid.Cid, seen map[cid.Cid]struct{}) error {
	var missing error
	todo := []cid.Cid{root}
	for len(todo) > 0 {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, ok := seen[c]; ok {
			continue
		}
		data, ok := s.blocks[c]
		if !ok {
			if missing == nil {
				missing = fmt.Errorf("%s: %w", c, store.ErrNotFound)
			}
			continue
		}
		seen[c] = struct{}{}
		links, err := store.Links(c, data)
		if err != nil {
			return err
		}
		todo = append(todo, links...)
	}
	return missing
}
