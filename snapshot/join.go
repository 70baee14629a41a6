package snapshot

import (
	"sync"
	"sync/atomic"
)

// join fires once, when all that it waits for is done. Who creates it with
// newJoin holds one count until it has added everything. Joins are how a node
// waits for the CIDs of what is below it: a pack for its pieces, a file for its
// packs, a page for its files, an index for its pages.
type join struct {
	left atomic.Int64
	fire func(w *worker)
}

func newJoin(fire func(w *worker)) *join {
	j := &join{fire: fire}
	j.left.Store(1)
	return j
}

func (j *join) add() { j.left.Add(1) }

// done takes one count away and fires on the last: on the caller's goroutine,
// which is why it never waits for the walker.
func (j *join) done(w *worker) {
	if j.left.Add(-1) == 0 {
		j.fire(w)
	}
}

// result is a value that several joins may wait for: the content of an inode
// with several names.
type result struct {
	mu      sync.Mutex
	ready   bool
	waiters []*join
}

// wait makes j wait for the result.
func (r *result) wait(j *join) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ready {
		j.add()
		r.waiters = append(r.waiters, j)
	}
}

func (r *result) set(w *worker) {
	r.mu.Lock()
	waiters := r.waiters
	r.ready, r.waiters = true, nil
	r.mu.Unlock()
	for _, j := range waiters {
		j.done(w)
	}
}
