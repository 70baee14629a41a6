package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/mutant"
	"fractal-lazy/replica"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// A pin that no manifest names would hold its blocks for ever. Three things leave one: a purge that is interrupted after the manifest went, and a publication, an
// import or a replication that ends between its pin and its manifest, because the machine dies or because it lost the volume. So all write the root down first (record.Unpin,
// record.RemoteUnpin), and strike it out when the pin is gone, or when a manifest names it. What is still there is tried again by the next purge or replication, and by the worker.
//
// Another machine may post a manifest at the same time that names the same root, which it found pinned. So whoever gave a root up asks afterwards whether a manifest names it by
// then, and pins it again; and whoever posted a manifest looks afterwards whether its root is still pinned. One of the two comes after both the unpinning and the manifest.

// rootAt is a root at a place: a remote, or, where that is empty, the volume's own store and Hive.
type rootAt struct {
	Remote string `json:"remote"`
	Root   string `json:"root"`
}

// here is a root at the volume's own place.
func here(root string) rootAt { return rootAt{Root: root} }

// maxRemoteUnpin bounds record.RemoteUnpin, maxRemoteName the bytes of a name in it.
const (
	maxRemoteUnpin = 1024
	maxRemoteName  = 512
)

// unpinLater notes a root that is to be unpinned unless a manifest names it.
func (r *record) unpinLater(at rootAt) {
	switch {
	case at.Remote != "" && !slices.Contains(r.RemoteUnpin, at):
		r.RemoteUnpin = append(r.RemoteUnpin, at)
	case at.Remote == "" && !slices.Contains(r.Unpin, at.Root):
		r.Unpin = append(r.Unpin, at.Root)
	}
}

// intendUnpin writes down a root that is to be unpinned unless a manifest names it. Where it cannot be written down, what was to follow must not begin.
// The root before, if any, is struck out.
func (v *vol) intendUnpin(at rootAt, before ...rootAt) error {
	change := func(r *record) {
		for _, b := range before {
			r.unpinDone(b)
		}
		r.unpinLater(at)
	}
	r := v.record()
	change(r)
	if len(r.Unpin) > maxSnapshots || len(r.RemoteUnpin) > maxRemoteUnpin || len(at.Remote) > maxRemoteName {
		return fmt.Errorf("%d roots are to be unpinned already, and the block store has to do that first", len(r.toUnpin(at.Remote)))
	}
	return v.intend(change)
}

// unpinDone strikes it out.
func (r *record) unpinDone(at rootAt) {
	if at.Remote != "" {
		r.RemoteUnpin = slices.DeleteFunc(r.RemoteUnpin, func(o rootAt) bool { return o == at })
		return
	}
	r.Unpin = slices.DeleteFunc(r.Unpin, func(s string) bool { return s == at.Root })
}

// toUnpin are the roots noted at the place, which is a remote or empty.
func (r *record) toUnpin(remote string) (roots []string) {
	if remote == "" {
		return slices.Clone(r.Unpin)
	}
	for _, at := range r.RemoteUnpin {
		if at.Remote == remote {
			roots = append(roots, at.Root)
		}
	}
	return roots
}

// holdPin keeps a root from being unpinned by this machine until end is called. It waits where that is just being done.
func (v *vol) holdPin(ctx context.Context, at rootAt) (end func(), err error) {
	for {
		v.mu.Lock()
		if !v.unpinning[at] {
			break
		}
		changed := v.changed
		v.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s is just being unpinned: %w", ErrBusy, at.Root, ctx.Err())
		}
	}
	if v.pinning == nil {
		v.pinning = map[rootAt]int{}
	}
	v.pinning[at]++
	v.mu.Unlock()
	return func() {
		v.mutate(func() {
			if v.pinning[at]--; v.pinning[at] == 0 {
				delete(v.pinning, at)
			}
		})
	}, nil
}

