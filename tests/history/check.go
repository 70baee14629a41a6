package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/ipfs/go-cid"
)

// browse reads the snapshot that text names on a machine, and holds it against g.
func (h *history) browse(m *machine, v *vol, text string, g *guess) error {
	err := m.call(func(ctx context.Context, c *control.Client) error {
		res, err := c.Browse(ctx, v.name, text, false, nil)
		if err != nil {
			return err
		}
		list, err := h.describe(res.Mountpoint)
		if err == nil {
			err = g.read(list)
		}
		_, eerr := c.Browse(ctx, v.name, text, true, nil)
		return errors.Join(err, eerr)
	})
	if err != nil {
		return fmt.Errorf("%w: volume %s: snapshot %s read on %s: %w", errWrong, v.name, text, m.name, err)
	}
	return nil
}

// know makes the volume known to a machine that only reads.
func (h *history) know(m *machine, v *vol) error {
	return m.call(func(ctx context.Context, c *control.Client) error {
		_, err := c.Create(ctx, v.name, map[string]string{"privkey": v.key})
		if errors.Is(err, volume.ErrExists) {
			return nil
		}
		return err
	})
}

// readPublished reads one snapshot on the machine that has nothing but the key.
func (h *history) readPublished(v *vol, p *published) error {
	if err := h.know(h.reader, v); err != nil {
		return err
	}
	return h.browse(h.reader, v, p.hash, p.state)
}

// reachable holds the blocks of a place against what the snapshots there need. settled: nothing is on its way, so that nothing else may be there.
func (h *history) reachable(at *place, needed map[string]string, settled bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	files, err := at.files()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for root, what := range needed {
		c, err := cid.Decode(root)
		if err != nil {
			return err
		}
		if err := reach(files, c, seen); err != nil {
			return fmt.Errorf("%w: %s: %w", errWrong, what, err)
		}
	}
	if !settled {
		return nil
	}
	pins, err := at.pins(ctx)
	if err != nil {
		return err
	}
	for p := range pins {
		if needed[p] == "" {
			return fmt.Errorf("%w: %s is pinned, and no snapshot has it: %s", errWrong, p, h.whose(p))
		}
	}
	for name := range files {
		if !seen[name] {
			return fmt.Errorf("%w: after the collection block %s is left, which no snapshot reaches (%d blocks, %d of them reachable)", errWrong, name, len(files), len(seen))
		}
	}
	return nil
}

// whose tells which snapshot a root was.
func (h *history) whose(root string) string {
	for _, v := range h.vols {
		for _, p := range v.past {
			if p.root == root {
				return fmt.Sprintf("it was generation %d of volume %s, which was removed", p.generation, v.name)
			}
		}
	}
	return "it never was one"
}

// neededNear are the roots of all manifests at the Hive.
func (h *history) neededNear() map[string]string {
	needed := map[string]string{}
	for _, v := range h.vols {
		for _, p := range v.remote {
			needed[p.root] = fmt.Sprintf("generation %d of volume %s", p.generation, v.name)
		}
	}
	return needed
}

// neededFar are the roots of the manifests at the second place, but for those whose blocks were never brought, since the first place had given them up.
func (h *history) neededFar() (map[string]string, error) {
	needed := maps.Clone(h.brought)
	files, err := h.far.files()
	if err != nil {
		return nil, err
	}
	for _, v := range h.vols {
		all, err := h.far.manifests(context.Background(), v.pub)
		if err != nil {
			return nil, err
		}
		for _, mf := range all {
			root, err := mf.Root()
			if err != nil {
				return nil, err
			}
			if c, err := cid.Decode(root); err != nil {
				return nil, err
			} else if files[fileName(c)] != "" {
				needed[root] = fmt.Sprintf("generation %d of volume %s", mf.Generation, v.name)
			}
		}
	}
	return needed, nil
}

// settle brings everything to rest: all machines run and reach everything, nothing is mounted, nothing waits for its upload.
func (h *history) settle() error {
	defer func(p float64) { h.c.crashes = p }(h.c.crashes)
	h.c.crashes = 0
	for _, m := range h.machines {
		m.cable.pulled.Store(false)
		if m.down {
			if err := m.start(); err != nil {
				return err
			}
		}
	}
	if err := h.look(); err != nil {
		return err
	}
	for _, v := range h.vols {
		for _, clones := range []bool{false, true} { // which take the volume from nobody
			for _, m := range h.machines {
				c := v.copies[m]
				if c == nil || c.polite != clones {
					continue
				}
				if err := h.rest(m, v, c); err != nil {
					return fmt.Errorf("bring volume %s on machine %s to rest: %w", v.name, m.name, err)
				}
			}
		}
	}
	return h.look()
}

