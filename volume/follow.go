package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// Synchronization says what a Synchronize did, and how warm the volume is now.
type Synchronization struct {
	Volume     string  `json:"volume"`
	Generation uint64  `json:"generation"` // that the data here is of now
	Before     uint64  `json:"before"`     // that it was of; 0: there was none
	BytesTotal uint64  `json:"bytes_total"`
	BytesWarm  uint64  `json:"bytes_warm"` // of them that are on this machine
	Fetched    uint64  `json:"fetched"`    // bytes from the block store, sealed
	Taken      uint64  `json:"taken"`      // bytes of content that the older state here had
	Complete   bool    `json:"complete"`   // a mount needs no block of the store
	Seconds    float64 `json:"seconds"`
}

// followRecord is set while the data of a volume is brought without a mount: from the first Synchronize until the next mount.
// Whatever differs from Base then was fetched.
type followRecord struct {
	// Synced is when all that the budget allows was here of the newest generation at last; nil: not yet.
	Synced *time.Time `json:"synced,omitempty"`
}

// following is one Synchronize under way.
type following struct {
	cancel context.CancelCauseFunc
	tree   *lazy.Tree // nil: not yet
}

// Synchronize brings the newest published generation of a volume that is not in use here, as far as a budget goes, so that a mount on this machine
// starts warm. What the older state here has in common with it is not fetched. budget is all, metadata, or a number of bytes with a unit: so much content is
// then on this machine; metadata comes in any case. Empty: what the option prefetch says.
//
// It never takes the writer and never publishes. A Mount, or any other step of the volume, ends it at once and goes on from where it came. p, which may be
// nil, is told of the progress.
//
// Errors: ErrInUse, ErrFenced, ErrNotSaved (there are changes here that it would put aside), ErrRollback, ErrNoSnapshot, ErrNotReady, ErrOption,
// ErrBusy (a step of the volume ended it).
func (m *Manager) Synchronize(ctx context.Context, name, budget string, p func(Progress)) (Synchronization, error) {
	out := Synchronization{Volume: name}
	v, err := m.lookupOpen(name)
	if err != nil {
		return out, err
	}
	if v.isView() {
		return out, v.wrap(fmt.Errorf("%w: it is a view of a snapshot, and never changes", ErrOption))
	}
	prefetch, err := v.followBudget(budget)
	if err != nil {
		return out, v.wrap(err)
	}
	if m.pub == nil {
		return out, v.wrap(fmt.Errorf("%w: synchronizing needs a Hive and a block store", ErrNotReady))
	}
	if err := v.enter(ctx, stepFollow); err != nil {
		return out, err
	}
	defer m.poke()
	defer v.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.life, func() { cancel(fmt.Errorf("%w: the driver is stopping", ErrNotReady)) })()
	v.mutate(func() { v.follow = &following{cancel: cancel} })
	defer v.mutate(func() { v.follow = nil })
	begin := time.Now()
	err = m.synchronize(ctx, v, prefetch, &out, p)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	out.Seconds = time.Since(begin).Seconds()
	if err != nil {
		return out, v.wrap(fmt.Errorf("synchronize: %w", err))
	}
	m.logger(v, "synchronize").Info().Uint64("generation", out.Generation).Uint64("before", out.Before).Uint64("bytes", out.Fetched).
		Uint64("taken", out.Taken).Bool("complete", out.Complete).Dur("took", time.Since(begin)).Msg("volume synchronized")
	return out, nil
}

// synchronize is Synchronize with the step held.
//
// Order: 1. the record says that what is fetched from now on is no change (Follow); 2. replaceData, where there is a newer generation; 3. directories and
// content; 4. the record says how much is here. A crash after 1 leaves data that is Base, some of it fetched; one in 2 is mended as replaceData says, and the
// next Synchronize or Mount goes on from there.
func (m *Manager) synchronize(ctx context.Context, v *vol, prefetch lazy.Prefetch, out *Synchronization, p func(Progress)) error {
	if err := m.mayFollow(v); err != nil {
		return err
	}
	hasData := v.has(v.data())
	changed, err := m.differs(v)
	if err != nil {
		return err
	}
	a := m.ask(ctx, v, true)
	r := a.rec
	if r.Base != nil && hasData {
		out.Before, out.Generation = r.Base.Generation, r.Base.Generation
	}
	d := decideFollow(r, hasData, changed, a)
	if d.err != nil {
		return d.err
	}
	if r.Follow == nil || d.pull {
		err := v.update(func(r *record) { // 1
			if r.Follow == nil {
				r.Follow = &followRecord{}
			}
			r.Known = true
			r.see(a.latest.Generation, a.latest.Hash().String())
		})
		if err != nil {
			return err
		}
	}
	if d.pull { // 2
		if err := os.MkdirAll(v.snaps(), 0o700); err != nil {
			return err
		}
		if err := m.replaceData(ctx, v, a.latest, kindOld); err != nil {
			return m.storeError(err)
		}
	}
	out.Generation = a.latest.Generation
	return m.warm(ctx, v, prefetch, out, p)
}

// mayFollow tells whether the volume is at rest. The step is held.
func (m *Manager) mayFollow(v *vol) error {
	v.mu.Lock()
	used := v.live != nil || v.prep != nil
	v.mu.Unlock()
	if used {
		return fmt.Errorf("%w: it is mounted here, where nothing newer can be than what it holds", ErrInUse)
	}
	if err := m.endingError(); err != nil {
		return err
	}
	if err := m.poolError(); err != nil {
		return err
	}
	return m.finishLeft(v)
}

type followDecision struct {
	pull bool // the data here makes room for the Hive's newest; else that is here
	err  error
}

