package volume

import (
	"path/filepath"

	"fractal-lazy/lazy"
	marks "fractal-lazy/mark"
	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"

	"github.com/ipfs/go-cid"
)

// maxSources bounds the older states that a volume's data is taken from.
const maxSources = 4

// sources lists what this machine still has of a volume that is being fetched: its local snapshots of which it is known what they were published as.
// The whole ones come first, then the newest. Of a view they are those of the volume that it shows, and of a clone that is not all here those of its
// origin, whose blocks it is made of.
func (m *Manager) sources(v *vol) []lazy.Source {
	owner := m.madeFrom(v)
	if owner == nil {
		return nil
	}
	r := owner.record()
	var whole, half []lazy.Source
	add := func(s *snapRecord, b *baseRecord) {
		path := owner.snap(s.ID)
		root, err := cid.Decode(b.Root)
		if err != nil || !owner.has(path) {
			return
		}
		remote, err := lazy.Remote(path)
		src := lazy.Source{Path: path, Generation: s.Gen, Root: root}
		switch {
		case err != nil:
			m.logger(v, "mount").Warn().Err(err).Str("snapshot", s.ID).Msg("an old snapshot cannot be looked at, and is not used")
		case remote.Defined() && s.Kind == kindBase:
			// The data grew on from it: it lacks what the data lacks.
		case remote.Defined():
			half = append(half, src)
		default:
			whole = append(whole, src)
		}
	}
	for i := len(r.Snapshots) - 1; i >= 0; i-- {
		s := &r.Snapshots[i]
		switch {
		case s.Kind == kindOld && s.Published != nil:
			add(s, s.Published)
		case s.Kind == kindBase && r.Base != nil && r.Base.Local == s.ID:
			add(s, r.Base)
		}
	}
	all := append(whole, half...)
	return all[:min(len(all), maxSources)]
}

// madeFrom is the volume whose blocks the data of v is made of; nil where that is not on this machine.
func (m *Manager) madeFrom(v *vol) *vol {
	pub := v.pub
	if of, err := marks.GetSource(v.data()); err == nil && of != nil {
		pub = seal.Pubkey(of.Pubkey)
	}
	if pub == v.pub && !v.isView() {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byKey(pub)
}

// nodeCache is where published nodes are kept on this machine.
func (m *Manager) nodeCache() snapshot.Getter {
	return replica.CachedNodes{Dir: filepath.Join(m.o.Root, "nodes")}
}
