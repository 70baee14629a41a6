package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/hive"
	"fractal-lazy/replica"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// doWork does what the plan says, in order, and stops at the first thing that fails.
func (m *Manager) doWork(ctx context.Context, v *vol, p plan) {
	log := m.logger(v, "work")
	log.Debug().Str("why", p.why).Msg("worker starts")
	if p.takeDown {
		if err := m.takeDown(ctx, v, true); err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("cannot take down a mount that nobody uses")
		}
		return
	}
	if p.unpin {
		err := v.enter(ctx, stepPurge)
		if err == nil {
			err = m.unpinByItself(ctx, v)
			v.leave()
		}
		if ctx.Err() != nil {
			return
		}
		v.mutate(func() { v.unpinAt = m.now().Add(unpinEvery) })
		if err != nil {
			log.Warn().Err(err).Msg("something stays pinned that no snapshot has; it is tried again")
		}
	}
	if p.ask {
		if err := m.confirm(ctx, v); err != nil {
			if errors.Is(err, ErrFenced) || ctx.Err() != nil {
				return
			}
			log.Warn().Err(err).Msg("fencing check failed; it is tried again")
		}
	}
	if p.snapshot {
		_, err := m.snapshotNow(ctx, v)
		if ctx.Err() != nil {
			return
		}
		v.mutate(func() {
			v.snapWhy = ""
			if err != nil {
				// The next try comes at the next interval, or after the backoff.
				v.snapWhy, v.lastSnap = err.Error(), m.now()
				v.retry = v.retry.failed(m.now(), chance())
			} else if v.live == nil {
				v.final = v.rec.From == nil // or it was restored since
			}
		})
		if err != nil {
			log.Error().Err(err).Msg("snapshot failed")
			return
		}
	}
	err := m.publishAll(ctx, v, p)
	if ctx.Err() != nil {
		return
	}
	v.mutate(func() {
		v.uploadIs = Progress{}
		switch {
		case err == nil:
			v.retry, v.problem, v.asked = backoff{}, "", false
		case errors.Is(err, ErrFenced):
			v.retry, v.problem, v.asked = backoff{}, "", false
		default:
			v.retry, v.problem, v.asked = v.retry.failed(m.now(), chance()), err.Error(), false
		}
	})
	if err != nil && !errors.Is(err, ErrFenced) { // fence has logged that
		if f := m.figures(v); f != nil {
			f.UploadFailed()
		}
		log.Warn().Err(err).Time("retry", v.retryAt()).Msg("publishing failed; it is tried again")
	}
}

func (v *vol) retryAt() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.retry.until
}

// publishAll uploads what waits, oldest first, and gives the volume back where the plan says so.
func (m *Manager) publishAll(ctx context.Context, v *vol, p plan) error {
	if p.publish {
		for {
			s := v.record().pending()
			if s == nil {
				break
			}
			if err := m.publish(ctx, v, *s); err != nil {
				return err
			}
		}
	}
	if p.release {
		return m.giveBack(ctx, v)
	}
	return nil
}

// publish uploads one local snapshot.
//
// Order: 1. the Hive confirms that this machine is the writer; 2. blocks, a note of the root (beginPin), pin,
// manifest (package replica); 3. the record; 4. the local snapshot of the
// upload before goes. After a crash between 2 and 3 the same job runs again,
// ends with the same manifest, and the Hive takes it as known. Where it does not run again, as another machine took
// over, the worker unpins what was noted.
func (m *Manager) publish(ctx context.Context, v *vol, s snapRecord) error {
	if m.pub == nil {
		if m.d.Hive == nil {
			return errNoHive
		}
		return errNoStore
	}
	if err := m.confirm(ctx, v); err != nil {
		return err
	}
	r := v.record()
	base, err := r.Base.replica(v.snaps())
	if err != nil {
		return err
	}
	source, err := s.From.source(v.snaps(), base)
	if err != nil {
		return err
	}
	start := time.Now()
	var sent uint64
	endPin := func() {}
	defer func() { endPin() }()
	res, err := m.pub.Publish(ctx, replica.Job{
		Volume: v.name, Key: v.key, Machine: m.id(), Snapshot: v.snap(s.ID), Created: s.Created, Base: base, Source: source,
		ChunkSize: v.set.chunkSize, Compression: v.set.compression, NoPatches: v.set.noPatches, Working: v.working(), Line: m.up.User(v.hurries),
		Pinning: func(root cid.Cid) error {
			end, err := v.beginPin(ctx, here(root.String()))
			if err == nil {
				endPin = end
			}
			return err
		},
		Progress: func(p replica.Progress) {
			v.mutate(func() {
				v.uploadIs, sent = Progress{Phase: p.Phase, Done: max(p.Bytes, p.BytesUploaded)}, p.BytesUploaded
			})
		},
	})
	if isAny(err, replica.ErrFenced, replica.ErrBehind, hive.ErrRejected) {
		return m.refused(ctx, v, err)
	}
	if err != nil {
		return fmt.Errorf("upload snapshot: %w", err)
	}
	root, err := snapshot.NewReader(m.store, v.key.Sealer()).Root(ctx, res.Base.Root)
	if err != nil {
		return fmt.Errorf("read back what was uploaded: %w", err)
	}
	if err := m.published(v, s, res, &root.Dir); err != nil {
		return err
	}
	m.logger(v, "publish").Info().Uint64("generation", res.Base.Generation).Stringer("cid", res.Base.Root).Bool("unchanged", res.Unchanged).
		Str("way", string(res.Way)).
		Uint64("bytes", res.Stats.Bytes).Dur("took", time.Since(start)).Msg("snapshot published")
	if f := m.figures(v); f != nil {
		f.Uploaded(sent, time.Since(start))
	}
	return nil
}

