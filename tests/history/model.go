package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/plugin/control"
	"fractal-lazy/seal"
	"fractal-lazy/volume"
)

// vol is what a volume has to be, by the model.
type vol struct {
	name, key string
	pub       seal.Pubkey
	copies    map[*machine]*instance
	remote    map[string]*published // that are at the Hive, by hash
	past      map[string]*published // that were removed on purpose
	mayGo     map[string]string     // hash or id of a local snapshot: which operation may have removed it
	mayCome   map[string]*guess     // root that an import may bring, and what it holds
	gone      []*guess              // states of local snapshots that were removed on purpose
	writer    string                // at the last look
	order     int                   // of its making
}

// published is a snapshot in the network.
type published struct {
	hash, root, id string
	generation     uint64
	created        time.Time
	machine        string
	state          *guess
}

// instance is a volume on one machine.
type instance struct {
	state   *guess // what its files are; nil: there is no data yet
	base    string // hash of the manifest that they come from, or were last published as; empty: none
	unsure  bool   // a crash may have changed the base
	mount   string // empty: not mounted
	tainted bool   // it is not all here, and another machine purged what the rest was to come from
	whole   bool   // it was seen complete after it was last replaced
	// line counts the states that the data was replaced by: a state of one line has not grown out of one of another.
	line   int
	recent []*guess // all that the data was since the last look
	locals map[string]*local
	went   map[string]*local // that are not there any more
	polite bool              // it takes the volume from nobody
	source *vol              // it may still take content from it
}

// local is a snapshot on one machine.
type local struct {
	id, note string
	created  time.Time
	line     int // 0: nobody knows
	crashes  int // of its machine, when it was first seen
	state    *guess
	tainted  bool // it cannot be read back, or nobody knows as what
}

// newest is the published snapshot with the highest generation; nil: there is none.
func (v *vol) newest() (n *published) {
	for _, p := range v.remote {
		if n == nil || p.generation > n.generation {
			n = p
		}
	}
	return n
}

// list is what is published, ascending.
func (v *vol) list() (all []*published) {
	for _, p := range v.remote {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *published) int { return int(a.generation) - int(b.generation) })
	return all
}

// withID finds the published snapshot that was taken as the local one id, which may have been removed on purpose since.
func (v *vol) withID(id string) *published {
	for _, in := range []map[string]*published{v.remote, v.past} {
		for _, p := range in {
			if p.id == id {
				return p
			}
		}
	}
	return nil
}

// kept tells whether the state g is in some snapshot, or was in one that was removed on purpose.
func (v *vol) kept(g *guess) bool {
	for _, in := range []map[string]*published{v.remote, v.past} {
		for _, p := range in {
			if p.state.may(g) {
				return true
			}
		}
	}
	for _, c := range v.copies {
		for _, l := range c.locals {
			if l.state.may(g) {
				return true
			}
		}
	}
	return slices.ContainsFunc(v.gone, func(o *guess) bool { return o.may(g) })
}

// becomes notes what the data is from now on.
func (c *instance) becomes(g *guess) {
	c.state = g
	c.recent = append(c.recent, g)
}

// replaced is becomes for data that did not grow out of what was there. The state before has to be in a snapshot.
func (h *history) replaced(v *vol, c *instance, g *guess) error {
	old := c.state
	c.becomes(g)
	c.tainted, c.whole = false, false
	if old == nil || old == g {
		return nil
	}
	if err := h.look(); err != nil {
		return err
	}
	c.line++
	if old.may(g) { // then it may have been that already
		return nil
	}
	for _, t := range old.of {
		if !v.kept(is(t)) {
			return fmt.Errorf("%w: volume %s: its state before was not kept: it is in no snapshot", errWrong, v.name)
		}
	}
	return nil
}

// look holds everything that is there against the model, and takes in what is new. It may be called at any moment.
func (h *history) look() error {
	for _, v := range h.vols {
		if err := h.lookAt(v); err != nil {
			return fmt.Errorf("volume %s (%s): %w", v.name, v.pub, err)
		}
	}
	return nil
}

