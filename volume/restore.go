package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/mutant"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// RestoreResult says what a restore did.
type RestoreResult struct {
	Volume string       `json:"volume"`
	From   SnapshotInfo `json:"from"`           // what the volume holds now
	Kept   SnapshotInfo `json:"kept"`           // what it held before; for a new volume empty
	Remote uint64       `json:"remote"`         // bytes that are fetched when they are read, or in the background
	Note   string       `json:"note,omitempty"` // what else there is to know
}

// Restore makes an unmounted volume hold what one of its snapshots holds; text names it, see findSnapshot. It takes the
// time of a BTRFS snapshot, or of fetching one block: what is remote comes when it is read. The state before is kept in a snapshot first, which
// is published like any other. The next generation is a new one, with the old content by reference.
//
// Errors: ErrNoSnapshot, ErrInUse, and those of Mount, as a restore takes the writer as a mount does.
func (m *Manager) Restore(ctx context.Context, name, text string) (RestoreResult, error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return RestoreResult{}, err
	}
	if v.isView() {
		return RestoreResult{}, v.wrap(fmt.Errorf("%w: it is a view of a snapshot, and never changes", ErrOption))
	}
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepRestore); err != nil {
		return RestoreResult{}, err
	}
	defer m.poke()
	defer v.leave()
	res, err := m.restoreNow(ctx, v, text)
	if err != nil {
		return RestoreResult{}, v.wrap(fmt.Errorf("restore: %w", err))
	}
	m.logger(v, "restore").Info().Uint64("generation", res.From.Generation).Str("snapshot", res.From.ID).Str("kept", res.Kept.ID).Msg("volume restored")
	return res, nil
}

// restoreNow is Restore with the step held.
//
// Order: 1. the writer is taken, and data is the newest state; 2. a snapshot is taken of it; 3. restoreData. A crash after 1 or 2
// leaves the volume as it was, with a snapshot more, which the next worker publishes as it gives the volume back.
func (m *Manager) restoreNow(ctx context.Context, v *vol, text string) (res RestoreResult, err error) {
	if err := m.mayReplace(v); err != nil {
		return res, err
	}
	if _, err := m.resolve(ctx, v, text); err != nil {
		return res, err // before anything is touched
	}
	defer func() {
		if r := v.record(); err != nil && r.Writer && !r.Release {
			// Who does not go on must not hold: the worker gives the writer back.
			err = errors.Join(err, v.update(func(r *record) { r.Release = true }))
		}
	}()
	if _, err := m.fetchData(ctx, v); err != nil { // 1
		return res, err
	}
	kept, err := m.takeSnapshot(ctx, v, kindPending) // 2
	if err != nil {
		return res, fmt.Errorf("keep the present state: %w", err)
	}
	// Again: taking the newest state may have done away with a local snapshot.
	if res.From, err = m.resolve(ctx, v, text); err != nil {
		return res, err
	}
	res.Volume, res.Kept = v.name, v.snapshotInfo(kept)
	if err := m.restoreData(ctx, v, res.From); err != nil { // 3
		if v.record().Swap != nil {
			return res, fmt.Errorf("it is begun, and the next mount, or start of the driver, ends it; the state before is kept in a snapshot: %w", err)
		}
		return res, fmt.Errorf("the volume is as it was: %w", err)
	}
	if mutant.Is(mutant.RestoreForgets) {
		_ = m.dropLocal(v, kept)
	}
	res.Remote = v.record().Totals.BytesRemote
	return res, nil
}

// mayReplace tells whether the data of a volume may be put aside. The step is held.
func (m *Manager) mayReplace(v *vol) error {
	v.mu.Lock()
	used := v.live != nil || v.prep != nil
	v.mu.Unlock()
	switch {
	case used:
		return fmt.Errorf("%w: stop what uses it and unmount it first, or restore into a new volume", ErrInUse)
	case v.record().Fence != nil:
		return fmt.Errorf("%w: mount it once, which brings the state of the other machine, then restore", ErrFenced)
	}
	if err := m.endingError(); err != nil {
		return err
	}
	if err := m.poolError(); err != nil {
		return err
	}
	return m.finishLeft(v)
}

