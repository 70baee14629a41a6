package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// snapshots is what the machine lists of a volume.
func (h *history) snapshots(m *machine, v *vol) (all []volume.SnapshotInfo, err error) {
	err = m.call(func(ctx context.Context, c *control.Client) (err error) {
		all, err = c.Snapshots(ctx, v.name, false)
		return err
	})
	return all, err
}

// stateOf is what a line of that list has to hold; nil: nobody knows.
func (v *vol) stateOf(c *instance, i volume.SnapshotInfo) *guess {
	if p := v.remote[i.Hash]; p != nil {
		return p.state
	}
	if p := v.past[i.Hash]; p != nil && i.Local == "" {
		return p.state
	}
	if l := c.locals[i.Local]; l != nil && !l.tainted {
		return l.state
	}
	return nil
}

// choice is a snapshot and a way to name it.
type choice struct {
	text  string
	line  volume.SnapshotInfo
	state *guess
}

// choose finds a snapshot that the machine lists, and one of its names.
func (h *history) chooseSnapshot(m *machine, v *vol, c *instance) (*choice, error) {
	if m.cable.pulled.Load() {
		return nil, nil
	}
	all, err := h.snapshots(m, v)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if err := h.look(); err != nil { // so that all of them are known
		return nil, err
	}
	n := h.r.IntN(len(all))
	ch := &choice{line: all[n]}
	names := []string{ch.line.ID, ch.line.Local, ch.line.Hash}
	if ch.line.Generation > 0 {
		names = append(names, fmt.Sprint(ch.line.Generation))
	}
	if n+1 == len(all) || all[n+1].Created.After(ch.line.Created) { // of several of one moment a time means the last
		names = append(names, ch.line.Created.UTC().Format("2006-01-02T15:04:05.999999999Z07:00"))
	}
	names = slices.DeleteFunc(names, func(s string) bool { return s == "" })
	ch.text = pick(h.r, names)
	ch.state = v.stateOf(c, ch.line)
	if ch.state == nil || c.locals[ch.line.Local] != nil && c.locals[ch.line.Local].tainted {
		return nil, nil
	}
	return ch, nil
}

// restore makes the volume hold an older state. What it held before is kept.
func (h *history) restore(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount != "" {
		return false, nil
	}
	ch, err := h.chooseSnapshot(m, v, c)
	if err != nil || ch == nil {
		return false, err
	}
	h.note("restore %s on %s to %s, generation %d, local %.8s", v.name, m.name, ch.text, ch.line.Generation, ch.line.Local)
	before := v.newest()
	wasUnsure := c.unsure
	c.unsure = true
	if before != nil && (wasUnsure || c.base != before.hash) { // the newest state comes first
		c.recent = append(c.recent, before.state)
	}
	old := c.state
	var res volume.RestoreResult
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		res, err = cl.Restore(ctx, v.name, ch.text)
		return err
	})
	c.recent = append(c.recent, ch.state)
	if crashed || err != nil {
		g := either(old, ch.state)
		if before != nil {
			g = either(old, before.state, ch.state)
		}
		c.becomes(g)
		if err == nil {
			return true, nil
		}
		// NoSnapshot: taking the newest state did away with the old local one that was meant.
		return true, h.refused(m, err, volume.ErrFenced, volume.ErrNoSnapshot, volume.ErrInUse, volume.ErrBusy,
			volume.ErrHeld,     // the other machine gave it back at the same moment
			volume.ErrNotReady) // a clone that is not all here
	}
	h.result("kept %.8s", res.Kept.Local)
	if res.From.Hash != ch.line.Hash && ch.line.Hash != "" || res.From.Hash == "" && res.From.Local != ch.line.Local {
		return true, fmt.Errorf("%w: %s restored generation %d, local %s", errWrong, ch.text, res.From.Generation, res.From.Local)
	}
	if m.down {
		if err := m.start(); err != nil {
			return true, err
		}
	}
	if err := h.replaced(v, c, ch.state); err != nil {
		return true, err
	}
	if l := c.locals[res.Kept.Local]; l != nil && l.line == 0 {
		l.line = c.line - 1
	}
	c.base, c.unsure = "", true // its own generations come next
	return true, nil
}

