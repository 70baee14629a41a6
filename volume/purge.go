package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/retention"
)

// PurgeOptions says what a purge may remove. Neither Local nor Remote: both.
type PurgeOptions struct {
	DryRun bool `json:"dry_run,omitempty"` // decide, and remove nothing
	Local  bool `json:"local,omitempty"`   // snapshots on this machine
	Remote bool `json:"remote,omitempty"`  // snapshots in the network
}

// PurgeDecision is what becomes of one snapshot in one place.
type PurgeDecision struct {
	Snapshot SnapshotInfo `json:"snapshot"`
	Where    string       `json:"where"`  // WhereHere or WhereNetwork: what is in both places has two decisions
	Remove   bool         `json:"remove"` // or it stays
	Reason   string       `json:"reason"`
	Error    string       `json:"error,omitempty"` // it was to be removed, and could not
}

// PurgeResult is what a purge did, or would do.
type PurgeResult struct {
	Volume    string          `json:"volume"`
	Pattern   string          `json:"pattern"`
	DryRun    bool            `json:"dry_run"`
	Decisions []PurgeDecision `json:"decisions"` // ascending by time, here before network
	Removed   int             `json:"removed"`   // where DryRun: that would be
	Failed    int             `json:"failed"`
}

// Purge removes the snapshots of a volume that the retention pattern does not keep, each by itself: of what fails, the rest goes on, and the
// error at the end says how many did. What a volume needs stays whatever the pattern says: the newest published snapshot, what waits for its
// upload, what is compared with at the next upload, what something on this machine still takes content from, and what was never published.
//
// Errors: ErrOption for the pattern; ErrHeld where another machine is the writer, which may need what is not needed here; ErrNotReady where the clock is not that
// of the Hive.
func (m *Manager) Purge(ctx context.Context, name, pattern string, opt PurgeOptions) (PurgeResult, error) {
	return m.purge(ctx, name, pattern, opt, 0)
}

// purge is Purge. late is that of clockDoubt.
func (m *Manager) purge(ctx context.Context, name, pattern string, opt PurgeOptions, late time.Duration) (PurgeResult, error) {
	p, err := retention.Parse(pattern)
	if err != nil {
		return PurgeResult{}, fmt.Errorf("%w: %w", ErrOption, err)
	}
	v, err := m.lookupOpen(name)
	if err != nil {
		return PurgeResult{}, err
	}
	if v.isView() {
		return PurgeResult{}, v.wrap(fmt.Errorf("%w: it is a view of a snapshot; purge the volume itself", ErrOption))
	}
	res := PurgeResult{Volume: name, Pattern: p.String(), DryRun: opt.DryRun}
	remote, err := m.purgeable(ctx, v, opt)
	if err != nil {
		return res, v.wrap(fmt.Errorf("purge: %w", err))
	}
	if err := m.checkClock(ctx, late); err != nil {
		return res, v.wrap(fmt.Errorf("purge: %w", err))
	}
	if res.Decisions, err = m.planPurge(v, p, remote, opt); err != nil {
		return res, v.wrap(fmt.Errorf("purge: %w", err))
	}
	if !opt.DryRun && len(remote) > 0 { // not of local snapshots alone
		if err := m.unpinLeft(ctx, v, remote); err != nil {
			return res, v.wrap(fmt.Errorf("purge: unpin what an earlier one removed: %w", err))
		}
	}
	for i := range res.Decisions {
		d := &res.Decisions[i]
		if !d.Remove {
			continue
		}
		if !opt.DryRun {
			if err := m.purgeOne(ctx, v, d, &remote); err != nil {
				if ctx.Err() != nil {
					return res, v.wrap(ctx.Err())
				}
				d.Error = err.Error()
				res.Failed++
				continue
			}
		}
		if d.Remove { // else there was nothing left to remove
			res.Removed++
		}
	}
	if res.Failed > 0 {
		at := slices.IndexFunc(res.Decisions, func(d PurgeDecision) bool { return d.Error != "" })
		return res, v.wrap(fmt.Errorf("purge: %d of %d snapshots could not be removed; the first: %s", res.Failed, res.Failed+res.Removed, res.Decisions[at].Error))
	}
	return res, nil
}

// purgeable returns the manifests that a purge may look at; none where it concerns local snapshots alone.
func (m *Manager) purgeable(ctx context.Context, v *vol, opt PurgeOptions) ([]*hive.Manifest, error) {
	if opt.Local && !opt.Remote || m.pub == nil && !opt.Remote {
		return nil, nil
	}
	if m.pub == nil {
		if m.d.Hive == nil {
			return nil, fmt.Errorf("%w: %w", ErrNotReady, errNoHive)
		}
		return nil, fmt.Errorf("%w: %w", ErrNotReady, errNoStore)
	}
	if err := m.mayPurge(ctx, v); err != nil {
		return nil, err
	}
	return m.manifests(ctx, v)
}

