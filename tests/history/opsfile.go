package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"fractal-lazy/archive"
	"fractal-lazy/plugin/control"
	"fractal-lazy/seal"
	"fractal-lazy/volume"
)

// file is an offline copy of a published snapshot.
type file struct {
	v          *vol
	path       string
	hash, root string
	generation uint64
	state      *guess
}

// maxFiles is how many offline copies are kept.
const maxFiles = 6

// export writes a published snapshot to a file. Cut short by a crash, it may not be taken for a whole one.
func (h *history) export(m *machine, v *vol, c *instance) (bool, error) {
	all := v.list()
	if m.cable.pulled.Load() || len(all) == 0 {
		return false, nil
	}
	p := all[h.r.IntN(max(1, len(all)-1))] // rather one that may be removed
	h.made++
	f := &file{v: v, path: filepath.Join(h.dir, fmt.Sprintf("%d.car", h.made)), hash: p.hash, root: p.root, generation: p.generation, state: p.state}
	h.note("export generation %d of %s on %s", p.generation, v.name, m.name)
	crashed, err := h.do(m, func(ctx context.Context, cl *control.Client) error { return f.write(ctx, cl) })
	if err != nil {
		return true, err
	}
	root, rerr := readFile(f.path, v.pub)
	switch {
	case rerr == nil && root != p.root:
		return true, fmt.Errorf("%w: the file of generation %d holds another snapshot", errWrong, p.generation)
	case rerr != nil && !crashed:
		return true, fmt.Errorf("%w: the file of an export: %w", errWrong, rerr)
	case rerr != nil:
		h.saw("exports cut short")
		h.result("cut short: %v", rerr)
		return true, os.Remove(f.path)
	}
	h.saw("exports")
	h.files = append(h.files, f)
	if len(h.files) > maxFiles {
		err = os.Remove(h.files[0].path)
		h.files = h.files[1:]
	}
	return true, err
}

