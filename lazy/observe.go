package lazy

import "time"

// Event is what Options.Observe is told.
type Event int

const (
	// ContentHit: opened content that was wanted was in memory. ContentMiss: it was not.
	ContentHit Event = iota
	ContentMiss
	// IndexHit, IndexMiss: the same of index nodes of files.
	IndexHit
	IndexMiss
	// Shared: a block was wanted that was on its way already.
	Shared
	// Waited: an application waited for a block, so long, whether it came or not.
	Waited
)

// observe tells e to who wants to know.
func (f *fetcher) observe(e Event, took time.Duration) {
	if f.told != nil {
		f.told(e, took)
	}
}

// observeIndex is what a snapshot.Reader tells of its cache.
func (f *fetcher) observeIndex(hit bool) {
	if hit {
		f.observe(IndexHit, 0)
	} else {
		f.observe(IndexMiss, 0)
	}
}
