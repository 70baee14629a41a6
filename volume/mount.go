package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
)

func checkID(id string) error {
	if id == "" || len(id) > maxIDSize {
		return fmt.Errorf("mount id of %d bytes: use 1 to %d", len(id), maxIDSize)
	}
	return nil
}

// Mount makes the volume usable at path and counts id among its users; the
// same id again is no error. What takes long goes on in the background: then
// the error is ErrBusy, within answerIn, and the same call later succeeds. A
// mount that nobody came back for is taken down again after a while.
//
// Errors: ErrNotReady, ErrHeld, ErrRollback, ErrBusy, ErrUnknown, ErrNoSnapshot.
func (m *Manager) Mount(ctx context.Context, name, id string) (path string, err error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return "", err
	}
	if err := checkID(id); err != nil {
		return "", v.wrap(err)
	}
	wait, cancel := context.WithTimeout(ctx, m.answer)
	defer cancel()
	for {
		if err := m.endingError(); err != nil {
			return "", v.wrap(err)
		}
		v.mu.Lock()
		if v.live != nil && !v.closing {
			_, again := v.ids[id]
			if !again && len(v.ids) >= maxIDs {
				v.mu.Unlock()
				return "", v.wrap(fmt.Errorf("%w: by %d mounts already", ErrInUse, maxIDs))
			}
			v.ids[id] = struct{}{}
			path := v.live.path
			v.signalLocked()
			v.mu.Unlock()
			if again {
				return path, nil
			}
			if err := v.saveIDs(m.boot); err != nil {
				// Docker takes it for no mount, and would never end it.
				v.mutate(func() { v.dropIDLocked(id, m.now()) })
				return "", err
			}
			return path, nil
		}
		p := v.prep
		if p == nil && !v.gone {
			p = &prep{done: make(chan struct{})}
			v.prep = p
			v.signalLocked()
			v.mu.Unlock()
			if !m.background(func(ctx context.Context) { m.prepare(ctx, v, p) }) {
				v.mutate(func() { v.prep = nil })
				return "", v.wrap(fmt.Errorf("%w: the driver is stopping", ErrNotReady))
			}
		} else {
			v.mu.Unlock()
		}
		if p == nil {
			return "", v.wrap(ErrUnknown)
		}
		select {
		case <-p.done:
			if p.err != nil {
				return "", v.wrap(p.err)
			}
		case <-wait.Done():
			if ctx.Err() != nil {
				return "", v.wrap(ctx.Err())
			}
			return "", v.wrap(fmt.Errorf("%w: the mount goes on in the background", ErrBusy))
		}
	}
}

// prepare is one try at mounting.
func (m *Manager) prepare(ctx context.Context, v *vol, p *prep) {
	err := v.enter(ctx, stepMount)
	if err == nil {
		start := time.Now()
		err = m.mountNow(ctx, v)
		v.leave()
		if err == nil {
			m.logger(v, "mount").Info().Dur("took", time.Since(start)).Msg("volume mounted")
		}
	}
	p.err = err
	v.mutate(func() { v.prep = nil })
	close(p.done)
	m.poke()
}

// mountNow brings data and writer into the state that decideClaim and
// decideData ask for, and mounts. The step is held; no lock is.
func (m *Manager) mountNow(ctx context.Context, v *vol) error {
	v.mu.Lock()
	already := v.live != nil && !v.closing
	half := v.live != nil && v.closing
	v.mu.Unlock()
	if already {
		return nil
	}
	if half {
		return fmt.Errorf("%w: a process still uses the mount before this one", ErrBusy)
	}
	if err := m.endingError(); err != nil {
		return err
	}
	if err := m.poolError(); err != nil {
		return err
	}
	if err := checkFUSE(); err != nil {
		return err
	}
	if err := m.checkShared(); err != nil {
		return err
	}
	if err := os.MkdirAll(v.snaps(), 0o700); err != nil {
		return err
	}
	if err := m.finishLeft(v); err != nil {
		return err
	}
	var offline string
	var l *live
	var err error
	if v.isView() {
		err = m.fetchView(ctx, v)
	} else {
		offline, err = m.fetchData(ctx, v)
	}
	if err == nil {
		l, err = m.serve(ctx, v, nil)
	}
	if err != nil {
		if r := v.record(); r.Writer && !r.Release {
			// Who does not mount must not hold: the worker gives the writer back.
			err = errors.Join(err, v.update(func(r *record) { r.Release = true }))
		}
		return err
	}
	now := m.now()
	v.mutate(func() {
		v.live, v.closing, v.final, v.since = l, false, false, now
		v.offline, v.claimed = offline, offline == "" && !v.isView()
		v.lastSnap, v.lastAsk = now, now
		v.retry, v.problem, v.snapWhy = backoff{}, "", ""
	})
	return nil
}

// fetchData makes this machine the writer and data the newest state; offline
// says why the Hive was not asked, where it was not.
func (m *Manager) fetchData(ctx context.Context, v *vol) (offline string, err error) {
	if offline, err = m.claimData(ctx, v); err == nil {
		err = v.unfollow() // not before: until data is what is mounted, what was fetched into it is no change
	}
	return offline, err
}

