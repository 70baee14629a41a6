package volume

import (
	"context"
	"fmt"

	"fractal-lazy/hive"

	"github.com/google/uuid"
)

// confirm asks the Hive whether this machine may publish, and finds out what
// it missed: the fencing check. Nil: it is the writer. ErrFenced: it is not, and has been fenced
// by this call. Other errors: it could not be found out. It runs before each upload and at each interval.
func (m *Manager) confirm(ctx context.Context, v *vol) error {
	v.mu.Lock()
	sure := v.claimed
	v.lastAsk = m.now()
	v.mu.Unlock()
	me := m.id()
	a := m.ask(ctx, v, !sure)
	if a.err == nil && sure && a.writer == nil && !a.unknown {
		a = m.ask(ctx, v, true) // somebody set it free: look who wrote since
	}
	if a.err != nil {
		return a.err
	}
	r := v.record()
	if r.Fence != nil {
		return v.wrap(ErrFenced)
	}
	if a.unknown && r.Seen != nil {
		return fmt.Errorf("%w: it does not know the volume any more, of which generation %d was seen", ErrRollback, r.Seen.Generation)
	}
	if a.writer != nil && *a.writer != me {
		return m.fence(ctx, v, a.writer.String())
	}
	if (!sure || a.writer == nil) && !a.unknown {
		if err := checkSeen(r, a.latest); err != nil {
			return err
		}
		if isAhead(r, me, a.latest) {
			return m.fence(ctx, v, a.latest.Machine.String())
		}
	}
	if a.unknown || a.writer == nil {
		if err := m.take(ctx, v, a.unknown); err != nil {
			return err
		}
	}
	var wasOffline bool
	v.mutate(func() {
		wasOffline = v.offline != ""
		v.claimed, v.offline = v.live != nil, ""
	})
	if wasOffline {
		m.logger(v, "fencing check").Info().Msg("the Hive answers again, and this machine is the writer")
	}
	if !r.Known || !r.Writer {
		return v.update(func(r *record) { r.Known, r.Writer = true, true })
	}
	return nil
}

// isAhead reports whether the Hive holds a snapshot that the data here does not come from.
func isAhead(r *record, me uuid.UUID, latest *hive.Manifest) bool {
	base := uint64(0)
	if r.Base != nil {
		base = r.Base.Generation
	}
	return latest != nil && latest.Generation > base && !isOwnUpload(r, me, latest)
}

// fence makes the loss of the volume to machine by final: nothing is published
// any more, and what was not published is kept in a snapshot. It returns
// ErrFenced, or what went wrong on the way.
//
// What runs on the mount goes on running, reads and writes: pulling the file
// system from under a database would turn a wrong split into a broken one. All it writes lands in the
// divergent snapshot, which is taken anew at the last Unmount. The next Mount
// starts over from what the Hive has.
func (m *Manager) fence(ctx context.Context, v *vol, by string) error {
	if _, err := uuid.Parse(by); err != nil {
		by = ""
	}
	err := v.update(func(r *record) {
		if r.Fence == nil {
			r.Fence = &fenceRecord{By: by, Since: m.now().UTC()}
		}
		r.Writer, r.Release = false, false
	})
	if err != nil {
		return err
	}
	v.mutate(func() { v.claimed, v.offline, v.problem = false, "", "" })
	if err := v.enter(ctx, stepSnapshot); err != nil {
		return err
	}
	defer v.leave()
	if _, err := m.takeSnapshot(ctx, v, kindDivergent); err != nil {
		return fmt.Errorf("keep what was not published: %w", err)
	}
	r := v.record()
	if p := lastPending(r); r.Fence != nil && r.Fence.Snapshot == "" && p != "" {
		// Nothing changed since the last snapshot that waited for its upload: that is the one to keep.
		if err := m.fenceSnapshot(v, p); err != nil {
			return err
		}
		r = v.record()
	}
	e := m.logger(v, "fence").Error().Str("by", by)
	if r.Fence != nil && r.Fence.Snapshot != "" {
		e = e.Str("snapshot", v.snap(r.Fence.Snapshot))
	}
	e.Msg("FENCED: another machine took this volume over; nothing is published from here any more, what was not is kept in the snapshot; stop what uses it")
	return v.wrap(fmt.Errorf("%w: machine %s", ErrFenced, by))
}

func lastPending(r *record) (id string) {
	for _, s := range r.Snapshots {
		if s.Kind == kindPending {
			id = s.ID
		}
	}
	return id
}

// fenceSnapshot makes id the one divergent snapshot of this fencing. What it holds of
// the one before it and of those that waited for their upload goes with them.
func (m *Manager) fenceSnapshot(v *vol, id string) error {
	var useless []string
	err := v.update(func(r *record) {
		if useless = r.setAside(id); r.Fence != nil && r.Fence.Snapshot != "" && r.Fence.Snapshot != id {
			useless = append(useless, r.Fence.Snapshot)
		}
		for _, u := range useless {
			r.drop(u)
		}
		if s := r.snapshot(id); s != nil {
			s.Kind = kindDivergent
		}
		if r.Fence != nil {
			r.Fence.Snapshot = id
		}
	})
	for _, u := range useless {
		if err == nil {
			err = m.toTrash(v.snap(u))
		}
	}
	return err
}
