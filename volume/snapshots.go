package volume

import (
	"context"
	"fmt"
	"time"

	"fractal-lazy/hive"
)

// reportEvery is how often a caller who waits is told of progress.
const reportEvery = 250 * time.Millisecond

// Snapshot takes a local snapshot now and has it uploaded. With wait it
// returns once it is published, telling p of the progress; p may be nil.
func (m *Manager) Snapshot(ctx context.Context, name string, wait bool, p func(Progress)) (SnapshotInfo, error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if v.isView() {
		return SnapshotInfo{}, v.wrap(fmt.Errorf("%w: it is a view of a snapshot, and never changes", ErrOption))
	}
	if !v.hasData() {
		return SnapshotInfo{}, v.wrap(fmt.Errorf("%w: it holds nothing yet; mount it first", ErrNotReady))
	}
	id, err := m.snapshotNow(ctx, v)
	if err != nil {
		return SnapshotInfo{}, v.wrap(err)
	}
	v.mutate(func() { v.asked = true })
	m.poke()
	if wait {
		if err := m.waitPublished(ctx, v, p); err != nil {
			return SnapshotInfo{}, err
		}
	}
	return v.snapshotInfo(id), nil
}

// Flush takes a snapshot and returns when the Hive has accepted it and
// everything before it, or when ctx ends. An upload that fails is tried again
// meanwhile; the error of a ctx that ended names the last failure.
//
// ErrNotReady: so many tries in a row failed that it is not waited for any longer. The snapshot stays, and
// its upload goes on in the background.
func (m *Manager) Flush(ctx context.Context, name string, p func(Progress)) (SnapshotInfo, error) {
	return m.Snapshot(ctx, name, true, p)
}

// snapshotInfo describes snapshot id as it stands now; empty: nothing had
// changed, and the newest one is described.
func (v *vol) snapshotInfo(id string) SnapshotInfo {
	r := v.record()
	if s := r.snapshot(id); s != nil && (r.Base == nil || r.Base.Local != id) {
		return s.info()
	}
	if p := lastPending(r); id == "" && p != "" {
		return v.snapshotInfo(p)
	}
	if r.Base == nil {
		return SnapshotInfo{}
	}
	i := r.Base.info()
	// Later than the base's own: then the tree was the same and nothing was posted.
	if s := r.snapshot(id); id == "" || s != nil && !s.Created.Equal(r.Base.Created) {
		i.Unchanged = true
	}
	return i
}

// vainTries is after how many failed tries in a row nobody waits for an upload any longer, and vainRest is the rest before a try that is too long to be waited for.
const (
	vainTries = 3
	vainRest  = 10 * time.Second
)

// waitPublished returns when no local snapshot waits for its upload.
func (m *Manager) waitPublished(ctx context.Context, v *vol, p func(Progress)) error {
	v.mu.Lock()
	before := v.retry.tries
	v.mu.Unlock()
	return m.waitFor(ctx, v, p, "publishing", func() (done bool, err error) {
		if v.retry.tries < before { // one succeeded meanwhile
			before = v.retry.tries
		}
		if n := v.retry.tries - before; v.problem != "" && (n >= vainTries || n > 0 && v.retry.until.Sub(m.now()) > vainRest) {
			return false, fmt.Errorf("%w: the snapshot is taken, and not published: %s; it is tried again in the background", ErrNotReady, v.problem)
		}
		if f := v.rec.Fence; f != nil {
			return false, fmt.Errorf("%w: machine %s; what was not published is kept in %s", ErrFenced, f.By, v.snaps())
		}
		return v.rec.pending() == nil && v.work == nil || v.rec.pending() == nil && v.rec.Base != nil, nil
	})
}

// WaitReleased returns when the volume is unmounted, all of it is published and
// the writer is given back, or when ctx ends; the error then names what holds it up.
func (m *Manager) WaitReleased(ctx context.Context, name string) error {
	v, err := m.lookupOpen(name)
	if err != nil {
		return err
	}
	return m.waitReleased(ctx, v)
}

func (m *Manager) waitReleased(ctx context.Context, v *vol) error {
	return m.waitFor(ctx, v, nil, "giving back", func() (done bool, err error) {
		if f := v.rec.Fence; f != nil {
			return false, fmt.Errorf("%w: machine %s; what was not published is kept in %s", ErrFenced, f.By, v.snaps())
		}
		return v.live == nil && v.prep == nil && v.step == stepNone && !v.rec.Release, nil
	})
}

// waitFor waits until done, which is asked with v.mu held, is true or an error.
func (m *Manager) waitFor(ctx context.Context, v *vol, p func(Progress), what string, done func() (bool, error)) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var last Progress
	var at time.Time
	for {
		v.mu.Lock()
		ok, err := done()
		ch, now, problem, gone := v.changed, v.uploadIs, v.problem, v.gone
		v.mu.Unlock()
		switch {
		case err != nil:
			return v.wrap(err)
		case ok:
			return nil
		case gone:
			return v.wrap(ErrUnknown)
		}
		if t := time.Now(); p != nil && t.Sub(at) >= reportEvery {
			if now.Phase == "" {
				now.Phase = "waiting"
				if problem != "" {
					now.Phase = "waiting to try again: " + problem
				}
			}
			if !at.IsZero() && now.Phase == last.Phase && now.Done > last.Done {
				now.Rate = float64(now.Done-last.Done) / t.Sub(at).Seconds()
			}
			p(now)
			last, at = now, t
		}
		var tickC <-chan time.Time
		if p != nil {
			tickC = tick.C
		}
		select {
		case <-ch:
		case <-tickC:
		case <-m.life.Done():
			return v.wrap(fmt.Errorf("%w: the driver is stopping", ErrNotReady))
		case <-ctx.Done():
			err := fmt.Errorf("%s is not done: %w", what, ctx.Err())
			if problem != "" {
				err = fmt.Errorf("%w; the last try failed: %s", err, problem)
			}
			return v.wrap(err)
		}
	}
}

func (m *Manager) manifests(ctx context.Context, v *vol) ([]*hive.Manifest, error) {
	if m.d.Hive == nil {
		return nil, v.wrap(fmt.Errorf("%w: %w", ErrNotReady, errNoHive))
	}
	all, err := m.d.Hive.All(ctx, v.pub)
	switch {
	case isAny(err, hive.ErrNotFound):
		return nil, nil // not published yet
	case err != nil:
		return nil, v.wrap(fmt.Errorf("%w: snapshots at the Hive: %w", ErrNotReady, err))
	}
	return all, nil
}
