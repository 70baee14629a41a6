package lazy

import (
	"sync"
	"time"

	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"
)

// Status tells how far a Tree is; a consistent copy.
type Status struct {
	Complete     bool
	BytesTotal   uint64 // of the snapshot that the volume came from; 0 where that is long complete
	BytesRemote  uint64
	FilesTotal   uint64
	FilesRemote  uint64
	BytesFetched uint64        // sealed bytes that came over the network since the Tree was opened
	BytesTaken   uint64        // of content that came from older states on this machine since then
	Rate         float64       // content bytes a second, over the last seconds
	ETA          time.Duration // 0: unknown, or done
	StalledSince time.Time     // zero: blocks arrive, or none are wanted
	StalledWhy   string
	Paused       bool
}

// Status returns the present figures, from memory.
func (t *Tree) Status() Status {
	s := t.count.status(time.Now())
	s.Complete, s.BytesTaken = t.complete.Load(), t.taken.Load()
	f := t.fetch
	f.mu.Lock()
	s.BytesFetched, s.Paused = f.bytes, f.paused
	s.StalledSince, s.StalledWhy = f.stallLocked(time.Now())
	f.mu.Unlock()
	if s.Complete {
		s.BytesRemote, s.FilesRemote, s.ETA = 0, 0, 0
	}
	return s
}

// counters tell what is still remote. They are for people: between two counts
// of the marks they may be off by what an application overwrites or removes.
type counters struct {
	mu          sync.Mutex
	filesTotal  uint64
	bytesTotal  uint64
	filesRemote uint64
	bytesRemote uint64
	arriving    meter
}

func (c *counters) open(m *mark.Tree) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filesTotal, c.bytesTotal = m.Files, m.Bytes
	c.filesRemote, c.bytesRemote = m.Files, m.Bytes
}

// set takes over a fresh count of the marks.
func (c *counters) set(n tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filesRemote, c.bytesRemote = n.files, n.bytes
}

// filled: a directory with the totals of ref became entries with those of n.
func (c *counters) filled(ref *wire.DirRef, n tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filesRemote = less(c.filesRemote+n.files, ref.Files)
	c.bytesRemote = less(c.bytesRemote+n.bytes, ref.Bytes)
}

// fetched: n bytes of content arrived.
func (c *counters) fetched(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytesRemote = less(c.bytesRemote, n)
	c.arriving.add(time.Now(), n)
}

// finished: a file has all of its content.
func (c *counters) finished() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filesRemote = less(c.filesRemote, 1)
}

func (c *counters) status(now time.Time) Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{
		BytesTotal: c.bytesTotal, BytesRemote: c.bytesRemote,
		FilesTotal: c.filesTotal, FilesRemote: c.filesRemote,
		Rate: c.arriving.rate(now),
	}
	if s.Rate > 0 {
		s.ETA = time.Duration(float64(s.BytesRemote) / s.Rate * float64(time.Second))
	}
	return s
}

func less(n, by uint64) uint64 { return n - min(n, by) }