// clone makes a new volume of a state, or of a snapshot.
func (h *history) clone(m *machine, v *vol, c *instance) (bool, error) {
	if c.tainted || h.inUse() >= maxVolumes || m.cable.pulled.Load() {
		return false, nil
	}
	text, state := "", c.state
	if h.chance(0.5) {
		ch, err := h.chooseSnapshot(m, v, c)
		if err != nil || ch == nil {
			return false, err
		}
		text, state = ch.text, ch.state
	} else if n := v.newest(); n == nil && state == nil {
		return false, nil
	} else if n != nil && c.mount == "" && (c.unsure || c.base != n.hash) { // at rest it is what another machine published since, unless there are changes here
		state = either(state, n.state)
	}
	if text != "" && c.unsure && !state.sure() {
		return false, nil
	}
	rests := text == "" && c.mount == ""
	h.made++
	name := fmt.Sprintf("v%d", h.made)
	h.note("clone %s on %s, snapshot %q, as %s", v.name, m.name, text, name)
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) error {
		_, err := cl.Clone(ctx, v.name, text, name)
		return err
	})
	if err != nil {
		return true, h.refused(m, err, volume.ErrBusy)
	}
	if rests {
		if err := h.lookAt(v); err != nil {
			return true, err
		}
		if n := v.newest(); n != nil && (c.unsure || c.base != n.hash) {
			state = either(state, n.state)
		}
	}
	n := len(h.vols)
	if err := h.register(m, name, crashed, state); err != nil {
		return true, err
	}
	if len(h.vols) > n {
		h.vols[n].copies[m].source, h.vols[n].copies[m].polite = v, true
	}
	return true, nil
}

// remove takes the volume off the machine. Without force nothing may be lost by it.
func (h *history) remove(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount != "" {
		return false, nil
	}
	force := h.chance(0.3)
	h.note("remove %s from %s, force %v", v.name, m.name, force)
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) error { return cl.Remove(ctx, v.name, force) })
	if err != nil {
		return true, h.refused(m, err, volume.ErrNotSaved, volume.ErrInUse, volume.ErrBusy)
	}
	if crashed || m.down {
		there, err := h.exists(m, v.name)
		if err != nil {
			return true, err
		}
		if there && !crashed {
			return true, fmt.Errorf("%w: it was removed, and is back", errWrong)
		}
		if there {
			// Its data may be in the trash already. Nobody knows, so it is removed for good.
			err := m.call(func(ctx context.Context, cl *control.Client) error { return cl.Remove(ctx, v.name, true) })
			if err != nil {
				return true, h.refused(m, err, volume.ErrInUse, volume.ErrBusy)
			}
			force = true
		}
	}
	// What it published since the last look is taken in first.
	all, err := h.near.manifests(context.Background(), v.pub)
	if err == nil {
		err = h.lookRemote(v, all)
	}
	if err != nil {
		return true, err
	}
	delete(v.copies, m)
	if force || c.state == nil {
		return true, nil
	}
	if !v.kept(c.state) {
		return true, fmt.Errorf("%w: the volume was removed, and what it held is in no snapshot", errWrong)
	}
	for _, l := range c.locals {
		if (l.note == "divergent" || l.note == "pending") && !v.kept(l.state) {
			return true, fmt.Errorf("%w: the volume was removed, and its local snapshot %s (%s) was in no other place", errWrong, l.id, l.note)
		}
	}
	return true, nil
}

// taint notes that something may have gone that other machines still wanted: a purge knows only its own machine.
func (h *history) taint(m *machine, v *vol) error {
	for o, c := range v.copies {
		if o == m {
			continue
		}
		for _, l := range c.locals {
			l.tainted = true
		}
		n := v.newest()
		if c.state != nil && !c.whole && (n == nil || c.unsure || c.base != n.hash) {
			c.tainted = true
		}
	}
	return nil
}

// clonesElsewhere tells whether another machine has a clone that may still take content from v.
func (h *history) clonesElsewhere(m *machine, v *vol) bool {
	for _, o := range h.vols {
		for om, c := range o.copies {
			if om != m && c.source == v && !c.whole {
				return true
			}
		}
	}
	return false
}

// patterns of purges, and the age in seconds below which each keeps everything.
var patterns = map[string]int64{"1m": 60, "10m": 600, "1h": 3600, "1m:1h": 60, "10m:1h:1d": 600, "1h:2h:1d:1w": 3600, "4h:1d:2w:2y": 4 * 3600, "2m:20m": 120}

