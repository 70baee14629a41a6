package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/lazy"
	"fractal-lazy/mutant"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// RemoveSnapshot removes one snapshot, here and in the network. A time means the one that was made in that second. ErrInUse where it is needed, see Purge; ErrNotSaved for changes that were
// never published, unless force is set.
func (m *Manager) RemoveSnapshot(ctx context.Context, name, text string, force bool) (SnapshotInfo, error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if v.isView() {
		return SnapshotInfo{}, v.wrap(fmt.Errorf("%w: it is a view of a snapshot", ErrOption))
	}
	i, err := m.resolveExactly(ctx, v, text)
	if err != nil {
		return i, v.wrap(fmt.Errorf("remove snapshot: %w", err))
	}
	if i.Remote {
		err = m.removePublished(ctx, v, i)
	}
	if err == nil && i.Local != "" {
		err = m.removeLocal(ctx, v, i.Local, force)
	}
	if err != nil {
		return i, v.wrap(fmt.Errorf("remove snapshot: %w", err))
	}
	return i, nil
}

func (m *Manager) removePublished(ctx context.Context, v *vol, i SnapshotInfo) error {
	remote, err := m.purgeable(ctx, v, PurgeOptions{Remote: true})
	if err != nil {
		return err
	}
	d := PurgeDecision{Snapshot: i, Where: WhereNetwork}
	if err := m.purgeOne(ctx, v, &d, &remote); err != nil {
		return err
	}
	if !d.Remove && i.Local == "" {
		return fmt.Errorf("%w: %s", ErrNoSnapshot, d.Reason)
	}
	return nil
}

func (m *Manager) removeLocal(ctx context.Context, v *vol, id string, force bool) error {
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepPurge); err != nil {
		return err
	}
	defer v.leave()
	r := v.record()
	s := r.snapshot(id)
	switch {
	case s == nil:
		return fmt.Errorf("%w: %s is gone", ErrNoSnapshot, id)
	case s.Kind == kindDivergent && !force:
		return fmt.Errorf("%w: it holds changes that were never published; copy what you need from %s, then remove it with --force", ErrNotSaved, v.snap(id))
	case s.Kind == kindDivergent:
		return m.dropLocal(v, id)
	}
	if why := neededHere(r, m.pub != nil)[id]; why != "" {
		return fmt.Errorf("%w: %s", ErrInUse, why)
	}
	return m.dropLocal(v, id)
}

// dropLocal deletes a local snapshot; when it returns, its space comes back. The step is held.
//
// Order: 1. the record; 2. the subvolume. A crash between them leaves a subvolume that no record names: the next Open throws it away.
// On a full disk, where there is no room for the record, the subvolume goes first, which makes room. A crash then leaves a record that
// names a snapshot that is not there; Open makes them agree.
func (m *Manager) dropLocal(v *vol, id string) error {
	drop := func(r *record) {
		r.drop(id)
		if r.Fence != nil && r.Fence.Snapshot == id {
			f := *r.Fence
			f.Snapshot = ""
			r.Fence = &f
		}
	}
	err := v.intend(drop)
	full := errors.Is(err, unix.ENOSPC)
	if err != nil && !full {
		return err
	}
	if v.has(v.snap(id)) {
		if derr := backing.DeleteSubvolume(v.snap(id)); derr != nil {
			return errors.Join(derr, err)
		}
		m.logger(v, "purge").Info().Str("snapshot", id).Msg("local snapshot removed")
	}
	if !full {
		return nil
	}
	if err := backing.SyncFS(v.dir); err != nil {
		return err
	}
	if err := v.update(drop); err != nil { // it is gone: the next change of the record, or the next Open, takes that along
		m.logger(v, "purge").Warn().Err(err).Str("snapshot", id).Msg("a local snapshot is removed, and the record does not say so yet")
	}
	return nil
}