// mayPurge asks the Hive whether another machine is the writer, which may need what is not needed here.
func (m *Manager) mayPurge(ctx context.Context, v *vol) error {
	a := m.ask(ctx, v, false)
	switch {
	case a.err != nil:
		return fmt.Errorf("%w: %w", ErrNotReady, a.err)
	case a.writer != nil && *a.writer != m.id():
		return fmt.Errorf("%w: machine %s: purge there, or only what is here, with --local", ErrHeld, a.writer)
	}
	return nil
}

// planPurge decides for every snapshot, ascending by time.
func (m *Manager) planPurge(v *vol, p retention.Pattern, remote []*hive.Manifest, opt PurgeOptions) ([]PurgeDecision, error) {
	r := v.record()
	network, err := m.neededManifests(v, remote)
	if err != nil {
		return nil, err
	}
	local := neededHere(r, m.pub != nil)
	both := !opt.Local && !opt.Remote
	now := m.now()
	var out []PurgeDecision
	decide := func(where string, wanted bool, has func(i SnapshotInfo) bool, name func(i SnapshotInfo) string, needed map[string]string) {
		var all []SnapshotInfo
		var rs []retention.Snapshot
		for _, i := range mergeSnapshots(remote, r) {
			if wanted && has(i) {
				id := name(i)
				all = append(all, i)
				rs = append(rs, retention.Snapshot{ID: shownName(i), Created: i.Created, Protected: needed[id]})
			}
		}
		for n, d := range retention.Plan(rs, p, now) {
			out = append(out, PurgeDecision{Snapshot: all[n], Where: where, Remove: d.Remove, Reason: d.Reason})
		}
	}
	listed := map[string]bool{}
	for _, mf := range remote {
		listed[mf.Hash().String()] = true
	}
	decide(WhereHere, both || opt.Local, func(i SnapshotInfo) bool { return i.Local != "" }, func(i SnapshotInfo) string { return i.Local }, local)
	decide(WhereNetwork, both || opt.Remote, func(i SnapshotInfo) bool { return listed[i.Hash] }, func(i SnapshotInfo) string { return i.Hash }, network)
	slices.SortStableFunc(out, func(a, b PurgeDecision) int { return a.Snapshot.Created.Compare(b.Snapshot.Created) })
	return out, nil
}

// shownName is how reasons name a snapshot.
func shownName(i SnapshotInfo) string {
	if i.Remote {
		return fmt.Sprintf("generation %d", i.Generation)
	}
	return "snapshot " + i.ID
}

// neededHere tells, by id, why local snapshots have to stay. published: snapshots are published at all. It is a pure function.
func neededHere(r *record, published bool) map[string]string {
	why := map[string]string{}
	last := lastPending(r)
	from := func(o *originRecord) {
		if o != nil && o.Local != "" {
			why[o.Local] = "the volume was restored from it, and that is not published yet"
		}
	}
	from(r.From)
	for _, s := range r.Snapshots {
		from(s.From)
		switch {
		case r.Base != nil && s.ID == r.Base.Local:
			why[s.ID] = "it was published last: the next upload is compared with it"
		case s.Kind == kindPending && published:
			why[s.ID] = "it waits for its upload"
		case s.ID == last:
			why[s.ID] = "it is the newest"
		case s.Kind == kindDivergent:
			why[s.ID] = "it holds changes that were never published; it goes only by itself, with rm --force"
		}
	}
	return why
}

// purgeOne removes one snapshot in one place, if nothing needs it by now; d says what became of it. The step keeps restores, clones and views from beginning to.
func (m *Manager) purgeOne(ctx context.Context, v *vol, d *PurgeDecision, remote *[]*hive.Manifest) error {
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepPurge); err != nil {
		return err
	}
	defer v.leave()
	if d.Where == WhereHere {
		if why := neededHere(v.record(), m.pub != nil)[d.Snapshot.Local]; why != "" {
			return fmt.Errorf("%w: %s", ErrInUse, why)
		}
		return m.dropLocal(v, d.Snapshot.Local)
	}
	if err := m.mayPurge(ctx, v); err != nil { // a purge of many takes a while
		return err
	}
	// What was published since the list was made may have the same content.
	if b := v.record().Base; b != nil && !slices.ContainsFunc(*remote, func(mf *hive.Manifest) bool { return mf.Generation >= b.Generation }) {
		all, err := m.manifests(ctx, v)
		if err != nil {
			return err
		}
		*remote = all
	}
	needed, err := m.neededManifests(v, *remote)
	if err != nil {
		return err
	}
	if why := needed[d.Snapshot.Hash]; why != "" {
		return fmt.Errorf("%w: %s", ErrInUse, why)
	}
	removed, note, err := m.dropRemote(ctx, v, d.Snapshot, remote)
	d.Remove = removed || err != nil
	if note != "" {
		d.Reason = strings.TrimPrefix(d.Reason+"; "+note, "; ")
	}
	return err
}
