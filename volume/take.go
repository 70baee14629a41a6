package volume

import (
	"context"
	"fmt"

	"fractal-lazy/backing"
)

// takeSnapshot makes a local read-only snapshot of data and records it under
// kind. Nothing is done, and id is empty, where it would hold nothing new. The step is held.
//
// Order: 1. dirty data to the disk; 2. the snapshot, while no change goes
// through FUSE; 3. the record. A crash before 3 leaves a snapshot that no
// record names: the next Open throws it away.
func (m *Manager) takeSnapshot(ctx context.Context, v *vol, kind string) (id string, err error) {
	if !v.has(v.data()) {
		return "", nil
	}
	if err := m.mayPublish(v); err != nil && kind == kindPending {
		return "", err
	}
	r := v.record()
	changed := false
	if r.Follow == nil {
		if changed, _, err = backing.Changed(v.data(), r.held(kind)); err != nil {
			return "", err
		}
	}
	now := m.now().UTC()
	if !changed {
		if r.pending() == nil && r.Fence == nil {
			// All that was written until now is published. Not worth a write of
			// the record: the next one takes it along.
			v.mutate(func() {
				if v.rec.Base != nil {
					v.rec.Replicated = &now
				}
				v.lastSnap = now
			})
		}
		return "", nil
	}
	if err := r.roomError(); err != nil {
		return "", err
	}
	id = newSnapshotID()
	take := func() error { return backing.Snapshot(v.data(), v.snap(id), true) }
	v.mu.Lock()
	l := v.live
	v.mu.Unlock()
	if l != nil {
		err = l.fs.Freeze(take)
	} else {
		err = take()
	}
	if err != nil {
		return "", fmt.Errorf("local snapshot: %w", err)
	}
	info, err := backing.Info(v.snap(id))
	if err != nil {
		return "", err
	}
	err = v.update(func(r *record) {
		r.Snapshots = append(r.Snapshots, snapRecord{ID: id, Kind: kind, Created: now, Gen: info.CreatedTransid, From: r.From})
		r.From = nil // the next one grows out of this one
	})
	if err != nil {
		return "", err
	}
	v.mutate(func() { v.lastSnap = now })
	if v.set.direct {
		m.noteLeftOut(v)
	}
	m.logger(v, "snapshot").Debug().Str("snapshot", id).Str("kind", kind).Msg("local snapshot taken")
	if kind == kindDivergent {
		err = m.fenceSnapshot(v, id)
	}
	return id, err
}

// snapshotNow is takeSnapshot for those who do not hold the step. A volume that
// lost its writer keeps a divergent snapshot instead of one to be published.
func (m *Manager) snapshotNow(ctx context.Context, v *vol) (id string, err error) {
	if err := v.enter(ctx, stepSnapshot); err != nil {
		return "", err
	}
	defer v.leave()
	kind := kindPending
	if v.record().Fence != nil {
		kind = kindDivergent
	}
	return m.takeSnapshot(ctx, v, kind)
}