// restoreData makes data what the snapshot i holds. The present data is in a snapshot. The step is held.
//
// Order: 1. data.new is made, and on the disk; 2. the record says so (Swap with From); 3. data goes to the trash; 4. data.new is
// renamed to data; 5. the record describes the new data, and that it is to be published. A crash before 2 leaves a data.new that
// the next Open throws away; one after 2 is finished by finishSwap at the next Open.
func (m *Manager) restoreData(ctx context.Context, v *vol, i SnapshotInfo) error {
	m.stopWork(v) // it must not record a state that goes away
	swap, err := m.makeNext(ctx, v, v, i)
	if err != nil {
		return err
	}
	source, err := m.takesFrom(v, v.next())
	if err != nil {
		return errors.Join(err, m.toTrash(v.next()))
	}
	// Until 5 the present data, which may take content from another volume as well, can still be what is mounted.
	if err := v.intend(func(r *record) { r.Swap, r.Source = swap, cmp.Or(source, r.Source) }); err != nil { // 2
		return err
	}
	return m.finishSwap(v)
}

// makeNext makes the data.new of v what the snapshot i of the volume from holds: by a BTRFS snapshot where that is here, else as a tree
// of which all is remote. When it returns, data.new is on the disk.
func (m *Manager) makeNext(ctx context.Context, v, from *vol, i SnapshotInfo) (*swapRecord, error) {
	if v.has(v.next()) {
		if err := m.toTrash(v.next()); err != nil {
			return nil, err
		}
	}
	swap := &swapRecord{From: &originRecord{Root: i.Root, Local: i.Local}, Totals: &totals{}}
	if i.Local != "" && from.has(from.snap(i.Local)) {
		if err := from.snapshotOf(i.Local, v.next()); err != nil {
			return nil, err
		}
		remote, err := lazy.Remote(v.next())
		swap.Totals.Complete = !remote.Defined()
		return swap, err
	}
	swap.From.Local = ""
	root, err := cid.Decode(i.Root)
	if err != nil {
		return nil, fmt.Errorf("root of generation %d: %w", i.Generation, err)
	}
	if err := backing.CreateSubvolume(v.next()); err != nil {
		return nil, fmt.Errorf("make the volume's subvolume: %w", err)
	}
	limit, cancel := context.WithTimeout(ctx, rootTimeout)
	defer cancel()
	r, err := lazy.Create(limit, v.next(), m.store, from.key.Sealer(), root)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("the block store does not have it any more: it was purged, or not pinned there: %w", err)
	}
	if err != nil {
		return nil, m.storeError(fmt.Errorf("begin from generation %d: %w", i.Generation, err))
	}
	swap.Totals = &totals{BytesTotal: r.Dir.Bytes, BytesRemote: r.Dir.Bytes, FilesTotal: r.Dir.Files, FilesRemote: r.Dir.Files}
	return swap, backing.SyncFS(v.next())
}

// snapshotOf takes a snapshot of the local snapshot id to path. To BTRFS that is a change of it; the record follows, or it would be no source of content any more
// (lazy.Source). The step is held.
func (v *vol) snapshotOf(id, path string) error {
	before, err := backing.Generation(v.snap(id))
	if err == nil {
		err = backing.Snapshot(v.snap(id), path, false)
	}
	if err != nil {
		return err
	}
	after, err := backing.Generation(v.snap(id))
	if s := v.record().snapshot(id); err != nil || s == nil || s.Gen != before || s.Kind != kindBase && s.Kind != kindOld {
		return err // of the other kinds it says what of data they hold
	}
	return v.update(func(r *record) {
		if s := r.snapshot(id); s != nil {
			s.Gen = after
		}
	})
}

// restored does step 5 of restoreData. source is that of the new data (sourceOf).
func (m *Manager) restored(v *vol, source string) error {
	err := v.update(func(r *record) {
		r.From, r.Totals, r.Swap, r.Source = r.Swap.From, *r.Swap.Totals, nil, source
		r.SavedGen = 0 // it is to be published, whatever it equals
		r.Release = r.Writer
	})
	v.mutate(func() { v.final, v.retry = false, backoff{} })
	return err
}
