package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/lazy"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// baseOf is the record of a published manifest.
func baseOf(mf *hive.Manifest, chunkSize uint32) (*baseRecord, error) {
	const scheme = "ipfs://"
	if len(mf.Data) <= len(scheme) || mf.Data[:len(scheme)] != scheme {
		return nil, fmt.Errorf("manifest of generation %d: its data is not at an ipfs:// address", mf.Generation)
	}
	root, err := cid.Decode(mf.Data[len(scheme):])
	if err == nil {
		err = checkRoot(root.String())
	}
	if err != nil {
		return nil, fmt.Errorf("manifest of generation %d: %w", mf.Generation, err)
	}
	return &baseRecord{
		Generation: mf.Generation, Hash: mf.Hash().String(), Root: root.String(), Size: mf.Size, SizeTotal: mf.SizeTotal,
		ChunkSize: chunkSize, Created: createdAt(mf), Machine: mf.Machine.String(),
	}, nil
}

// createdAt is the time of a manifest; what is later than JSON can say is the last second that it can.
func createdAt(mf *hive.Manifest) time.Time {
	const last = 253402300799 // 9999-12-31T23:59:59Z
	return time.Unix(int64(min(mf.Creation, last)), 0).UTC()
}

// replaceData makes data show the snapshot mf, or be empty where mf is nil.
// What was there becomes a local snapshot of the given kind. The step is held.
//
// Order: 1. data.new is made, and on the disk; 2. the record says so (Swap);
// 3. data is renamed to its snapshot, if there is one; 4. data.new is renamed to
// data; 5. the record describes the new data. A crash before 2 leaves a
// data.new that the next Open throws away; one after 2 is finished by finishSwap at the next Open.
func (m *Manager) replaceData(ctx context.Context, v *vol, mf *hive.Manifest, kind string) error {
	if v.has(v.data()) {
		if err := v.record().roomError(); err != nil {
			return err
		}
	}
	// The worker must not publish, or record, a state that goes away.
	m.stopWork(v)
	if v.has(v.next()) {
		if err := m.toTrash(v.next()); err != nil {
			return err
		}
	}
	if err := backing.CreateSubvolume(v.next()); err != nil {
		return fmt.Errorf("make the volume's subvolume: %w", err)
	}
	var swap swapRecord
	if mf == nil {
		if err := m.prepareRoot(v); err != nil {
			return err
		}
	} else {
		base, err := baseOf(mf, 0)
		if err != nil {
			return err
		}
		root, _ := cid.Decode(base.Root) // baseOf decoded it
		limit, cancel := context.WithTimeout(ctx, rootTimeout)
		defer cancel()
		r, err := lazy.Create(limit, v.next(), m.store, v.key.Sealer(), root)
		if err != nil {
			return fmt.Errorf("begin from generation %d: %w", mf.Generation, err)
		}
		base.ChunkSize = r.ChunkSize
		swap.Base = base
		swap.Totals = &totals{BytesTotal: r.Dir.Bytes, BytesRemote: r.Dir.Bytes, FilesTotal: r.Dir.Files, FilesRemote: r.Dir.Files}
	}
	if err := backing.SyncFS(v.next()); err != nil {
		return err
	}
	if v.has(v.data()) {
		swap.Keep, swap.Kind = newSnapshotID(), kind
	}
	if err := v.intend(func(r *record) { r.Swap = &swap }); err != nil {
		return err
	}
	return m.finishSwap(v)
}

// rootTimeout bounds the fetch of the one block that a restored volume begins
// with. Mount has long answered then; the next one tries again.
const rootTimeout = 2 * time.Minute

// flagNoCOW is FS_NOCOW_FL of linux/fs.h; new files and folders inherit it.
const flagNoCOW = 0x00800000