func (h *history) purge(m *machine, v *vol, c *instance) (bool, error) {
	where := pick(h.r, []string{"local", "remote", "both"})
	if where != "local" && (m.cable.pulled.Load() || h.clonesElsewhere(m, v)) {
		return false, nil
	}
	texts := make([]string, 0, len(patterns))
	for p := range patterns {
		texts = append(texts, p)
	}
	slices.Sort(texts)
	text := pick(h.r, texts)
	req := control.PurgeRequest{Pattern: text, Local: where == "local", Remote: where == "remote", DryRun: true}
	h.note("purge %s on %s, %s, %s", v.name, m.name, text, where)
	var plan, res volume.PurgeResult
	err := m.call(func(ctx context.Context, cl *control.Client) (err error) {
		plan, err = cl.Purge(ctx, v.name, req)
		return err
	})
	if err != nil {
		return true, h.refused(m, err, volume.ErrHeld, volume.ErrBusy)
	}
	if err := h.look(); err != nil {
		return true, err
	}
	crashed := false
	defer func() {
		if !crashed { // else the Hive may have its request still
			clear(v.mayGo)
		}
	}()
	remote, planned, was, gone := false, map[string]bool{}, v.newest(), maps.Clone(v.past)
	for _, d := range plan.Decisions {
		if !d.Remove {
			// What is published meanwhile sets free what was the newest.
			if d.Where == volume.WhereNetwork && was != nil && d.Snapshot.Hash == was.hash && h.time().Sub(d.Snapshot.Created).Seconds() >= float64(patterns[text])-10 {
				v.mayGo[d.Snapshot.Hash] = "purge"
			}
			continue
		}
		planned[d.Snapshot.Hash] = true
		if err := h.mayRemove(v, d, patterns[text]); err != nil {
			return true, err
		}
		if d.Where == volume.WhereNetwork {
			v.mayGo[d.Snapshot.Hash] = "purge"
			remote = true
		} else {
			v.mayGo[d.Snapshot.Local] = "purge"
		}
	}
	if remote {
		if err := h.taint(m, v); err != nil {
			return true, err
		}
	}
	req.DryRun = false
	crashed, err = h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		res, err = cl.Purge(ctx, v.name, req)
		return err
	})
	if lerr := h.look(); lerr != nil {
		return true, lerr
	}
	if err != nil {
		return true, h.refused(m, err, volume.ErrHeld, volume.ErrInUse, volume.ErrBusy)
	}
	if crashed || m.down {
		if !m.down {
			return true, nil
		}
		if err := m.start(); err != nil { // so that what went is seen while it may
			return true, err
		}
		return true, h.look()
	}
	h.result("%d removed", res.Removed)
	for hash, p := range v.past {
		if gone[hash] == nil && v.mayGo[hash] != "" && !planned[hash] && !slices.ContainsFunc(res.Decisions, func(d volume.PurgeDecision) bool { return d.Remove && d.Snapshot.Hash == hash }) {
			return true, fmt.Errorf("%w: generation %d was removed, which it did not say", errWrong, p.generation)
		}
	}
	for _, d := range res.Decisions {
		if d.Remove && d.Error == "" && d.Where == volume.WhereNetwork && v.remote[d.Snapshot.Hash] != nil {
			return true, fmt.Errorf("%w: generation %d was removed, and is still there", errWrong, d.Snapshot.Generation)
		}
		if d.Remove && d.Error == "" && d.Where == volume.WhereHere && c.locals[d.Snapshot.Local] != nil {
			return true, fmt.Errorf("%w: local snapshot %s was removed, and is still there", errWrong, d.Snapshot.Local)
		}
	}
	return true, nil
}

// mayRemove holds one decision of a purge against the rules that have nothing to do with frames.
func (h *history) mayRemove(v *vol, d volume.PurgeDecision, keep int64) error {
	if age := h.time().Sub(d.Snapshot.Created).Seconds(); age < float64(keep)-10 {
		return fmt.Errorf("%w: a purge is to remove a snapshot of %v s, and the pattern keeps all of %d s", errWrong, age, keep)
	}
	if n := v.newest(); d.Where == volume.WhereNetwork && (n == nil || n.hash == d.Snapshot.Hash) {
		return fmt.Errorf("%w: a purge is to remove the newest snapshot", errWrong)
	}
	return nil
}

// drop removes one snapshot by its name.
func (h *history) drop(m *machine, v *vol, c *instance) (bool, error) {
	if h.clonesElsewhere(m, v) {
		return false, nil
	}
	ch, err := h.chooseSnapshot(m, v, c)
	if err != nil || ch == nil {
		return false, err
	}
	if copied := slices.ContainsFunc(h.files, func(f *file) bool { return f.hash == ch.line.Hash }); !copied && h.chance(0.4) { // rather one that can be brought back
		return false, nil
	}
	force := h.chance(0.5)
	h.note("rm %s of %s on %s, generation %d, local %.8s, force %v", ch.text, v.name, m.name, ch.line.Generation, ch.line.Local, force)
	crashed := false
	defer func() {
		if !crashed { // else the Hive may have its request still
			clear(v.mayGo)
		}
	}()
	if ch.line.Hash != "" {
		v.mayGo[ch.line.Hash] = "rm"
		if err := h.taint(m, v); err != nil {
			return true, err
		}
	}
	if ch.line.Local != "" {
		v.mayGo[ch.line.Local] = "rm"
	}
	crashed, err = h.do(m, func(ctx context.Context, cl *control.Client) error {
		_, err := cl.RemoveSnapshot(ctx, v.name, ch.text, force)
		return err
	})
	if m.down {
		if err := m.start(); err != nil { // so that what went is seen while it may
			return true, err
		}
	}
	if lerr := h.look(); lerr != nil {
		return true, lerr
	}
	if err != nil {
		return true, h.refused(m, err, volume.ErrHeld, volume.ErrInUse, volume.ErrBusy, volume.ErrNotSaved, volume.ErrNoSnapshot)
	}
	if l := c.locals[ch.line.Local]; !crashed && (v.remote[ch.line.Hash] != nil || l != nil) {
		return true, fmt.Errorf("%w: it was removed, and is still there", errWrong)
	}
	return true, nil
}

