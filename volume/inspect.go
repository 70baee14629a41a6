package volume

import (
	"maps"
	"slices"

	"fractal-lazy/lazy"
)

// List returns all volumes, by name. It answers from memory.
func (m *Manager) List() []Info {
	_ = m.ready() // without a pool there are no volumes; Health says why
	var out []Info
	for _, v := range m.all() {
		out = append(out, v.info())
	}
	return out
}

// Get returns one volume. It answers from memory.
func (m *Manager) Get(name string) (Info, error) {
	v, err := m.lookup(name)
	if err != nil {
		return Info{}, err
	}
	return v.info(), nil
}

func (v *vol) info() Info {
	v.mu.Lock()
	r, l := v.freshLocked(), v.live
	var f *lazy.Tree // of a Synchronize under way
	if v.follow != nil {
		f = v.follow.tree
	}
	i := Info{
		Name: v.name, Pubkey: v.pub.String(), State: v.stateLocked(), OfflineWhy: v.offline, LockedWhy: v.locked,
		Unpublished: r.count(kindPending), UploadPhase: v.uploadIs.Phase, UploadBytes: v.uploadIs.Done, UploadError: v.problem,
		Mounts: slices.Sorted(maps.Keys(v.ids)), Options: v.set.effective(), Created: r.Created, CloneOf: r.Source,
	}
	if i.UploadError == "" {
		i.UploadError = v.snapWhy
	}
	i.LeftOut = v.leftOut
	v.mu.Unlock()
	if i.Mounts == nil {
		i.Mounts = []string{}
	}
	if r.Base != nil {
		i.Generation = r.Base.Generation
	}
	if r.Replicated != nil {
		t := *r.Replicated
		i.LastReplicated = &t
	}
	if r.Fence != nil {
		i.Fenced, i.FencedBy = true, r.Fence.By
	}
	for _, s := range r.Snapshots {
		if s.Kind == kindDivergent {
			i.Divergent = append(i.Divergent, v.snap(s.ID))
		}
	}
	i.BytesTotal, i.BytesRemote = r.Totals.BytesTotal, r.Totals.BytesRemote
	i.FilesTotal, i.FilesRemote = r.Totals.FilesTotal, r.Totals.FilesRemote
	if r.Seen != nil {
		i.Newest = r.Seen.Generation
	}
	if r.Follow != nil {
		i.Synchronized = r.Follow.Synced
	}
	if l != nil {
		i.fill(l)
	} else if f != nil {
		s := f.Status()
		i.BytesFetched, i.BytesTaken, i.Rate, i.ETASeconds = s.BytesFetched, s.BytesTaken, s.Rate, s.ETA.Seconds()
		i.BytesRemote, i.FilesRemote = s.BytesRemote, s.FilesRemote
	}
	return i
}

// fill adds what a mounted volume says of itself.
func (i *Info) fill(l *live) {
	i.Mountpoint, i.Mount, i.MountWhy = l.path, l.how, l.why
	if l.size != nil {
		i.SizeUsed, i.SizeSoft = l.size.status()
	}
	s := l.lazy.Status()
	i.BytesRemote, i.FilesRemote = s.BytesRemote, s.FilesRemote
	if !s.Complete { // of a complete volume it knows no totals any more
		i.BytesTotal, i.FilesTotal = s.BytesTotal, s.FilesTotal
	}
	i.BytesFetched, i.BytesTaken, i.Rate, i.ETASeconds = s.BytesFetched, s.BytesTaken, s.Rate, s.ETA.Seconds()
	i.StalledWhy, i.Paused = s.StalledWhy, s.Paused
	if !s.StalledSince.IsZero() {
		t := s.StalledSince
		i.StalledSince = &t
	}
	if i.State == StateHydrating && s.Complete {
		i.State = StateComplete
	}
}

// stateLocked names the state; a mounted volume that is complete is told apart by fill.
func (v *vol) stateLocked() string {
	switch {
	case v.locked != "":
		return StateLocked
	case v.isView():
		return StateSnapshot
	case v.rec.Fence != nil:
		return StateFenced
	case v.live != nil && v.offline != "":
		return StateOffline
	case v.live != nil:
		return StateHydrating
	case v.prep != nil:
		return StatePreparing
	case v.rec.Release || v.rec.pending() != nil:
		return StateUploading
	case v.rec.Follow != nil:
		return StateFollowing
	case v.rec.Base == nil && len(v.rec.Snapshots) == 0:
		return StateNew
	}
	return StateUnmounted
}
