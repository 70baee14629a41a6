package lazy

import (
	"fmt"
	"slices"
	"time"

	"fractal-lazy/fusefs"

	"github.com/ipfs/go-cid"
)

// call is one block on its way, or waiting for its turn.
type call struct {
	c       cid.Cid
	prio    priority // under which it counts: the highest of those that waited
	waiting [priorities]int
	queued  bool
	resting bool          // between two tries: it keeps no other from flying
	began   time.Time     // where not queued
	hurry   chan struct{} // closed, and made anew, when its rest is to end
	done    chan struct{}
	data    []byte
	err     error
}

// join adds one who waits for block c. It returns nil where content is set and the opened block is in the cache.
func (f *fetcher) join(c cid.Cid, p priority, content bool) (_ *call, shared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.landed[c]; k != nil {
		k.waiting[p]++
		return k, true
	}
	k := f.calls[c]
	if k == nil {
		// Looked at again here: who adds to the cache leaves the call after that, and under the lock.
		if content && f.cache.Contains(c) {
			return nil, false
		}
		k = &call{c: c, prio: p, queued: true, hurry: make(chan struct{}), done: make(chan struct{})}
		if f.ctx.Err() != nil {
			k.waiting[p]++
			k.err = f.closedError()
			close(k.done)
			return k, false
		}
		f.calls[c] = k
		f.queue[p] = append(f.queue[p], k)
	} else {
		shared = true
	}
	k.waiting[p]++
	f.raiseLocked(k, p)
	f.startLocked()
	return k, shared
}

// raise makes one who waits with priority p a reader.
func (f *fetcher) raise(k *call, p priority) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k.waiting[p]--
	k.waiting[reader]++
	if f.calls[k.c] == k { // or else it is over
		f.raiseLocked(k, reader)
		f.startLocked()
	}
}

func (f *fetcher) leave(k *call, p priority) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k.waiting[p]--
	if _, used := k.wanted(); !used && f.landed[k.c] == k {
		delete(f.landed, k.c)
	}
}

// wanted returns the highest priority of those who wait; false: nobody does.
func (k *call) wanted() (priority, bool) {
	for p := reader; p >= background; p-- {
		if k.waiting[p] > 0 {
			return p, true
		}
	}
	return background, false
}

func (f *fetcher) closedError() error {
	return fmt.Errorf("%w: volume %s is closed", fusefs.ErrRemote, f.volume)
}

// raiseLocked gives a call the priority p if its own is lower, and ends its
// pause after a failure where a reader asks.
func (f *fetcher) raiseLocked(k *call, p priority) {
	if p > k.prio {
		switch {
		case k.queued:
			q := f.queue[k.prio]
			if i := slices.Index(q, k); i >= 0 {
				f.queue[k.prio] = slices.Delete(q, i, i+1)
			}
			f.queue[p] = append(f.queue[p], k)
		case !k.resting:
			f.flying[k.prio]--
			f.flying[p]++
		}
		k.prio = p
	}
	if p == reader {
		k.hurryLocked()
	}
}