// neededManifests tells, by hash, why published snapshots have to stay. What is below them and in other snapshots, too, needs no care: each
// root is pinned by itself.
func (m *Manager) neededManifests(v *vol, all []*hive.Manifest) (map[string]string, error) {
	roots, err := m.rootsInUse(v)
	if err != nil {
		return nil, err
	}
	why := map[string]string{}
	r := v.record()
	for n, mf := range all {
		hash := mf.Hash().String()
		root, _ := mf.Root() // somebody else's format: nothing here is made of it
		switch {
		case mutant.Is(mutant.PurgeNewest):
		case n == len(all)-1:
			why[hash] = "it is the newest"
		case r.Base != nil && hash == r.Base.Hash:
			why[hash] = "the data here was last published as it"
		case roots[root] != "":
			why[hash] = roots[root]
		}
	}
	return why, nil
}

// rootsInUse tells why something on this machine needs roots of v's snapshots: what was fetched in part takes the rest from there, be it the
// volume, a local snapshot, a view, or a clone; and what was restored and is not published yet is published by reference to it.
func (m *Manager) rootsInUse(v *vol) (map[string]string, error) {
	why := map[string]string{}
	remote := func(path, what string) error {
		if !exists(path) {
			return nil
		}
		c, err := lazy.Remote(path)
		if err == nil && c.Defined() {
			why[c.String()] = what
		}
		return err
	}
	var errs []error
	for _, u := range m.allAndMaking() {
		r := u.record()
		if u.pub != v.pub && r.Source != v.pub.String() {
			continue
		}
		for _, path := range []string{u.next(), u.data()} { // in this order: the one is renamed to the other
			errs = append(errs, remote(path, "volume "+u.name+" still takes content from it"))
		}
		if r.From != nil && r.From.Root != "" {
			why[r.From.Root] = "volume " + u.name + " was restored from it, and that is not published yet"
		}
		for _, s := range r.Snapshots {
			errs = append(errs, remote(u.snap(s.ID), "a local snapshot of volume "+u.name+" still takes content from it"))
			if s.From != nil && s.From.Root != "" {
				why[s.From.Root] = "volume " + u.name + " was restored from it, and that is not published yet"
			}
		}
	}
	return why, errors.Join(errs...)
}

// dropRemote removes a published snapshot: what publishing did last is undone first. removed is false where nothing went, and note says what else there is to
// know. The step is held.
//
// Order: 1. the record says that the root is to be unpinned; 2. the manifest goes, where the Hive can; 3. the root is unpinned, unless
// another manifest names it too; 4. the record. After a crash unpinLeft goes on: a pin whose manifest is gone would hold blocks for ever.
func (m *Manager) dropRemote(ctx context.Context, v *vol, i SnapshotInfo, all *[]*hive.Manifest) (removed bool, note string, err error) {
	h, err := hive.ParseHash(i.Hash)
	if err != nil {
		return false, "", err
	}
	if i.Root == "" {
		return false, "", fmt.Errorf("generation %d is not of this format", i.Generation)
	}
	if err := v.intendUnpin(here(i.Root)); err != nil { // 1
		return false, "", err
	}
	left := slices.DeleteFunc(slices.Clone(*all), func(mf *hive.Manifest) bool { return mf.Hash() == h })
	removed = true
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	err = m.d.Hive.Forget(ask, v.pub, h) // 2
	cancel()
	switch {
	case errors.Is(err, hive.ErrUnsupported):
		if removed, err = m.holdsAlone(ctx, i.Root, left); err != nil {
			return false, "", err
		}
		note = "this Hive cannot remove manifests: it stays listed, without its blocks"
		if !removed {
			note = "this Hive cannot remove manifests: it stays listed, and its blocks are given up already, or another generation has them too"
		}
	case err != nil:
		return false, "", err // it is unpinned by no one while its manifest is there
	}
	*all = left
	if removed {
		m.logger(v, "purge").Info().Uint64("generation", i.Generation).Str("cid", i.Root).Msg("published snapshot removed")
	}
	return removed, note, m.unpin(ctx, v, i.Root, left) // 3, 4
}

// holdsAlone reports whether root is pinned, and by none of the manifests left: then unpinning it gives something up.
func (m *Manager) holdsAlone(ctx context.Context, root string, left []*hive.Manifest) (bool, error) {
	if names(left, root) {
		return false, nil
	}
	c, err := cid.Decode(root)
	if err != nil {
		return false, err
	}
	limit, cancel := context.WithTimeout(ctx, unpinTimeout)
	defer cancel()
	return m.store.Pinned(limit, c)
}
