package volume

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fractal-lazy/hive"
)

// Snapshots lists the snapshots at the Hive and those that are here, one line for what is in both places,
// ascending by time. Where the Hive cannot be asked, the local ones come with the error.
func (m *Manager) Snapshots(ctx context.Context, name string) ([]SnapshotInfo, error) {
	v, err := m.lookup(name)
	if err != nil {
		return nil, err
	}
	return m.history(ctx, v)
}

// LocalSnapshots lists the snapshots that are on this machine, without asking anybody.
func (m *Manager) LocalSnapshots(name string) ([]SnapshotInfo, error) {
	v, err := m.lookup(name)
	if err != nil {
		return nil, err
	}
	return mergeSnapshots(nil, m.home(v).record()), nil
}

// history is Snapshots of v, or of the volume that v is a view of. Without a Hive there are only local ones.
func (m *Manager) history(ctx context.Context, v *vol) ([]SnapshotInfo, error) {
	r := m.home(v).record()
	if m.d.Hive == nil {
		return mergeSnapshots(nil, r), nil
	}
	remote, err := m.manifests(ctx, v)
	return mergeSnapshots(remote, r), err
}

// home is the volume that a view shows, where that is here; any other volume itself.
func (m *Manager) home(v *vol) *vol {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.byKey(v.pub); v.isView() && h != nil {
		return h
	}
	return v
}

// mergeSnapshots makes one list of the Hive's manifests and of the local snapshots of a record. It is a pure function.
func mergeSnapshots(remote []*hive.Manifest, r *record) []SnapshotInfo {
	var out []SnapshotInfo
	for _, mf := range remote {
		b, err := baseOf(mf, 0)
		if err != nil { // signed by the volume's key, so somebody else's format and no attack
			b = &baseRecord{Generation: mf.Generation, Hash: mf.Hash().String(), Size: mf.Size, SizeTotal: mf.SizeTotal,
				Created: createdAt(mf), Machine: mf.Machine.String()}
		}
		i := b.info()
		if id := filepath.Base(mf.Path); isUUID(id) {
			i.ID = id
		}
		out = append(out, i)
	}
	// known returns the line of a published snapshot, which another machine may have published since the list was made.
	known := func(b *baseRecord) *SnapshotInfo {
		at := slices.IndexFunc(out, func(i SnapshotInfo) bool { return i.Hash == b.Hash })
		if at < 0 {
			at = len(out)
			out = append(out, b.info())
		}
		return &out[at]
	}
	if r.Base != nil {
		known(r.Base).here(r.Base.Local)
	}
	for _, s := range r.Snapshots {
		switch {
		case r.Base != nil && s.ID == r.Base.Local:
		case s.Published != nil && known(s.Published).Local == "":
			i := known(s.Published)
			i.here(s.ID)
			i.Note = s.Kind
		default:
			out = append(out, s.info())
		}
	}
	slices.SortStableFunc(out, func(a, b SnapshotInfo) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Generation, b.Generation), strings.Compare(a.Local, b.Local))
	})
	return out
}

// here notes that the local snapshot id holds the same.
func (i *SnapshotInfo) here(id string) {
	if id == "" {
		return
	}
	i.Local, i.Where = id, WhereBoth
	if i.ID == "" {
		i.ID = id
	}
}

func (b *baseRecord) info() SnapshotInfo {
	i := SnapshotInfo{Generation: b.Generation, Hash: b.Hash, Root: b.Root, Created: b.Created, Size: b.Size,
		SizeTotal: b.SizeTotal, Where: WhereNetwork, Remote: true, Machine: b.Machine}
	i.here(b.Local)
	return i
}

func (s *snapRecord) info() SnapshotInfo {
	return SnapshotInfo{Created: s.Created, Local: s.ID, ID: s.ID, Where: WhereHere, Note: s.Kind}
}

// minPrefix is how much of a hash, CID or uuid has to be given; minDigits, where that has digits alone: less is a generation, and where there is none of that
// number, it is not to mean something else.
const (
	minPrefix = 4
	minDigits = 8
)