func (f *file) write(ctx context.Context, cl *control.Client) (err error) {
	out, err := os.Create(f.path)
	if err != nil {
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	e, err := cl.Export(ctx, f.v.name, control.ExportRequest{Snapshot: f.hash})
	if err != nil {
		return err
	}
	defer e.Body.Close()
	_, err = io.Copy(out, e.Body)
	return errors.Join(err, e.Err())
}

// readFile returns the root that the file holds; nil: it is whole.
func readFile(path string, pub seal.Pubkey) (root string, err error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	r, err := archive.NewReader(in, pub)
	if err != nil {
		return "", err
	}
	for {
		if _, err := r.Next(); err == io.EOF {
			return r.Root.String(), nil
		} else if err != nil {
			return "", err
		}
	}
}

// importFile brings an offline copy back, to a machine that has the volume or to one that gets it from its key.
func (h *history) importFile() (bool, error) {
	m := pick(h.r, h.machines)
	if m.down || m.cable.pulled.Load() || len(h.files) == 0 {
		return false, nil
	}
	f := pick(h.r, h.files)
	if lost := slices.DeleteFunc(slices.Clone(h.files), func(f *file) bool { return f.v.remote[f.hash] != nil }); len(lost) > 0 && h.chance(0.8) {
		f = pick(h.r, lost)
	}
	v := f.v
	if v.copies[m] == nil {
		if len(v.copies) == 0 && h.inUse() >= maxVolumes {
			return false, nil
		}
		h.note("create %s on %s from its key, for an import", v.name, m.name)
		opts := h.options()
		opts["privkey"] = v.key
		if err := m.call(func(ctx context.Context, c *control.Client) error { _, err := c.Create(ctx, v.name, opts); return err }); err != nil {
			return true, err
		}
		v.copies[m] = newInstance()
	}
	if err := h.look(); err != nil {
		return true, err
	}
	known, taken, writer, newest := v.remote[f.hash] != nil, v.hasOther(f), v.writer, v.newest()
	h.note("import generation %d of %s on %s, known %v", f.generation, v.name, m.name, known)
	v.mayCome[f.root] = f.state
	var res volume.Imported
	crashed, err := h.do(m, func(ctx context.Context, c *control.Client) error {
		in, err := os.Open(f.path)
		if err != nil {
			return fmt.Errorf("%w: %w", errWrong, err)
		}
		defer in.Close()
		res, err = c.Import(ctx, v.name, in, nil)
		return err
	})
	if m.down {
		if err := m.start(); err != nil {
			return true, err
		}
	}
	if lerr := h.look(); lerr != nil {
		return true, lerr
	}
	if crashed { // the Hive may have its request still
		return true, nil
	}
	delete(v.mayCome, f.root)
	if err != nil {
		var may []error
		if writer != "" || v.writer != "" { // by who has it the manifest cannot be posted as it is
			may = append(may, volume.ErrHeld, volume.ErrRollback)
		}
		if taken {
			may = append(may, volume.ErrRollback)
		}
		return true, h.refused(m, err, append(may, volume.ErrBusy)...)
	}
	h.result("generation %d, known %v, made %v", res.Generation, res.Known, res.Made)
	p := v.remote[res.Hash]
	switch {
	case p == nil || p.root != f.root || res.Generation != p.generation || p.generation != f.generation:
		return true, fmt.Errorf("%w: it says that generation %d was imported, which the Hive does not have", errWrong, res.Generation)
	case res.Known != known || res.Newest && newest.hash != p.hash:
		return true, fmt.Errorf("%w: an import says %+v", errWrong, res)
	}
	if !known {
		h.saw("snapshots brought back by an import")
	}
	h.saw("imports")
	return true, h.reachable(h.near, map[string]string{p.root: "what was imported"}, false)
}

// hasOther tells whether the Hive has another manifest of the generation.
func (v *vol) hasOther(f *file) bool {
	return slices.ContainsFunc(v.list(), func(p *published) bool { return p.generation == f.generation && p.hash != f.hash })
}

// vault brings all offline copies to a place that has never seen anything, as after the loss of everything, and reads them there.
func (h *history) vault() error {
	if len(h.files) == 0 {
		return nil
	}
	at, err := newPlace(filepath.Join(h.dir, "vault"), nil)
	if at != nil {
		defer at.close()
	}
	if err != nil {
		return err
	}
	m, err := newMachine(h.dir, "vaulter", h.clock, at, h.far)
	if m != nil {
		h.extra = append(h.extra, m)
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(h.files, func(a, b *file) int { return int(a.generation) - int(b.generation) })
	last := map[*vol]*file{}
	for _, f := range h.files {
		if last[f.v] != nil && last[f.v].generation == f.generation {
			continue
		}
		if err := h.know(m, f.v); err != nil {
			return err
		}
		h.note("import generation %d of %s to a new place", f.generation, f.v.name)
		err := m.call(func(ctx context.Context, c *control.Client) error {
			in, err := os.Open(f.path)
			if err != nil {
				return err
			}
			defer in.Close()
			res, err := c.Import(ctx, f.v.name, in, nil)
			if err == nil && !res.Newest {
				err = fmt.Errorf("%w: it is not the newest there: %+v", errWrong, res)
			}
			return err
		})
		if err != nil {
			return err
		}
		last[f.v] = f
		h.saw("imports to a new place")
	}
	if err := at.collect(context.Background()); err != nil {
		return err
	}
	for _, f := range h.files {
		if err := h.browse(m, f.v, fmt.Sprint(f.generation), f.state); err != nil {
			return fmt.Errorf("generation %d of volume %s, at a new place from its file: %w", f.generation, f.v.name, err)
		}
	}
	for v, f := range last {
		err := m.call(func(ctx context.Context, c *control.Client) error {
			path, err := c.Mount(ctx, v.name, "", nil)
			if err != nil {
				return err
			}
			list, err := h.describe(path)
			if err == nil {
				err = f.state.read(list)
			}
			_, uerr := c.Unmount(ctx, v.name, control.UnmountRequest{Wait: true, WaitSeconds: restLimit.Seconds()}, nil)
			return errors.Join(err, uerr)
		})
		if err != nil {
			return fmt.Errorf("volume %s, at a new place from generation %d: %w", v.name, f.generation, err)
		}
	}
	return nil
}