// prepareRoot sets what has to be there before the first file is. A restored
// volume has the flags of its snapshot instead.
func (m *Manager) prepareRoot(v *vol) error {
	fd, err := unix.Open(v.next(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", v.next(), err)
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return fmt.Errorf("chmod %s: %w", v.next(), err)
	}
	if v.set.noCOW {
		flags, err := backing.GetFlags(fd)
		if err == nil {
			err = backing.SetFlags(fd, flags|flagNoCOW)
		}
		if err != nil {
			return fmt.Errorf("set nocow on %s: %w", v.next(), err)
		}
	}
	return nil
}

// finishLeft finishes what a replacement or a restore left that failed half-way. The step is held.
func (m *Manager) finishLeft(v *vol) error {
	if v.record().Swap == nil {
		return nil
	}
	m.stopWork(v) // as replaceData does
	return m.finishSwap(v)
}

// finishSwap does steps 3 to 5 of replaceData, or of restoreData, from wherever they were left.
func (m *Manager) finishSwap(v *vol) error {
	r := v.record()
	w := r.Swap
	if v.has(v.next()) {
		if w.Keep != "" && !v.has(v.snap(w.Keep)) {
			if err := os.Rename(v.data(), v.snap(w.Keep)); err != nil {
				return fmt.Errorf("keep the data that was here: %w", err)
			}
		}
		if w.From != nil { // a snapshot was taken of it
			if err := m.toTrash(v.data()); err != nil {
				return err
			}
		}
		if err := os.Rename(v.next(), v.data()); err != nil {
			return fmt.Errorf("put the new data in place: %w", err)
		}
	}
	if w.Keep != "" {
		if err := backing.SetReadonly(v.snap(w.Keep), true); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("keep the data that was here: %w", err)
		}
	}
	if err := backing.SyncFS(v.dir); err != nil {
		return err
	}
	source, err := sourceOf(v, v.data())
	if err != nil {
		return err
	}
	if w.From != nil {
		return m.restored(v, source)
	}
	gen, err := backing.Generation(v.data())
	if err != nil {
		return err
	}
	var kept uint64
	if w.Keep != "" {
		if kept, err = backing.Generation(v.snap(w.Keep)); err != nil {
			return err
		}
	}
	var useless []string
	outlived, err := m.outlived(v, r)
	if err != nil {
		return err
	}
	err = v.update(func(r *record) {
		// What was kept holds all that these hold: it grew out of them. But where it is divergent, the base says more: it is just what
		// was published, so what the new data has in common with it need not be fetched.
		if w.Keep != "" {
			useless = r.setAside("")
		}
		for i := range r.Snapshots {
			s := &r.Snapshots[i]
			if s.Kind == kindBase && w.Kind == kindDivergent && r.Base != nil && r.Base.Local == s.ID {
				b := *r.Base
				b.Local = ""
				s.Kind, s.Published = kindOld, &b
				continue
			}
			superseded := s.Kind == kindBase || slices.Contains(outlived, s.ID) ||
				r.Fence != nil && s.ID == r.Fence.Snapshot
			if superseded && w.Keep != "" {
				useless = append(useless, s.ID)
			}
		}
		for _, id := range useless {
			r.drop(id)
		}
		if w.Keep != "" && r.snapshot(w.Keep) == nil {
			s := snapRecord{ID: w.Keep, Kind: w.Kind, Created: m.now().UTC(), Gen: kept}
			if w.Kind == kindOld && r.From == nil && r.Base != nil { // equal to it, or it would be divergent
				b := *r.Base
				b.Local = ""
				s.Published = &b
			}
			r.Snapshots = append(r.Snapshots, s)
		}
		r.Base, r.From, r.Swap, r.Fence = w.Base, nil, nil, nil
		if !v.isView() { // which is never published, and ends with its mount
			r.Source = source // none, unless it is a clone in the making
		}
		r.SavedGen = gen
		r.Totals = totals{}
		if w.Totals != nil {
			r.Totals = *w.Totals
		}
		if w.Base != nil {
			r.see(w.Base.Generation, w.Base.Hash)
			r.Replicated = &w.Base.Created
		} else {
			r.SavedGen = 0 // an empty volume is to be published, too
		}
	})
	if err != nil {
		return err
	}
	return m.toTrash(v.snapPaths(useless)...)
}

// maxOld bounds the old snapshots that are kept beside a newer one.
const maxOld = 2

// outlived lists the old snapshots that a swap makes useless: all that there are, once there is a newer one that is whole. One that is half
// fetched may lack what an older one still has, and the new data can take from both.
func (m *Manager) outlived(v *vol, r *record) (ids []string, err error) {
	newer := ""
	switch {
	case r.Swap.Kind == kindOld:
		newer = r.Swap.Keep
	case r.Swap.Kind == kindDivergent && r.Base != nil:
		newer = r.Base.Local
	}
	if newer == "" || !v.has(v.snap(newer)) {
		return nil, nil
	}
	remote, err := lazy.Remote(v.snap(newer))
	if err != nil {
		return nil, err
	}
	for _, s := range r.Snapshots {
		if s.Kind == kindOld && s.ID != newer {
			ids = append(ids, s.ID)
		}
	}
	if remote.Defined() && len(ids) < maxOld {
		return nil, nil
	}
	if remote.Defined() {
		ids = ids[:len(ids)-maxOld+1] // they ascend by time
	}
	return ids, nil
}