// beginPin is holdPin that also writes down that the root is to be unpinned unless a manifest comes to name it.
func (v *vol) beginPin(ctx context.Context, at rootAt) (end func(), err error) {
	if end, err = v.holdPin(ctx, at); err != nil {
		return nil, err
	}
	if err := v.intendUnpin(at); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// beginUnpin reports false while somebody pins the root for a manifest that is to come, or unpins it. Else end is to be called.
func (v *vol) beginUnpin(at rootAt) (end func(), ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pinning[at] > 0 || v.unpinning[at] {
		return nil, false
	}
	if v.unpinning == nil {
		v.unpinning = map[rootAt]bool{}
	}
	v.unpinning[at] = true
	return func() { v.mutate(func() { delete(v.unpinning, at) }) }, true
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
	for _, root := range v.record().Unpin {
		if err := m.unpin(ctx, v, root, all); err != nil {
			return err
		}
	}
	return nil
}

// unpinTimeout bounds a call to a block store that does not answer, as an unmount may be waiting. The next try goes on.
const unpinTimeout = 20 * time.Second

// unpin gives up a root that none of the manifests left names, and that nothing here needs, then notes that it is done. The step is held, and this machine is the writer.
func (m *Manager) unpin(ctx context.Context, v *vol, root string, left []*hive.Manifest) error {
	roots, err := m.rootsInUse(v)
	if err != nil {
		return err
	}
	named := names(left, root) || isBase(v.record(), root)
	if !named && roots[root] != "" {
		return nil // the next purge looks again
	}
	if !named {
		end, ok := v.beginUnpin(here(root))
		if !ok {
			return nil
		}
		defer end()
		if err := unpinRoot(ctx, m.store, root); err != nil {
			return err
		}
	}
	return v.update(func(r *record) { r.unpinDone(here(root)) })
}

func isBase(r *record, root string) bool { return r.Base != nil && r.Base.Root == root }

func unpinRoot(ctx context.Context, st store.Store, root string) error {
	c, err := cid.Decode(root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, unpinTimeout)
	defer cancel()
	if err := st.Unpin(ctx, c); err != nil {
		return fmt.Errorf("unpin %s: %w", root, err)
	}
	return nil
}

// pinAgain pins a root that a manifest names, if it is not.
func pinAgain(ctx context.Context, st store.Store, root string) error {
	c, err := cid.Decode(root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, unpinTimeout)
	defer cancel()
	if is, err := st.Pinned(ctx, c); err != nil || is {
		return err
	}
	if err := st.Pin(ctx, c); err != nil {
		return fmt.Errorf("pin %s again: %w", root, err)
	}
	return nil
}

func names(all []*hive.Manifest, root string) bool {
	return slices.ContainsFunc(all, func(mf *hive.Manifest) bool { r, err := mf.Root(); return err == nil && r == root })
}

// unpinByItself is unpinLeft of the worker, which need not be that of the writer. The step is held.
func (m *Manager) unpinByItself(ctx context.Context, v *vol) error {
	inUse, err := m.rootsInUse(v)
	if err != nil {
		return err
	}
	r := v.record()
	var roots, based []string
	for _, root := range r.Unpin {
		switch {
		case isBase(r, root):
			based = append(based, root)
		case inUse[root] == "": // else the next try looks again
			roots = append(roots, root)
		}
	}
	done, err := giveUp(ctx, v, "", replica.Place{Store: m.store, Hive: m.d.Hive}, roots)
	if done = append(done, based...); len(done) == 0 {
		return err
	}
	return errors.Join(err, v.update(func(r *record) {
		for _, root := range done {
			r.unpinDone(here(root))
		}
	}))
}

// giveUp unpins those of roots, which v has noted of the place, that no manifest there names, and returns all that need no further try. The caller strikes them out.
//
// Order: 1. the Hive says what its manifests name; 2. the rest is unpinned; 3. the Hive says it again, and what it names by now is pinned again; 4. the caller's record. A crash
// before 4 has all of it done once more, where what is named is looked after too.
func giveUp(ctx context.Context, v *vol, remote string, at replica.Place, roots []string) (done []string, err error) {
	if len(roots) == 0 || mutant.Is(mutant.PinsLeft) {
		return roots, nil
	}
	ask := func() ([]*hive.Manifest, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		all, err := at.Hive.All(ctx, v.pub)
		if errors.Is(err, hive.ErrNotFound) {
			return nil, nil
		}
		return all, err
	}
	all, err := ask() // 1
	if err != nil {
		return nil, err
	}
	var tried []string
	for _, root := range roots {
		if names(all, root) {
			tried = append(tried, root)
			continue
		}
		end, ok := v.beginUnpin(rootAt{remote, root})
		if !ok {
			continue
		}
		defer end()
		if err := unpinRoot(ctx, at.Store, root); err != nil { // 2
			return nil, err
		}
		tried = append(tried, root)
	}
	if all, err = ask(); err != nil { // 3
		return nil, err
	}
	var errs []error
	for _, root := range tried {
		if names(all, root) {
			if err := pinAgain(ctx, at.Store, root); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		done = append(done, root)
	}
	return done, errors.Join(errs...)
}