func (h *history) lookAt(v *vol) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	now := map[*machine][]volume.SnapshotInfo{}
	// What is here first: it may be published and go while we look.
	for m, c := range v.copies {
		if m.down {
			continue
		}
		err := m.call(func(ctx context.Context, cl *control.Client) (err error) {
			now[m], err = cl.Snapshots(ctx, v.name, true)
			return err
		})
		if err != nil {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
		if err := h.newLocals(v, m, c, now[m]); err != nil {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
	}
	all, err := h.near.manifests(ctx, v.pub)
	if err != nil {
		return err
	}
	if err := h.lookRemote(v, all); err != nil {
		return err
	}
	for m, list := range now {
		if err := v.goneLocals(m, v.copies[m], list); err != nil {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
	}
	for m, c := range v.copies {
		if !m.down {
			c.recent = []*guess{c.state}
		}
	}
	v.writer, err = h.near.writer(ctx, v.pub)
	return err
}

// newLocals takes in local snapshots that were not there before. They hold what the data was at some moment since the last look.
func (h *history) newLocals(v *vol, m *machine, c *instance, list []volume.SnapshotInfo) error {
	for _, i := range list {
		if i.Local == "" {
			continue
		}
		l := c.locals[i.Local]
		if l != nil {
			l.note = i.Note
			continue
		}
		if old := c.went[i.Local]; old != nil {
			if old.crashes == m.crashes {
				return fmt.Errorf("%w: the local snapshot %s is back, which was gone", errWrong, i.Local)
			}
			c.locals[i.Local] = old // the crash came before its end was noted
			old.note = i.Note
			delete(c.went, i.Local)
			continue
		}
		l = &local{id: i.Local, note: i.Note, created: i.Created, state: either(c.recent...), tainted: c.tainted, crashes: m.crashes}
		switch n := v.newest(); {
		case len(l.state.of) > 0:
		case n != nil: // the machine died behind a mount that nobody has seen yet: of something that was published, or of nothing where its cable was pulled
			l.state, l.tainted = &guess{of: slices.Clone(n.state.of)}, true
		default: // of a new volume that nobody has seen yet
			t, err := h.emptyTree(filepath.Join(m.root, "volumes", v.pub.String(), "snapshots", i.Local))
			if err != nil {
				return err
			}
			c.becomes(is(t))
			l.state = c.state
		}
		if len(c.recent) == 1 {
			l.line = c.line
		}
		if c == h.editing { // it was fenced in the middle of an edit: what it holds lies between two states
			l.tainted = true
		}
		if p := v.withID(i.Local); p != nil {
			if err := l.state.meet(p.state); err != nil {
				return fmt.Errorf("%w: local snapshot %s and generation %d: %w", errWrong, i.Local, p.generation, err)
			}
			l.state = p.state
		}
		c.locals[i.Local] = l
		h.result("machine %s has %.8s (%s) of %s now, one of %d states", m.name, l.id, l.note, v.name, len(l.state.of))
	}
	return nil
}

// lookRemote holds the Hive's manifests, ascending, against the model.
func (h *history) lookRemote(v *vol, all []*hive.Manifest) error {
	seen := map[string]bool{}
	var last *hive.Manifest
	for _, mf := range all {
		hash := mf.Hash().String()
		seen[hash] = true
		if last != nil && last.Generation >= mf.Generation {
			return fmt.Errorf("%w: generation %d follows %d", errWrong, mf.Generation, last.Generation)
		}
		last = mf
		if v.remote[hash] != nil {
			continue
		}
		if old := v.past[hash]; old != nil {
			if v.mayCome[old.root] == nil {
				return fmt.Errorf("%w: generation %d is back, which was removed", errWrong, old.generation)
			}
			delete(v.past, hash)
			v.remote[hash] = old
			continue
		}
		if err := h.newManifest(v, mf); err != nil {
			return err
		}
	}
	for hash, p := range v.remote {
		if seen[hash] {
			continue
		}
		if v.mayGo[hash] == "" {
			return fmt.Errorf("%w: generation %d is gone", errWrong, p.generation)
		}
		if last == nil || last.Generation < p.generation {
			return fmt.Errorf("%w: generation %d is gone (%s), which was the newest", errWrong, p.generation, v.mayGo[hash])
		}
		delete(v.remote, hash)
		v.past[hash] = p
	}
	return nil
}

// newManifest takes in a snapshot that was published since the last look.
func (h *history) newManifest(v *vol, mf *hive.Manifest) error {
	root, err := mf.Root()
	if err != nil {
		return err
	}
	p := &published{hash: mf.Hash().String(), root: root, id: filepath.Base(mf.Path), generation: mf.Generation, machine: mf.Machine.String(),
		created: time.Unix(int64(mf.Creation), 0).UTC()}
	if g, n := v.mayCome[root], v.newest(); g != nil && n != nil && p.generation < n.generation {
		p.state = g
		v.remote[p.hash] = p
		return nil
	}
	m := h.machineWith(p.machine)
	c := v.copies[m]
	if m == nil || c == nil {
		return fmt.Errorf("%w: generation %d is of machine %s, which does not have the volume", errWrong, p.generation, p.machine)
	}
	// One line of history: nobody publishes on top of what its data does not come from.
	n, parent := v.newest(), ""
	if mf.Parent != nil {
		parent = mf.Parent.Hash.String()
	}
	if n == nil && parent != "" || n != nil && parent != n.hash {
		return fmt.Errorf("%w: generation %d does not follow the newest one", errWrong, p.generation)
	}
	if !c.unsure && c.base != parent {
		return fmt.Errorf("%w: machine %s published generation %d, and its data did not come from the one before", errWrong, m.name, p.generation)
	}
	if l := c.locals[p.id]; l != nil {
		p.state = l.state
	} else {
		p.state = either(c.recent...)
	}
	if len(p.state.of) == 0 {
		return fmt.Errorf("%w: machine %s published generation %d of no data", errWrong, m.name, p.generation)
	}
	c.base, c.unsure = p.hash, false
	v.remote[p.hash] = p
	return nil
}

// goneLocals finds local snapshots that went without a reason.
func (v *vol) goneLocals(m *machine, c *instance, list []volume.SnapshotInfo) error {
	for id, l := range c.locals {
		if slices.ContainsFunc(list, func(i volume.SnapshotInfo) bool { return i.Local == id }) {
			continue
		}
		if why := v.lossOf(m, c, l); why != "" {
			return fmt.Errorf("%w: the local snapshot %s (%s) is gone: %s", errWrong, id, l.note, why)
		}
		delete(c.locals, id)
		c.went[id], l.crashes = l, m.crashes
		if v.mayGo[id] != "" {
			v.gone = append(v.gone, l.state)
		}
	}
	return nil
}

// lossOf says why a local snapshot should still be there; empty: it need not.
func (v *vol) lossOf(m *machine, c *instance, l *local) string {
	switch {
	case v.mayGo[l.id] != "":
		return ""
	case l.note != "pending" && l.note != "divergent":
		return "" // what it holds is published
	case l.note == "pending" && v.withID(l.id) != nil:
		return ""
	case l.note == "pending" && l.crashes < m.crashes && c.state.may(l.state):
		return "" // the crash came before it was noted, and the data still is that: the next one holds it
	}
	for _, in := range []map[string]*published{v.remote, v.past} {
		for _, p := range in {
			if l.note == "pending" && p.state.may(l.state) {
				return "" // the same was published already
			}
		}
	}
	for _, o := range c.locals {
		if o != l && o.note == "divergent" && !o.created.Before(l.created) && (o.line == l.line || o.line == 0 || l.line == 0) {
			return "" // it grew out of this one
		}
	}
	return "what it holds was never published, and is in no other snapshot"
}

func (h *history) machineWith(id string) *machine {
	for _, m := range h.machines {
		if m.id == id {
			return m
		}
	}
	return nil
}
