package volume

import (
	"context"
	"errors"
	"time"

	"fractal-lazy/lazy"
	"fractal-lazy/metrics"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// figures are those of one volume; nil where nobody collects any. A view counts with the volume that it shows.
func (m *Manager) figures(v *vol) *metrics.Volume {
	if m.d.Metrics == nil {
		return nil
	}
	return m.d.Metrics.Volume(v.pub.String())
}

// Measure brings the figures up to date that tell a state; those that count are told as things happen. It is called before figures are read: it asks the
// disk for the generation of each mounted volume, and nothing else.
//
// What fetching changes cannot be told from what an application changes: while a volume hydrates, its upload lag may show an age although
// nobody wrote.
func (m *Manager) Measure() {
	if m.d.Metrics == nil || m.ready() != nil {
		return
	}
	states := map[string]int{}
	defer func() { m.d.Metrics.SetStates(states) }()
	for _, v := range m.all() {
		i := v.info()
		states[i.State]++
		if v.isView() {
			continue
		}
		f := m.figures(v)
		f.SetRemote(int64(i.BytesRemote), int64(i.FilesRemote))
		f.SetFenced(i.Fenced)
		if i.Synchronized != nil {
			f.SetSynchronized(*i.Synchronized)
		} else {
			f.SetSynchronized(time.Time{})
		}
		f.BehindSince(m.behindSince(v, i))
	}
}

// Lag is the age that the oldest change can have that is not published; 0 where all is. It asks the disk for the generation of a
// mounted volume, and nothing else; of a view it is 0. ErrUnknown: there is no such volume.
func (m *Manager) Lag(name string) (time.Duration, error) {
	v, err := m.lookup(name)
	if err != nil || v.isView() {
		return 0, err
	}
	since := m.behindSince(v, v.info())
	if since.IsZero() {
		return 0, nil
	}
	return max(0, m.now().Sub(since)), nil // a clock that was set back must not show a negative age
}

// behindSince is when the volume was last known to be published as a whole; the zero time where it still is.
func (m *Manager) behindSince(v *vol, i Info) time.Time {
	behind := i.Unpublished > 0 || len(i.Divergent) > 0
	if !behind && i.Mountpoint != "" {
		changed, err := m.differs(v)
		behind = changed || err != nil // what cannot be told is not called published
	}
	switch {
	case !behind:
		return time.Time{}
	case i.LastReplicated != nil:
		return *i.LastReplicated
	}
	return i.Created
}

// observeFetches is lazy.Options.Observe of one volume.
func (m *Manager) observeFetches(v *vol) func(lazy.Event, time.Duration) {
	f := m.figures(v)
	if f == nil {
		return nil
	}
	return func(e lazy.Event, took time.Duration) {
		switch e {
		case lazy.ContentHit, lazy.ContentMiss:
			f.Cache("content", e == lazy.ContentHit)
		case lazy.IndexHit, lazy.IndexMiss:
			f.Cache("index", e == lazy.IndexHit)
		case lazy.Shared:
			f.Shared()
		case lazy.Waited:
			f.Waited(took)
		}
	}
}

// meteredStore tells how long blocks take.
type meteredStore struct {
	store.Store
	figures *metrics.Volume
}

// Get is Store.Get, timed.
func (s meteredStore) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	start := time.Now()
	b, err := s.Store.Get(ctx, c)
	switch {
	case err == nil:
		s.figures.Fetched(len(b), time.Since(start))
	case !errors.Is(err, context.Canceled): // nobody wanted it any more
		s.figures.FetchFailed()
	}
	return b, err
}

// storeOf is the block store as one volume uses it.
func (m *Manager) storeOf(v *vol) store.Store {
	if f := m.figures(v); f != nil {
		return meteredStore{m.store, f}
	}
	return m.store
}