// restLimit is how long a volume may take to be published.
const restLimit = 90 * time.Second

func (h *history) rest(m *machine, v *vol, c *instance) error {
	var i volume.Info
	get := func() error {
		return m.call(func(ctx context.Context, cl *control.Client) (err error) { i, err = cl.Get(ctx, v.name); return err })
	}
	if err := get(); err != nil {
		return err
	}
	if i.CloneOf != "" && !c.tainted { // it is published when all of it is here
		for end := time.Now().Add(restLimit); c.mount == ""; time.Sleep(50 * time.Millisecond) { // the other machine gives it back in its own time
			if did, err := h.mount(m, v, c); err != nil || !did || time.Now().After(end) {
				return fmt.Errorf("%w: mount the clone: %w", errWrong, err)
			}
			if err := h.pass(time.Minute); err != nil {
				return err
			}
		}
		err := m.call(func(ctx context.Context, cl *control.Client) error {
			_, err := cl.Hydrate(ctx, v.name, control.HydrateRequest{Wait: true}, nil)
			return err
		})
		if err != nil {
			return err
		}
	}
	if c.mount != "" {
		err := m.call(func(ctx context.Context, cl *control.Client) error {
			_, err := cl.Unmount(ctx, v.name, control.UnmountRequest{Wait: true, WaitSeconds: restLimit.Seconds()}, nil)
			return err
		})
		if err != nil && !errors.Is(err, volume.ErrFenced) {
			return err
		}
		c.mount = ""
	}
	for end := time.Now().Add(restLimit); ; time.Sleep(20 * time.Millisecond) {
		if err := get(); err != nil {
			return err
		}
		if i.Fenced || i.State != volume.StateUploading && i.Unpublished == 0 {
			return nil
		}
		// What failed is tried again after a while.
		if err := h.pass(time.Minute); err != nil {
			return err
		}
		if c.tainted && i.UploadError != "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: it is %s, with %d unpublished, after %v: %s", errWrong, i.State, i.Unpublished, restLimit, i.UploadError)
		}
	}
}

// finish reads back everything that survived, and holds the stores against it.
func (h *history) finish() error {
	if err := h.settle(); err != nil {
		return err
	}
	// What an interrupted purge, publication or replication left pinned is given up by the machine that began it, in its own time.
	for end := time.Now().Add(restLimit); ; time.Sleep(100 * time.Millisecond) {
		err := h.collected()
		if err == nil {
			break
		}
		if errors.Is(err, errGone) || time.Now().After(end) {
			return err
		}
		err = h.pass(time.Hour)
		for _, m := range h.machines {
			err = errors.Join(err, m.stop(), m.start())
		}
		if err != nil {
			return err
		}
	}
	// A machine that has never seen anything but the keys.
	fresh, err := newMachine(h.dir, "fresh", h.clock, h.near, h.far)
	if fresh != nil {
		h.machines = append(h.machines, fresh)
	}
	if err != nil {
		return err
	}
	for _, v := range h.vols {
		if err := h.know(fresh, v); err != nil {
			return err
		}
		for _, p := range v.list() {
			h.t.snapshots++
			if err := h.browse(fresh, v, p.hash, p.state); err != nil {
				return fmt.Errorf("generation %d: %w", p.generation, err)
			}
		}
		for _, m := range h.machines {
			c := v.copies[m]
			if c == nil {
				continue
			}
			for _, l := range sortedLocals(c) {
				if l.tainted {
					continue
				}
				h.t.snapshots++
				if err := h.browse(m, v, l.id, l.state); err != nil {
					return fmt.Errorf("local snapshot (%s): %w", l.note, err)
				}
			}
		}
	}
	if err := h.vault(); err != nil {
		return err
	}
	return h.look()
}

// collected collects at both places, and holds what they have then against what their manifests reach.
func (h *history) collected() error {
	h.t.collections++
	for _, p := range []*place{h.near, h.far} {
		if err := p.collect(context.Background()); err != nil {
			return err
		}
	}
	needed, err := h.neededFar()
	if err != nil {
		return err
	}
	if err := h.reachable(h.near, h.neededNear(), true); err != nil {
		return err
	}
	if err := h.reachable(h.far, needed, true); err != nil {
		return fmt.Errorf("second place: %w", err)
	}
	return nil
}

func sortedLocals(c *instance) (all []*local) {
	for _, l := range c.locals {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *local) int { return a.created.Compare(b.created) })
	return all
}
