package lazy

import (
	"errors"

	"fractal-lazy/snapshot/wire"
)

// budget is what one pass may bring of content. The zero value allows nothing.
type budget struct {
	all     uint64 // bytes
	spent   uint64 // when it was looked at last
	ordered uint64 // since then: at most so much comes of it
}

// errSpent ends a search for files to bring.
var errSpent = errors.New("budget is spent")

// spent is what counts against the number of Options.Prefetch by now: the content of the snapshot that is here, whoever brought it, and when. So a volume that is mounted
// again gets no more than before.
func (t *Tree) spent() uint64 {
	t.count.mu.Lock()
	defer t.count.mu.Unlock()
	return less(t.count.bytesTotal, t.count.bytesRemote)
}

// affords takes n bytes of content out of the budget, where that has so much. What was ordered may have cost less, as it was on this machine, or small
// when sealed: before the budget counts as spent, all that is under way is waited for and looked at.
func (h *hydrator) affords(n uint64) bool {
	b := &h.budget
	if b.all == ^uint64(0) {
		return true
	}
	if b.spent+b.ordered+n > b.all {
		h.wg.Wait()
		b.spent, b.ordered = h.t.spent(), 0
		if b.spent+n > b.all {
			return false
		}
	}
	b.ordered += n
	return true
}

// cost is how many bytes of a window are to come. It is not looked for where all may.
func (f *file) cost(w wire.Window, all uint64) (n uint64) {
	if all == ^uint64(0) {
		return 0
	}
	missing, err := f.missing(w)
	if err != nil {
		return 0 // bringing it meets the same
	}
	for _, r := range missing {
		n += r.Len
	}
	return n
}
