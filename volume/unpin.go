package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fractal-lazy/hive"

	"github.com/ipfs/go-cid"
)

// A pin that no manifest names would hold its blocks for ever. Two things leave one: a purge that is interrupted after the manifest went, and a publication that
// ends between its pin and its manifest, because the machine dies or because it lost the volume. So both write the root down first (record.Unpin), and strike it
// out when the pin is gone, or when a manifest names it. What is still there is tried again by the next purge, and by the worker.

// unpinLater notes a root that is to be unpinned unless a manifest names it.
func (r *record) unpinLater(root string) {
	if !slices.Contains(r.Unpin, root) && len(r.Unpin) < maxSnapshots {
		r.Unpin = append(r.Unpin, root)
	}
}

// unpinDone strikes it out.
func (r *record) unpinDone(root string) {
	r.Unpin = slices.DeleteFunc(r.Unpin, func(s string) bool { return s == root })
}

// beginPin keeps root from being unpinned until end is called, and writes down that it is to be unpinned unless a manifest comes to name it. ErrBusy while it is
// being unpinned.
func (v *vol) beginPin(root cid.Cid) (end func(), err error) {
	name := root.String()
	v.mu.Lock()
	busy := v.unpinning == name
	if !busy {
		if v.pinning == nil {
			v.pinning = map[string]int{}
		}
		v.pinning[name]++
	}
	v.mu.Unlock()
	if busy {
		return nil, fmt.Errorf("%w: %s is just being unpinned", ErrBusy, name)
	}
	end = func() {
		v.mutate(func() {
			if v.pinning[name]--; v.pinning[name] == 0 {
				delete(v.pinning, name)
			}
		})
	}
	if err := v.intend(func(r *record) { r.unpinLater(name) }); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// beginUnpin reports false while somebody pins root for a manifest that is to come.
func (v *vol) beginUnpin(root string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pinning[root] > 0 {
		return false
	}
	v.unpinning = root
	return true
}

// unpinLeft does what a purge or a publication before had no time for. all are the manifests at the Hive.
func (m *Manager) unpinLeft(ctx context.Context, v *vol, all []*hive.Manifest) error {
	if len(v.record().Unpin) == 0 || m.pub == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepPurge); err != nil {
		return err
	}
	defer v.leave()
	return m.unpinAll(ctx, v, all)
}

func (m *Manager) unpinAll(ctx context.Context, v *vol, all []*hive.Manifest) error {
	for _, root := range v.record().Unpin {
		if err := m.unpin(ctx, v, root, all); err != nil {
			return err
		}
	}
	return nil
}

// unpinTimeout bounds a call to a block store that does not answer, as an unmount may be waiting. The next try goes on.
const unpinTimeout = 20 * time.Second

// unpin gives up a root that none of the manifests left names, and that nothing here needs, then notes that it is done. The step is held.
func (m *Manager) unpin(ctx context.Context, v *vol, root string, left []*hive.Manifest) error {
	roots, err := m.rootsInUse(v)
	if err != nil {
		return err
	}
	named := names(left, root)
	if b := v.record().Base; b != nil && b.Root == root {
		named = true
	}
	if !named && roots[root] != "" {
		return nil // the next purge looks again
	}
	if !named {
		c, err := cid.Decode(root)
		if err != nil {
			return err
		}
		if !v.beginUnpin(root) {
			return nil
		}
		defer v.mutate(func() { v.unpinning = "" })
		limit, cancel := context.WithTimeout(ctx, unpinTimeout)
		defer cancel()
		if err := m.store.Unpin(limit, c); err != nil {
			return fmt.Errorf("unpin %s: %w", root, err)
		}
	}
	return v.update(func(r *record) { r.unpinDone(root) })
}

func names(all []*hive.Manifest, root string) bool {
	return slices.ContainsFunc(all, func(mf *hive.Manifest) bool { r, err := mf.Root(); return err == nil && r == root })
}

// unpinByItself is unpinLeft of the worker, which need not be that of the writer: another machine may publish at the same time, and the same tree even, which is
// pinned already for it. So the Hive is asked again afterwards, and what it names by then is pinned again. The step is held.
func (m *Manager) unpinByItself(ctx context.Context, v *vol) error {
	was := v.record().Unpin
	named := func() ([]*hive.Manifest, error) {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return m.manifests(ask, v)
	}
	before, err := named()
	if err == nil {
		err = m.unpinAll(ctx, v, before)
	}
	if err != nil {
		return err
	}
	after, err := named()
	if err != nil {
		return err
	}
	now := v.record().Unpin
	var errs []error
	for _, root := range was {
		if !slices.Contains(now, root) && names(after, root) && !names(before, root) {
			c, err := cid.Decode(root)
			if err == nil {
				limit, cancel := context.WithTimeout(ctx, unpinTimeout)
				err = m.store.Pin(limit, c)
				cancel()
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
