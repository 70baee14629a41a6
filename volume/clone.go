package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	marks "fractal-lazy/mark"
	"fractal-lazy/seal"

	"golang.org/x/sys/unix"
)

// Clone makes a new volume, under the name as and with a key of its own, that holds what the volume holds now, or, where text is not empty,
// what that snapshot of it holds. It may be in use, half fetched, or never mounted here. What is here is a BTRFS snapshot: no time and
// no space; what is remote comes from the volume's blocks.
//
// A clone is published as the first of its own chain, all of it sealed under its own key: nobody learns from it of which volume it is a clone, nor
// that volume's secret (the Fractal format would have that in the manifest, for the Hive to read). Blocks that were sealed for the volume
// therefore cannot be part of its snapshots: a clone of what is not all here is published when all of it was fetched, and the volume cannot be
// removed before. Nothing of the volume's key is kept with the clone.
func (m *Manager) Clone(ctx context.Context, name, text, as string) (RestoreResult, error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return RestoreResult{}, err
	}
	if err := m.mayEnrol(v, as); err != nil {
		return RestoreResult{}, err
	}
	defer m.poke()
	n, i, err := m.cloneData(ctx, v, text, as)
	if n != nil {
		defer m.made(n)
	}
	if err == nil {
		err = m.enrolClone(n)
	}
	if err != nil {
		if n != nil && !n.has(n.recordFile()) { // else it is one of ours, and the next Open goes on
			err = errors.Join(err, m.toTrash(n.dir))
		}
		return RestoreResult{}, v.wrap(fmt.Errorf("clone: %w", err))
	}
	m.logger(n, "clone").Info().Str("of", v.name).Uint64("generation", i.Generation).Bool("complete", n.record().Source == "").Msg("volume cloned")
	res := RestoreResult{Volume: as, From: i, Remote: n.record().Totals.BytesRemote}
	res.Note = "it has a key of its own, and is published under that"
	if n.record().Source != "" {
		res.Note = fmt.Sprintf("it has a key of its own: part of it is still to be fetched from the blocks of %s, and it is published, sealed anew, when all is here: keep %s on this machine until then",
			v.name, v.name)
	}
	return res, nil
}

// mayEnrol tells whether a clone of v may have the name.
func (m *Manager) mayEnrol(v *vol, as string) error {
	if err := checkName(as); err != nil {
		return err
	}
	if v.isView() {
		return v.wrap(fmt.Errorf("%w: it is a view: clone the volume itself, and name the snapshot", ErrOption))
	}
	m.mu.Lock()
	taken := m.vols[as] != nil || m.making[as] != nil
	m.mu.Unlock()
	if taken {
		return fmt.Errorf("%w: %s; take another name, or remove it first", ErrExists, as)
	}
	return nil
}

// cloneData makes the data.new of a clone, and its record, which is not written yet. Where it returns a volume, that is in m.making, and its step is held: see made.
//
// Order: 1. data.new, with the mark that says whose blocks its other marks refer to; 2. both on the disk; 3. volume.json (enrolClone),
// with Swap; 4. data.new is renamed to data. A crash before 3 leaves a data.new without a record, which the next Open throws
// away; one after 3 is finished by finishSwap.
func (m *Manager) cloneData(ctx context.Context, v *vol, text, as string) (n *vol, i SnapshotInfo, err error) {
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepClone); err != nil {
		return nil, i, err
	}
	defer v.leave()
	if err := m.poolError(); err != nil {
		return nil, i, err
	}
	live := text == "" && v.hasData()
	if live {
		live, i = m.holdsNewest(ctx, v)
	} else if i, err = m.cloneSource(ctx, v, text); err != nil {
		return nil, i, err
	}
	if n, err = m.newClone(v, as); err != nil {
		return n, i, err
	}
	swap := &swapRecord{Totals: &totals{}}
	if live {
		*swap.Totals = v.record().Totals
		err = m.snapshotUnseen(v, n.next(), false)
	} else if made, merr := m.makeNext(ctx, n, v, i); merr != nil {
		err = merr
	} else {
		swap.Totals = made.Totals
	}
	if err != nil {
		return n, i, err
	}
	if err := markSource(n.next(), v.pub); err != nil { // 1
		return n, i, err
	}
	remote, err := lazy.Remote(n.next())
	if err != nil {
		return n, i, err
	}
	source, err := marks.GetSource(n.next())
	if err != nil {
		return n, i, err
	}
	n.mutate(func() {
		n.rec.Swap = swap
		n.rec.Source = seal.Pubkey(source.Pubkey).String()
		if !remote.Defined() {
			n.rec.Source, n.rec.Release = "", m.pub != nil // publish it now
		}
	})
	return n, i, backing.SyncFS(n.next()) // 2
}