// hurries tells whether somebody waits for the upload: a person, or the machine that is to mount the volume next.
func (v *vol) hurries() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked || v.rec.Release
}

// refused finds out why the Hive did not take a manifest: mostly, because the
// volume is no longer ours.
func (m *Manager) refused(ctx context.Context, v *vol, cause error) error {
	v.mutate(func() { v.claimed = false }) // confirm is to look at the newest manifest too
	if err := m.confirm(ctx, v); err != nil {
		return err
	}
	return fmt.Errorf("upload snapshot: %w", cause)
}

// settledGeneration returns the BTRFS generation that a snapshot keeps from now on. It is not that of its making where the snapshot has files that were removed and still open: BTRFS
// clears them away when somebody first looks into it, which is before it is published.
func settledGeneration(path string) (uint64, error) {
	if err := backing.SyncFS(path); err != nil {
		return 0, err
	}
	return backing.Generation(path)
}

// published records that s is the newest published state.
func (m *Manager) published(v *vol, s snapRecord, res replica.Result, dir *wire.DirRef) error {
	b := &baseRecord{Generation: res.Base.Generation, Hash: res.Base.Hash.String(), Root: res.Base.Root.String(),
		SizeTotal: res.Base.SizeTotal, ChunkSize: res.Base.ChunkSize, Local: s.ID, Created: s.Created, Machine: m.id().String()}
	gen, err := settledGeneration(v.snap(s.ID))
	if err != nil {
		gen = s.Gen // then it may not be used as a source (lazy.Source), and nothing else
	}
	var useless []string
	err = v.update(func(r *record) {
		switch {
		case res.Manifest != nil:
			b.Size = res.Manifest.Size
		case res.Unchanged && r.Base != nil:
			b.Size, b.Created, b.Machine = r.Base.Size, r.Base.Created, r.Base.Machine
		}
		if n := r.snapshot(s.ID); n != nil {
			n.Kind, n.From, n.Gen = kindBase, nil, gen
		}
		for _, o := range r.Snapshots {
			if o.Kind == kindBase && o.ID != s.ID {
				useless = append(useless, o.ID)
			}
		}
		for _, id := range useless {
			r.drop(id)
		}
		r.Base, r.SavedGen, r.Known = b, s.Gen, true
		r.Source = ""
		r.unpinDone(here(b.Root))
		r.see(b.Generation, b.Hash)
		r.Replicated = &s.Created
		r.Totals.BytesTotal, r.Totals.FilesTotal = dir.Bytes, dir.Files
	})
	if err != nil {
		return err
	}
	return m.toTrash(v.snapPaths(useless)...)
}

func (v *vol) snapPaths(ids []string) (paths []string) {
	for _, id := range ids {
		paths = append(paths, v.snap(id))
	}
	return paths
}

// giveBack sets the volume free at the Hive, if it is still ours, not in use,
// and all of it is published. The step keeps a Mount out meanwhile.
func (m *Manager) giveBack(ctx context.Context, v *vol) error {
	if err := v.enter(ctx, stepRelease); err != nil {
		return err
	}
	defer v.leave()
	v.mu.Lock()
	due := v.live == nil && v.prep == nil && v.rec.Release && v.rec.Fence == nil && v.rec.pending() == nil &&
		v.rec.From == nil // restored meanwhile: a snapshot comes first
	v.mu.Unlock()
	if !due {
		return nil
	}
	if err := m.clearWriter(ctx, v); err != nil {
		return fmt.Errorf("give the volume back: %w", err)
	}
	m.logger(v, "release").Info().Msg("volume given back: other machines may mount it")
	return v.update(func(r *record) { r.Release, r.Writer = false, false })
}

// clearWriter makes the writer null where it is this machine. The API has no
// compare-and-set: between the look and the clearing another machine may have
// taken over by force; then it meets a free volume at its next fencing check, and takes it again.
func (m *Manager) clearWriter(ctx context.Context, v *vol) error {
	a := m.ask(ctx, v, false)
	if a.err != nil {
		return a.err
	}
	if a.unknown || a.writer == nil || *a.writer != m.id() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return m.d.Hive.SetWriter(ctx, v.pub, nil)
}
