package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fractal-lazy/backing"
)

// removeWait is how long Remove waits for a step that is under way.
const removeWait = 10 * time.Second

// Remove takes the volume off this machine: its folder goes to the trash, by
// renames, and is deleted later. What the Hive and the block stores hold stays.
// ErrInUse while it is mounted; ErrNotSaved where it holds changes that are
// nowhere else and force is not set; ErrNotReady where pins of it cannot be given up now, and force is not set. Ids of mounts that are gone do not matter.
func (m *Manager) Remove(ctx context.Context, name string, force bool) error {
	v, err := m.lookup(name)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepRemove); err != nil {
		return err
	}
	defer v.leave()
	v.mu.Lock()
	used, ids := v.live != nil || v.prep != nil, slices.Sorted(maps.Keys(v.ids))
	v.mu.Unlock()
	if used {
		return v.wrap(fmt.Errorf("%w: unmount it first%s", ErrInUse, usedFor(v.name, ids)))
	}
	if c := m.clonesOf(v); len(c) > 0 && !v.isView() {
		return v.wrap(fmt.Errorf("%w: its clone %s is not whole and published under its own key yet: mount that, then `fractal-lazy hydrate --wait %s` and "+
			"`fractal-lazy flush %s`, or remove it", ErrInUse, c[0], c[0], c[0]))
	}
	m.stopWork(v)
	if err := m.checkSaved(v); err != nil && !force {
		return v.wrap(err)
	}
	if err := m.unpinAll(ctx, v); err != nil {
		if !force {
			return v.wrap(fmt.Errorf("%w: something of it would stay pinned for ever, which no snapshot has: try again, or remove it with --force: %w", ErrNotReady, err))
		}
		m.logger(v, "remove").Warn().Err(err).Msg("something stays pinned that no snapshot has")
	}
	if r := v.record(); r.Writer && m.d.Hive != nil {
		// Else others would be refused for the sake of a machine that has forgotten the volume.
		if err := m.clearWriter(ctx, v); err != nil {
			m.logger(v, "remove").Warn().Err(err).Msg("the Hive still names this machine as the writer: others need takeover=always")
		}
	}
	return m.bury(v)
}

// unpinAll does what purges, publications and replications had no time for: with the record the list of it goes.
func (m *Manager) unpinAll(ctx context.Context, v *vol) error {
	r := v.record()
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var here, there error
	if len(r.Unpin) > 0 && m.pub != nil {
		here = m.unpinByItself(ask, v)
	}
	if len(r.RemoteUnpin) > 0 {
		if there = m.unpinRemote(ask, v); there != nil {
			there = fmt.Errorf("at a second place: %w", there)
		}
	}
	return errors.Join(here, there)
}

// usedFor names one of the users, and what to do about one that could not say that it ended.
func usedFor(name string, ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return fmt.Sprintf("; a user that ended and could not say so is taken away by `fractal-lazy volume umount --id %s %s`", ids[0], name)
}

// bury moves a volume to the trash.
//
// Order: 1. data and snapshots; 2. volume.json, with which the volume is gone.
// A crash between them leaves a volume without data, which can be removed again.
// Views of the key stay: they are volumes of their own.
func (m *Manager) bury(v *vol) error {
	err := m.toTrash(v.data(), v.next(), v.snaps(), v.idsFile(), v.workingFile(), v.recordFile())
	if err != nil {
		return v.wrap(err)
	}
	v.mutate(func() { v.gone = true })
	m.mu.Lock()
	delete(m.vols, v.name)
	m.mu.Unlock()
	if m.d.Metrics != nil && !v.isView() {
		m.d.Metrics.Forget(v.pub.String())
	}
	m.forgetJobs(v)
	m.logger(v, "remove").Info().Msg("volume removed")
	// The folders go where nothing else is in them.
	for dir := v.dir; dir != m.volumes() && os.Remove(dir) == nil; {
		dir = filepath.Dir(dir)
	}
	if err := backing.SyncFS(m.o.Root); err != nil {
		return v.wrap(err)
	}
	return nil
}

// checkSaved returns ErrNotSaved where the volume holds changes that are only here.
func (m *Manager) checkSaved(v *vol) error {
	if v.isView() {
		return nil
	}
	const what = "wait for the upload (`fractal-lazy flush`), or remove it with --force"
	r := v.record()
	if n := r.count(kindDivergent); n > 0 {
		return fmt.Errorf("%w: %d local snapshots hold changes that were never published; copy what you need from %s, then remove it with --force",
			ErrNotSaved, n, v.snaps())
	}
	if r.pending() != nil {
		return fmt.Errorf("%w: a snapshot was not uploaded yet; %s", ErrNotSaved, what)
	}
	changed, err := m.differs(v)
	if err != nil && !errors.Is(err, backing.ErrNotSubvolume) {
		return err
	}
	if changed {
		return fmt.Errorf("%w: it may have changed since its last upload; %s", ErrNotSaved, what)
	}
	return nil
}