// decideFollow says whether the data of a volume that is not mounted may be brought up to the Hive's newest generation. changed: as for decideData.
// It is a pure function.
func decideFollow(r *record, hasData, changed bool, a answer) followDecision {
	refuse := func(err error, text string, args ...any) followDecision {
		return followDecision{err: fmt.Errorf("%w: %s", err, fmt.Sprintf(text, args...))}
	}
	switch {
	case r.Fence != nil:
		return refuse(ErrFenced, "mount it once, which brings the state of the other machine; then it can be synchronized")
	case r.Writer:
		return refuse(ErrInUse, "this machine is its writer until all is published and the volume given back")
	case changed, r.pending() != nil, r.From != nil, r.Source != "", hasData && r.Base == nil:
		return refuse(ErrNotSaved, "what is here may have changes that were never published; mount it, or `fractal-lazy flush` it, first")
	case a.err != nil:
		return followDecision{err: fmt.Errorf("%w: the Hive cannot be asked for the newest generation: %w", ErrNotReady, a.err)}
	}
	if err := checkSeen(r, a.latest); err != nil {
		return followDecision{err: err}
	}
	switch {
	case a.latest == nil:
		return refuse(ErrNoSnapshot, "nothing of the volume is published yet")
	case hasData && r.Base.Generation == a.latest.Generation && r.Base.Hash == a.latest.Hash().String():
		return followDecision{}
	}
	return followDecision{pull: true}
}

// warm does steps 3 and 4 of synchronize: it brings what the budget allows into data, without a mount.
func (m *Manager) warm(ctx context.Context, v *vol, prefetch lazy.Prefetch, out *Synchronization, p func(Progress)) error {
	tree, err := backing.OpenTree(v.data())
	if err != nil {
		return err
	}
	defer tree.Close()
	log := m.log.With().Str("volume", v.name).Logger()
	t, err := lazy.Open(ctx, tree, nodeKeeper{m.storeOf(v), m.pub}, v.key.Sealer(), lazy.Options{
		Prefetch: prefetch, Volume: v.name, Log: log, Observe: m.observeFetches(v),
		Nodes: m.nodeCache(), Sources: m.sources(v), Line: m.down.User(nil),
	})
	if err != nil {
		return err
	}
	v.mutate(func() {
		if v.follow != nil {
			v.follow.tree = t
		}
	})
	stop := reportTree(t, p)
	complete, err := t.Bring(ctx)
	stop()
	err = errors.Join(err, t.Close())
	st := t.Status()
	now := m.now().UTC()
	uerr := v.update(func(r *record) { // 4
		if complete {
			r.Totals.Complete, r.Totals.BytesRemote, r.Totals.FilesRemote = true, 0, 0
		} else {
			r.Totals.BytesRemote, r.Totals.FilesRemote = st.BytesRemote, st.FilesRemote
		}
		if err == nil && r.Follow != nil {
			r.Follow = &followRecord{Synced: &now}
		}
		out.BytesTotal, out.BytesWarm = r.Totals.BytesTotal, less(r.Totals.BytesTotal, r.Totals.BytesRemote)
	})
	out.Fetched, out.Taken, out.Complete = st.BytesFetched, st.BytesTaken, complete
	return errors.Join(err, uerr)
}

func less(n, by uint64) uint64 { return n - min(n, by) }

// reportTree tells p how far t is, again and again, until stop is called.
func reportTree(t *lazy.Tree, p func(Progress)) (stop func()) {
	if p == nil {
		return func() {}
	}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			st := t.Status()
			phase := "fetching"
			if !st.StalledSince.IsZero() {
				phase = "stalled: " + st.StalledWhy
			}
			p(Progress{Phase: phase, Done: less(st.BytesTotal, st.BytesRemote), Total: st.BytesTotal, Rate: st.Rate, ETASeconds: st.ETA.Seconds()})
		}
	}()
	return func() { close(end); <-done }
}

// nodeKeeper is a store whose tree nodes stay in the cache of this machine: the next Synchronize, and a mount, read only the changed ones from the store.
type nodeKeeper struct {
	store.Store
	pub *replica.Publisher
}

// Get is Store.Get.
func (s nodeKeeper) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := s.Store.Get(ctx, c)
	if err == nil {
		s.pub.Keep(c, b)
	}
	return b, err
}

// followBudget reads the argument of Synchronize. ErrOption.
func (v *vol) followBudget(arg string) (lazy.Prefetch, error) {
	if arg == "" {
		if v.set.prefetch == lazy.PrefetchNone {
			return lazy.PrefetchMetadata, nil
		}
		return v.set.prefetch, nil
	}
	if err := checkFollow(arg); err != nil {
		return "", fmt.Errorf("%w: %w", ErrOption, err)
	}
	var s settings
	err := setPrefetch(&s, arg)
	return s.prefetch, err
}

// checkFollow is of the action synchronize.
func checkFollow(arg string) error {
	var s settings
	if arg != "" && (setPrefetch(&s, arg) != nil || s.prefetch == lazy.PrefetchNone) {
		return fmt.Errorf("%q is no budget: all, metadata, or a number of bytes with a unit, such as 10GiB; hosts are not named, as every generation comes from the block store", clip(arg))
	}
	return nil
}

// jobSynchronize is a Synchronize where the volume is not in use here: while it is there is nothing to follow.
func (m *Manager) jobSynchronize(ctx context.Context, name, budget string) error {
	_, err := m.Synchronize(ctx, name, budget, nil)
	if isAny(err, ErrInUse, ErrBusy) {
		return nil
	}
	return err
}

// unfollow notes that from now on an application may change data. The step is held.
func (v *vol) unfollow() error {
	if v.record().Follow == nil {
		return nil
	}
	return v.intend(func(r *record) { r.Follow = nil })
}
