package volume

import (
	"context"
	"fmt"
	"slices"

	"fractal-lazy/mutant"
)

// BrowseID is who uses the mount of a snapshot that is browsed.
const BrowseID = "browse"

// Browse makes a read-only view of the snapshot that text names, or finds the one that is there, and returns its name. It is a volume like any
// view: Mount shows it, and EndBrowse takes it away. Of what is remote only what is read is fetched.
func (m *Manager) Browse(ctx context.Context, name, text string) (view string, i SnapshotInfo, err error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return "", i, err
	}
	if i, err = m.resolve(ctx, v, text); err != nil {
		return "", i, v.wrap(fmt.Errorf("browse: %w", err))
	}
	option := i.Local // what is here is shown from here
	if option == "" {
		option = i.Hash
	}
	if r := v.record(); mutant.Is(mutant.BrowseNewest) && i.Hash != "" && r.Seen != nil {
		option = r.Seen.Hash
	}
	if view = m.findView(name, i); view != "" {
		return view, i, nil
	}
	view = viewName(name, viewKeys(i)[0])
	err = m.Create(ctx, view, map[string]string{keyOption: v.key.Reveal(), "snapshot": option, "prefetch": "none"})
	if err != nil {
		return "", i, v.wrap(fmt.Errorf("browse: %w", err))
	}
	return view, i, nil
}

// EndBrowse unmounts and removes the view that Browse made of the snapshot that text names. ErrInUse while others use it.
func (m *Manager) EndBrowse(ctx context.Context, name, text string) error {
	v, err := m.lookup(name)
	if err != nil {
		return err
	}
	i, err := m.resolve(ctx, v, text)
	if err != nil {
		return v.wrap(fmt.Errorf("end browsing: %w", err))
	}
	view := m.findView(name, i)
	if view == "" {
		return v.wrap(fmt.Errorf("%w: nobody browses %s", ErrUnknown, shownName(i)))
	}
	if err := m.Unmount(ctx, view, BrowseID); err != nil {
		return err
	}
	return m.Remove(ctx, view, false)
}

// viewKeys are what a view of the snapshot may be named by: which of them are known may change while it is there.
func viewKeys(i SnapshotInfo) []string {
	return slices.DeleteFunc([]string{i.ID, i.Local, i.Hash}, func(s string) bool { return s == "" })
}

func viewName(name, key string) string {
	const most = maxName - len(".at-12345678")
	if len(name) > most {
		name = name[:most]
	}
	return name + ".at-" + key[:8]
}

// findView is the name of the view that Browse made of a snapshot; empty: there is none.
func (m *Manager) findView(name string, i SnapshotInfo) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range viewKeys(i) {
		if v := m.vols[viewName(name, key)]; v != nil && v.isView() {
			return v.name
		}
	}
	return ""
}

// viewLocal makes data a snapshot of a local snapshot of the volume that v is a view of. The steps of both are held.
//
// Order: 1. data.new; 2. the record (Swap); 3. data.new is renamed to data. See replaceData.
func (m *Manager) viewLocal(v *vol, id string) error {
	h := m.home(v)
	if h == v || h.record().snapshot(id) == nil {
		return fmt.Errorf("%w: %q is not on this machine", ErrNoSnapshot, id)
	}
	if v.has(v.next()) {
		if err := m.toTrash(v.next()); err != nil {
			return err
		}
	}
	if err := h.snapshotOf(id, v.next()); err != nil {
		return err
	}
	if err := v.intend(func(r *record) { r.Swap = &swapRecord{Totals: &totals{}} }); err != nil {
		return err
	}
	return m.finishSwap(v)
}