// holdsNewest tells whether the data here is what the volume holds now, and describes that. Of a volume that is at rest another machine may have published a newer
// generation; then that is it.
func (m *Manager) holdsNewest(ctx context.Context, v *vol) (here bool, i SnapshotInfo) {
	i = SnapshotInfo{Created: m.now().UTC(), Where: WhereHere, Note: "the present state"}
	if changed, err := m.differs(v); v.isMounted() || v.record().Writer || changed || err != nil {
		return true, i // nobody else has what is here
	}
	a := m.ask(ctx, v, true)
	d := decideFollow(a.rec, true, false, a)
	switch {
	case a.err != nil:
		i.Note = "the state here; the Hive cannot be asked for a newer one"
	case d.pull:
		if b, err := baseOf(a.latest, 0); err == nil {
			return false, b.info()
		}
	}
	return true, i
}

// cloneSource is the snapshot that a clone is made of where there is no data here: that of text, or the newest.
func (m *Manager) cloneSource(ctx context.Context, v *vol, text string) (SnapshotInfo, error) {
	if text != "" {
		return m.resolve(ctx, v, text)
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, err := m.history(ask, v)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if len(all) == 0 {
		return SnapshotInfo{}, fmt.Errorf("%w: it holds nothing yet", ErrNoSnapshot)
	}
	return slices.MaxFunc(all, func(a, b SnapshotInfo) int { return cmp.Compare(a.Generation, b.Generation) }), nil
}

// newClone is a volume with a new key and the options of v; its folder is there. It is in m.making.
func (m *Manager) newClone(v *vol, as string) (*vol, error) {
	key, err := seal.GeneratePrivkey()
	if err != nil {
		return nil, err
	}
	opts := maps.Clone(v.record().Options)
	delete(opts, "takeover")
	// Its key is written by enrolClone. Whether it takes content from Source is not known yet.
	rec := &record{Name: as, Made: true, Created: m.now().UTC(), Options: opts, Source: cmp.Or(v.record().Source, v.pub.String())}
	set, err := parseSettings(opts, max(m.o.Interval, 0))
	if err != nil {
		return nil, err
	}
	n := newVol(filepath.Join(m.volumes(), key.Public().String()), rec, key, key.Public(), set)
	n.step = stepClone
	m.mu.Lock()
	taken := m.vols[as] != nil || m.making[as] != nil
	if !taken {
		m.making[as] = n
	}
	m.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("%w: %s was made meanwhile", ErrExists, as)
	}
	return n, os.MkdirAll(n.snaps(), 0o700)
}

// made ends the making of a clone: it is a volume, or given up.
func (m *Manager) made(n *vol) {
	m.mu.Lock()
	delete(m.making, n.name)
	m.mu.Unlock()
	n.leave()
}

// enrolClone does steps 3 and 4 of cloneData.
func (m *Manager) enrolClone(n *vol) error {
	m.loadMu.Lock()
	defer m.loadMu.Unlock()
	m.mu.Lock()
	taken := m.vols[n.name] != nil
	m.mu.Unlock()
	if taken {
		return fmt.Errorf("%w: %s was made meanwhile", ErrExists, n.name)
	}
	if err := m.keepKey(&n.rec, n.key); err != nil {
		return err
	}
	if err := m.enrol(n); err != nil {
		return err
	}
	return m.finishSwap(n)
}

// snapshotUnseen takes a snapshot of the data of v to path, which the record does not know. To BTRFS that is a change of data; of a volume at rest it must not become one that nobody has
// published. After a crash between the two it counts as one, which loses nothing. The step is held.
func (m *Manager) snapshotUnseen(v *vol, path string, readonly bool) error {
	take := func() error { return backing.Snapshot(v.data(), path, readonly) }
	v.mu.Lock()
	l := v.live
	v.mu.Unlock()
	if l != nil {
		return l.fs.Freeze(take)
	}
	changed, err := m.differs(v)
	if err == nil {
		err = take()
	}
	if changed || err != nil {
		return err
	}
	gen, err := backing.Generation(path)
	if err != nil {
		return err
	}
	return v.update(func(r *record) { r.SavedGen = max(r.SavedGen, gen) })
}

