package lazy

import "sync"

// maxAheadWindows bounds the read-ahead of one file.
const maxAheadWindows = 8

// sequential notices readers who go through a file from front to back.
type sequential struct {
	mu    sync.Mutex
	next  uint64 // where a sequential reader would go on
	depth uint64 // windows to read ahead; doubles with each window
	asked uint64 // first window not asked for yet
}

// note tells of a read of [off, end) and returns the windows that should be
// on their way: [from, to).
func (s *sequential) note(off, end, chunk uint64) (from, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	window := (end - 1) / chunk
	switch {
	case off > s.next || end < s.next && s.next-end > chunk:
		s.depth, s.asked = 0, 0
	case window != (max(s.next, 1)-1)/chunk || s.depth == 0:
		s.depth = min(max(1, 2*s.depth), maxAheadWindows)
	}
	s.next = max(end, off)
	if s.depth == 0 {
		return 0, 0
	}
	from, to = max(window+1, s.asked), window+1+s.depth
	if from >= to {
		return 0, 0
	}
	s.asked = to
	return from, to
}

// readAhead has what follows a sequential reader fetched before it asks.
func (f *file) readAhead(off, end uint64) {
	end = min(end, f.content.Size)
	if off >= end || f.content.Data <= uint64(f.content.ChunkSize) {
		return
	}
	chunk := uint64(f.content.ChunkSize)
	from, to := f.follow.note(off, end, chunk)
	if from >= to || from*chunk >= f.content.Size {
		return
	}
	t := f.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spawnLocked(func() {
		defer f.Close()
		// What fails here the reader meets itself, and asks for again.
		_ = f.bring(withPriority(t.ctx, ahead), from*chunk, to*chunk)
	}) {
		f.refs++
	}
}