// synchronize keeps a machine warm that does not use the volume.
func (h *history) synchronize(m *machine, v *vol, c *instance) (bool, error) {
	if c.mount != "" || m.cable.pulled.Load() {
		return false, nil
	}
	budget := pick(h.r, []string{"", "all", "metadata", "100KiB"})
	h.note("synchronize %s on %s, %q", v.name, m.name, budget)
	before := v.newest()
	wasUnsure := c.unsure
	c.unsure = true
	if before != nil {
		c.recent = append(c.recent, before.state)
	}
	var res volume.Synchronization
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		res, err = cl.Synchronize(ctx, v.name, control.SynchronizeRequest{Budget: budget}, nil)
		return err
	})
	if m.down {
		if err := m.start(); err != nil {
			return true, err
		}
	}
	if crashed || err != nil {
		if before != nil {
			g := either(c.state, before.state)
			if lerr := h.look(); lerr != nil {
				return true, lerr
			}
			c.becomes(either(g, v.newest().state))
		}
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, volume.ErrBusy) { // refused before anything was done
			c.unsure = wasUnsure
		}
		return true, h.refused(m, err, volume.ErrInUse, volume.ErrNotSaved, volume.ErrFenced, volume.ErrNoSnapshot, volume.ErrBusy)
	}
	if err := h.look(); err != nil {
		return true, err
	}
	n := v.newest()
	g := n.state
	switch {
	case n != before && before != nil:
		g = either(before.state, n.state)
	case !wasUnsure && c.base == n.hash:
		g = c.state
	case wasUnsure && c.state != nil && c.state.may(g):
		g = n.state
	}
	if n == before {
		c.base, c.unsure = n.hash, false
	}
	if g != c.state {
		if err := h.replaced(v, c, g); err != nil {
			return true, err
		}
	}
	c.whole = res.Complete
	return true, nil
}

// replicate brings what is published to the second place.
func (h *history) replicate(m *machine, v *vol, c *instance) (bool, error) {
	if m.cable.pulled.Load() || v.newest() == nil {
		return false, nil
	}
	p := v.newest()
	text := fmt.Sprint(p.generation)
	if h.chance(0.3) {
		p = pick(h.r, v.list())
		text = fmt.Sprint(p.generation)
	}
	h.note("replicate %s of %s from %s", text, v.name, m.name)
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) error {
		_, err := cl.Replicate(ctx, v.name, control.ReplicateRequest{Remote: second, Snapshot: text}, nil)
		return err
	})
	if err != nil {
		return true, h.refused(m, err)
	}
	if crashed {
		return true, nil
	}
	all, err := h.far.manifests(context.Background(), v.pub)
	if err != nil {
		return true, err
	}
	for _, mf := range all { // its manifest may be another one, where a purge removed those before it
		if root, err := mf.Root(); err == nil && root == p.root && mf.Generation == p.generation {
			h.brought[p.root] = fmt.Sprintf("generation %d of volume %s, which was replicated", p.generation, v.name)
			return true, h.reachable(h.far, map[string]string{p.root: "what was replicated"}, false)
		}
	}
	return true, fmt.Errorf("%w: the second place does not have generation %d", errWrong, p.generation)
}

// verify has a machine read back what is published.
func (h *history) verify(m *machine, v *vol, _ *instance) (bool, error) {
	if m.cable.pulled.Load() || v.newest() == nil {
		return false, nil
	}
	p := pick(h.r, v.list())
	h.note("verify generation %d of %s on %s", p.generation, v.name, m.name)
	var res volume.Verification
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		res, err = cl.Verify(ctx, v.name, control.VerifyRequest{Snapshot: p.hash}, nil)
		return err
	})
	if err == nil && !crashed && !res.OK {
		err = fmt.Errorf("%w: it says that generation %d is damaged: %+v", errWrong, p.generation, res)
	}
	if err == nil && !crashed {
		h.saw("verifications")
	}
	return true, err
}