// markSource notes at the root of a clone's subvolume whose blocks its marks refer to. A clone of a clone has the mark already.
func markSource(path string, p seal.Pubkey) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open subvolume %s: %w", path, err)
	}
	defer unix.Close(fd)
	old, err := marks.GetSource(marks.FD(fd))
	if err != nil || old != nil {
		return err
	}
	const protecting = 0x30 // FS_IMMUTABLE_FL, FS_APPEND_FL: attributes cannot be set either
	flags, err := backing.GetFlags(fd)
	if err == nil && flags&protecting != 0 {
		if err = backing.SetFlags(fd, flags&^protecting); err == nil {
			defer func() { _ = backing.SetFlags(fd, flags) }()
		}
	}
	if err != nil {
		return err
	}
	return marks.Set(marks.FD(fd), &marks.Source{Pubkey: p})
}

// readsWith returns what opens the blocks that are still to be fetched for the data of v, and how much of them the background brings.
// A clone is fetched as a whole, since nothing of it can be published before.
func (m *Manager) readsWith(v *vol) (*seal.Sealer, lazy.Prefetch, error) {
	source, err := sourceOf(v, v.data())
	if err != nil || source == "" {
		return v.key.Sealer(), v.set.prefetch, err
	}
	of, err := m.sourceHere(source)
	if err != nil {
		return nil, "", err
	}
	if err := of.lockedError(); err != nil {
		return nil, "", fmt.Errorf("volume %s, which it is a clone of and still takes content from: %w", of.name, err)
	}
	return of.key.Sealer(), lazy.PrefetchAll, nil
}

// sourceOf returns the public key of the other volume that the subvolume path, of a clone v, still takes content from, as text; empty: of none.
func sourceOf(v *vol, path string) (string, error) {
	source, err := marks.GetSource(path)
	if err != nil || source == nil || seal.Pubkey(source.Pubkey) == v.pub {
		return "", err
	}
	remote, err := lazy.Remote(path)
	if err != nil || !remote.Defined() {
		return "", err
	}
	return seal.Pubkey(source.Pubkey).String(), nil
}

// sourceHere returns the volume with that public key.
func (m *Manager) sourceHere(source string) (*vol, error) {
	pub, err := seal.ParsePubkey(source)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	of := m.byKey(pub)
	m.mu.Unlock()
	if of == nil {
		return nil, fmt.Errorf("%w: it is of a clone that was not all here, and the volume with the public key %s, which it takes content from, is not on this machine: "+
			"create that from its key", ErrNotReady, source)
	}
	return of, nil
}

// takesFrom is sourceOf where that volume has to be on this machine.
func (m *Manager) takesFrom(v *vol, path string) (source string, err error) {
	if source, err = sourceOf(v, path); source != "" {
		_, err = m.sourceHere(source)
	}
	return source, err
}

// waits tells whether v is a clone that is not all here.
func (v *vol) waits() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.waitsLocked()
}

func (v *vol) waitsLocked() bool {
	return v.rec.Source != "" && (v.live == nil || !v.live.lazy.Complete())
}

// mayPublish tells whether snapshots of v can be published at some time.
func (m *Manager) mayPublish(v *vol) error {
	if !v.waits() {
		return nil
	}
	return fmt.Errorf("%w: it is a clone of which not everything is here; its snapshots are sealed under its own key, so that has to be fetched first: "+
		"mount it, then `fractal-lazy hydrate --wait %s`", ErrNotReady, v.name)
}

// mendSource finds out whether a clone became complete before a crash.
func (m *Manager) mendSource(v *vol, r *record) error {
	if r.Source == "" || !v.hasData() {
		return nil
	}
	remote, err := lazy.Remote(v.data())
	if err != nil || remote.Defined() {
		return err
	}
	return v.update(func(r *record) { r.Source, r.Release = "", r.Release || m.pub != nil })
}

// clonesOf names the clones that still take content from v, those that are being made included.
func (m *Manager) clonesOf(v *vol) (names []string) {
	for _, c := range m.allAndMaking() {
		if c.record().Source == v.pub.String() {
			names = append(names, c.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
