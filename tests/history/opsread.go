package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/ipfs/go-cid"
)

// browseHere looks into a snapshot on a machine that may crash under it.
func (h *history) browseHere(m *machine, v *vol, c *instance) (bool, error) {
	ch, err := h.chooseSnapshot(m, v, c)
	if err != nil || ch == nil {
		return false, err
	}
	h.note("browse %s of %s on %s, generation %d, local %.8s", ch.text, v.name, m.name, ch.line.Generation, ch.line.Local)
	var path string
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) error {
		res, err := cl.Browse(ctx, v.name, ch.text, false, nil)
		path = res.Mountpoint
		return err
	})
	if errors.Is(err, volume.ErrNoSnapshot) && ch.line.Local != "" { // an upload ended meanwhile, and did away with it
		if lerr := h.look(); lerr != nil {
			return true, lerr
		}
		if c.locals[ch.line.Local] == nil {
			_ = m.call(func(ctx context.Context, cl *control.Client) error {
				return cl.Remove(ctx, v.name+".at-"+ch.line.Local[:8], true)
			})
			h.result("it went meanwhile")
			return true, nil
		}
	}
	if err != nil || crashed || m.down {
		return true, err
	}
	list, err := h.describe(path)
	if err == nil {
		err = ch.state.read(list)
	}
	if err != nil {
		return true, fmt.Errorf("%w: what is looked into: %w", errWrong, err)
	}
	h.saw("snapshots looked into")
	crashed, err = h.do(m, func(ctx context.Context, cl *control.Client) error {
		_, err := cl.Browse(ctx, v.name, ch.text, true, nil)
		return err
	})
	if err != nil && ch.line.Hash == "" { // the same, under the mount
		return true, h.refused(m, err, volume.ErrNoSnapshot, volume.ErrUnknown)
	}
	return true, err
}

// diff compares two published snapshots, whose trees the model has.
func (h *history) diff(m *machine, v *vol, c *instance) (bool, error) {
	all := v.list()
	if m.cable.pulled.Load() || len(all) == 0 {
		return false, nil
	}
	from, to := pick(h.r, all), pick(h.r, all)
	if from == to && h.chance(0.9) {
		return false, nil
	}
	if !from.state.sure() || !to.state.sure() {
		return false, nil
	}
	h.note("diff generation %d and %d of %s on %s", from.generation, to.generation, v.name, m.name)
	var got []volume.Change
	var res volume.DiffResult
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		got = nil
		res, err = cl.Diff(ctx, v.name, from.hash, to.hash, func(c volume.Change) error { got = append(got, c); return nil })
		return err
	})
	if err != nil || crashed {
		return true, err
	}
	h.result("%d changes", len(got))
	if int(res.Changes) != len(got) || res.From.Hash != from.hash || res.To.Hash != to.hash {
		return true, fmt.Errorf("%w: a diff says that it told %d changes of generation %d and %d, and told %d", errWrong, res.Changes, res.From.Generation, res.To.Generation, len(got))
	}
	h.saw("diffs")
	h.t.changes += len(got)
	return true, compareChanges(from.state.of[0].list, to.state.of[0].list, got)
}

// damage takes a block out of the store, or spoils it, and has a verification find that.
func (h *history) damage(m *machine, v *vol, _ *instance) (bool, error) {
	all := v.list()
	if m.cable.pulled.Load() || len(all) == 0 {
		return false, nil
	}
	p := pick(h.r, all)
	files, err := h.near.files()
	if err != nil {
		return true, err
	}
	root, err := cid.Decode(p.root)
	if err != nil {
		return true, err
	}
	seen := map[string]bool{}
	if err := reach(files, root, seen); err != nil {
		return true, err
	}
	delete(seen, fileName(root)) // without it there is nothing to verify
	var names []string
	for name := range seen {
		names = append(names, name)
	}
	if len(names) == 0 {
		return false, nil
	}
	slices.Sort(names)
	name, spoil := pick(h.r, names), h.chance(0.5)
	h.note("damage block %s of generation %d of %s (spoilt %v), and verify it on %s", name, p.generation, v.name, spoil, m.name)
	good, err := os.ReadFile(files[name])
	if err != nil {
		return true, err
	}
	if spoil {
		bad := slices.Clone(good)
		bad[h.r.IntN(len(bad))] ^= 1 << h.r.IntN(8)
		err = replaceFile(files[name], bad)
	} else {
		err = os.Remove(files[name])
	}
	if err != nil {
		return true, err
	}
	var res volume.Verification
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) (err error) {
		res, err = cl.Verify(ctx, v.name, control.VerifyRequest{Snapshot: p.hash}, nil)
		return err
	})
	if rerr := replaceFile(files[name], good); rerr != nil {
		return true, rerr
	}
	if err != nil || crashed {
		return true, err
	}
	if res.OK || len(res.Damage) == 0 {
		return true, fmt.Errorf("%w: a block is damaged, and a verification finds nothing: %+v", errWrong, res)
	}
	h.result("%d names damaged", len(res.Damage))
	h.saw("damage found")
	return true, nil
}

// replaceFile is seen as a whole or not at all.
func replaceFile(path string, b []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "history.tmp")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