// findSnapshot returns the snapshot of the list, which ascends by time, that a person means by text: a generation, a hash, a
// CID, the uuid of a local snapshot, the beginning of one of these, or a time, which means the newest one made at or before. ErrNoSnapshot says what
// is there instead. It is a pure function.
func findSnapshot(all []SnapshotInfo, text string) (SnapshotInfo, error) {
	none := func(why string) (SnapshotInfo, error) {
		if len(text) > maxValue {
			text = text[:maxValue]
		}
		hint := "there is none yet"
		if n := len(all); n > 0 {
			hint = fmt.Sprintf("there are %d, from %s to %s; `fractal-lazy snapshots` lists them", n,
				all[0].Created.UTC().Format(time.RFC3339), all[n-1].Created.UTC().Format(time.RFC3339))
		}
		return SnapshotInfo{}, fmt.Errorf("%w: %q: %s; %s", ErrNoSnapshot, clip(text), why, hint)
	}
	if text == "" || len(text) > maxValue {
		return none("give a generation, a hash, a CID, an id or a time")
	}
	sel, parseErr := parseSelector(text)
	if parseErr == nil && sel.generation != 0 {
		for _, i := range all {
			if i.Generation == sel.generation {
				return i, nil
			}
		}
	}
	if len(text) >= minPrefix && (len(text) >= minDigits || strings.Trim(text, "0123456789") != "") {
		if found := withPrefix(all, strings.ToLower(text)); len(found) == 1 {
			return found[0], nil
		} else if len(found) > 1 {
			return none(fmt.Sprintf("%d begin so: give more of it", len(found)))
		}
	}
	switch {
	case parseErr != nil:
		return none("no hash, CID or id begins so, and it is no time (RFC3339, 'YYYY-MM-DD HH:MM[:SS]' in UTC, or Unix seconds)")
	case sel.generation != 0:
		return none(fmt.Sprintf("no generation has that number, and of a hash, CID or id that begins so give at least %d characters", minDigits))
	case sel.hash != nil || sel.local != "":
		return none("it is not among them")
	}
	for _, i := range slices.Backward(all) {
		if !i.Created.After(sel.before) {
			return i, nil
		}
	}
	return none("none is that old")
}

// withPrefix returns the snapshots of which a name begins with text, each once. Two generations may have the same tree.
func withPrefix(all []SnapshotInfo, text string) (found []SnapshotInfo) {
	for _, i := range all {
		if i.Hash == text || i.ID == text || i.Local == text {
			return []SnapshotInfo{i}
		}
		if strings.HasPrefix(i.Hash, text) || strings.HasPrefix(i.ID, text) || strings.HasPrefix(i.Local, text) || strings.HasPrefix(i.Root, text) {
			found = append(found, i)
		}
	}
	// One tree under several generations is one content: the newest stands for it.
	if n := len(found); n > 1 && found[0].Root != "" &&
		!slices.ContainsFunc(found, func(i SnapshotInfo) bool { return i.Root != found[0].Root || !strings.HasPrefix(i.Root, text) }) {
		found = found[n-1:]
	}
	return found
}

// resolve finds the snapshot that text means. Where the Hive cannot be asked, a local one is found all the same.
func (m *Manager) resolve(ctx context.Context, v *vol, text string) (SnapshotInfo, error) {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, herr := m.history(ask, v)
	i, err := findSnapshot(all, text)
	switch {
	case herr == nil: // all that there are
		return i, err
	case err != nil:
		return i, herr
	case byTime(i, text):
		return SnapshotInfo{}, fmt.Errorf("the newest snapshot of that time may be one that is not here: name one by its id, as `fractal-lazy snapshots` has it: %w", herr)
	}
	return i, nil
}

// byTime reports whether text means the snapshot i, which findSnapshot found for it, by a time.
func byTime(i SnapshotInfo, text string) bool {
	sel, err := parseSelector(text)
	return err == nil && !sel.before.IsZero() && len(withPrefix([]SnapshotInfo{i}, strings.ToLower(text))) == 0
}

// resolveExactly is resolve for a removal: what was not named must not go, so a time has to be the second of just one snapshot.
func (m *Manager) resolveExactly(ctx context.Context, v *vol, text string) (SnapshotInfo, error) {
	i, err := m.resolve(ctx, v, text)
	if err != nil || !byTime(i, text) {
		return i, err
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, err := m.history(ask, v)
	if err != nil {
		return SnapshotInfo{}, err
	}
	sel, _ := parseSelector(text) // byTime has
	n := 0
	for _, o := range all {
		if o.Created.Equal(sel.before) && !o.Created.Equal(o.Created.Truncate(time.Second)) {
			return o, nil // a local one, whose time has its fraction
		}
		if o.Created.Unix() == sel.before.Unix() {
			i, n = o, n+1
		}
	}
	id := cmp.Or(i.Hash, i.ID)
	switch n {
	case 0:
		return SnapshotInfo{}, fmt.Errorf("%w: %q: none was made in that second, and what is to be removed has to be named; the last one before is of %s: `fractal-lazy rm %s %.12s`",
			ErrNoSnapshot, clip(text), i.Created.UTC().Format(time.RFC3339), v.name, id)
	case 1:
		return i, nil
	}
	return SnapshotInfo{}, fmt.Errorf("%w: %q: %d were made in that second; `fractal-lazy snapshots %s` lists them with their names", ErrNoSnapshot, clip(text), n, v.name)
}

// manifestOf returns the manifest of a published snapshot.
func (m *Manager) manifestOf(ctx context.Context, v *vol, i SnapshotInfo) (*hive.Manifest, error) {
	h, err := hive.ParseHash(i.Hash)
	if err != nil {
		return nil, err
	}
	if m.d.Hive == nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, errNoHive)
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	mf, err := m.d.Hive.Manifest(ask, v.pub, h)
	if err != nil {
		return nil, fmt.Errorf("%w: manifest of generation %d: %w", ErrNotReady, i.Generation, err)
	}
	return mf, nil
}