func (m *Manager) claimData(ctx context.Context, v *vol) (offline string, err error) {
	log := m.logger(v, "mount")
	a := m.ask(ctx, v, true)
	r := a.rec
	hasData := v.has(v.data())
	c := decideClaim(r, &v.set, m.id(), hasData, a)
	switch c.do {
	case claimRefuse:
		return "", c.err
	case claimOffline:
		log.Warn().Str("why", c.why).Msg("mounting without the Hive; nothing is published until it answers")
		if !hasData {
			if err := m.replaceData(ctx, v, nil, ""); err != nil {
				return "", err
			}
		}
		// A unpublished state of ours stays ours: it is published, or found to be overtaken, once the Hive answers.
		return c.why, v.update(func(r *record) { r.Writer, r.Release = true, false })
	}
	changed, err := m.differs(v)
	if err != nil {
		return "", err
	}
	d := decideData(r, m.id(), hasData, changed, a.latest)
	if d.do == dataRefuse {
		return "", d.err // before the writer is taken: who may not mount must not hold
	}
	log.Info().Str("claim", c.why).Str("data", d.why).Msg("preparing mount")
	if err := m.take(ctx, v, c.do == claimCreate); err != nil {
		if isAny(err, hive.ErrUnavailable, hive.ErrDenied, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		return "", err
	}
	err = v.update(func(r *record) {
		r.Known, r.Writer, r.Release = true, true, false
		if a.latest != nil {
			r.see(a.latest.Generation, a.latest.Hash().String())
		}
	})
	if err != nil {
		return "", err
	}
	if a.writer == nil || *a.writer != m.id() {
		// Its last holder may have published between the first look and the taking.
		if b := m.ask(ctx, v, true); b.err != nil {
			return "", fmt.Errorf("%w: %w", ErrNotReady, b.err)
		} else if d = decideData(b.rec, m.id(), hasData, changed, b.latest); d.do == dataRefuse {
			return "", d.err
		} else {
			a = b
		}
	}
	return "", m.applyData(ctx, v, d, a.latest)
}

func (m *Manager) applyData(ctx context.Context, v *vol, d dataDecision, latest *hive.Manifest) error {
	switch d.do {
	case dataEmpty:
		return m.replaceData(ctx, v, nil, "")
	case dataRestore:
		if err := m.replaceData(ctx, v, latest, d.kind); err != nil {
			return m.storeError(err)
		}
		if d.kind == kindDivergent {
			r := v.record()
			m.logger(v, "mount").Error().Str("snapshot", v.snap(r.Snapshots[len(r.Snapshots)-1].ID)).
				Msg("changes that were never published are set aside in this snapshot: " + d.why)
		}
		return nil
	}
	// The data stays; a fencing that nothing came of is over.
	return v.update(func(r *record) { r.Fence = nil })
}

// storeError makes a failure to fetch the first block one that says what is missing.
func (m *Manager) storeError(err error) error {
	if m.d.Store == nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return err
}

// fetchView makes data the snapshot that the option names; it stays that one for ever.
func (m *Manager) fetchView(ctx context.Context, v *vol) error {
	if v.has(v.data()) {
		return nil
	}
	if h := m.home(v); h != v { // a purge of it must not take away what is chosen here
		if err := h.enter(ctx, stepView); err != nil {
			return err
		}
		defer h.leave()
	}
	id := v.set.view.local
	if id != "" {
		// One that was published goes from here when the next one is: then it is shown from the network.
		if err := m.viewLocal(v, id); !errors.Is(err, ErrNoSnapshot) || m.d.Hive == nil {
			return err
		}
	}
	if m.d.Hive == nil {
		return fmt.Errorf("%w: %w", ErrNotReady, errNoHive)
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, err := m.d.Hive.All(ask, v.pub)
	if err != nil {
		return fmt.Errorf("%w: snapshots of the volume: %w", ErrNotReady, err)
	}
	mf := v.set.view.pick(all)
	if id != "" {
		mf = nil
		if i := slices.IndexFunc(all, func(o *hive.Manifest) bool { return filepath.Base(o.Path) == id }); i >= 0 {
			mf = all[i]
		}
	}
	if mf == nil && id != "" {
		return fmt.Errorf("%w: %q is not on this machine any more, and was not published", ErrNoSnapshot, id)
	}
	if mf == nil {
		return fmt.Errorf("%w: no snapshot %q; `fractal-lazy snapshots` lists %d of them", ErrNoSnapshot, v.set.view.text, len(all))
	}
	if err := m.replaceData(ctx, v, mf, kindOld); err != nil {
		return m.storeError(err)
	}
	return nil
}

// differs reports whether data is, or may be, something else than Base. What
// fetching changed counts as well, as it cannot be told apart cheaply.
func (m *Manager) differs(v *vol) (bool, error) {
	if !v.has(v.data()) {
		return false, nil
	}
	r := v.record()
	if r.Follow != nil {
		return r.pending() != nil, nil
	}
	changed, _, err := backing.Changed(v.data(), r.SavedGen)
	return changed || r.pending() != nil, err
}
