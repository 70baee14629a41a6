package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// built is what came of a build.
type built struct {
	root      cid.Cid
	stats     snapshot.Stats
	chunkSize uint32
	way       Way
}

// build makes the tree of the snapshot and stores its blocks. Where the way by the kernel's changes fails, and neither ctx
// nor the store is to blame, it walks: a volume must not stay unpublished over what only was to save time.
func (p *Publisher) build(ctx context.Context, j *Job, progress *reporter) (built, error) {
	b, err := p.buildOnce(ctx, j, progress, p.walkOnly)
	if err == nil || b.way != WayChanges || ctx.Err() != nil || ofStore(err) {
		return b, err
	}
	p.log.Warn().Err(err).Str("volume", j.Volume).Str("op", "publish").Msg("cannot build by what changed; the whole volume is compared")
	return p.buildOnce(ctx, j, progress, true)
}

// ofStore reports whether err is the block store's.
func ofStore(err error) bool {
	for _, is := range []error{store.ErrNotFound, store.ErrCorrupt, store.ErrUnavailable, store.ErrDenied, store.ErrTooLarge} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// buildOnce is one try. After an error, way is that of the try.
func (p *Publisher) buildOnce(ctx context.Context, j *Job, progress *reporter, walkOnly bool) (built, error) {
	info, err := backing.Info(j.Snapshot)
	if err != nil {
		return built{}, err
	}
	if !info.Readonly {
		return built{}, fmt.Errorf("%s: %w", j.Snapshot, ErrWritable)
	}
	tree, err := backing.OpenTree(j.Snapshot)
	if err != nil {
		return built{}, err
	}
	defer tree.Close()

	sealer := j.Key.Sealer()
	w := &walker{tree: tree, reader: snapshot.NewReader(p.nodes, sealer), log: p.log.With().Str("volume", j.Volume).Logger()}
	source, err := mark.GetSource(mark.FD(tree.RootFD()))
	if err != nil {
		return built{}, err
	}
	w.foreign = source != nil && source.Pubkey != [32]byte(j.Key.Public())
	opt := snapshot.Options{ChunkSize: j.chunkSize(), Compression: j.Compression, Progress: progress.read}
	base, done, err := p.openBase(ctx, j, w, sealer, &opt)
	if err != nil {
		return built{}, fmt.Errorf("read the base: %w", err)
	}
	defer done()
	if opt.Unsure = base == nil; base != nil {
		opt.Features = base.Features
	}

	b := built{chunkSize: opt.ChunkSize, way: WayWalk}
	var root snapshot.Node
	set, err := p.changesOf(ctx, j, w, &info, walkOnly)
	if err != nil {
		return built{}, err
	}
	if set != nil {
		b.way = WayChanges
		if set.none() && base.ChunkSize == opt.ChunkSize {
			b.root = j.source().Root
			return b, nil
		}
		patch, err := newPatcher(w, w.origin.tree, base.Dir, set)
		if err != nil {
			return b, err
		}
		defer patch.close()
		patch.whole = p.whole
		if root, err = patch.root(ctx); err != nil {
			return b, err
		}
	} else {
		was := counterpart{}
		if base != nil {
			was.ref = &base.Dir
		}
		if w.origin != nil {
			was.ino = backing.RootIno
		}
		if root, err = w.root(was); err != nil {
			return b, err
		}
	}

	up := newUploader(ctx, p.store, !j.Base.Root.Defined() && !j.source().Root.Defined(), j.Line, progress.sent)
	defer up.Abort()
	opt.Trace = workingSet(j, tree, &info, base, sentFirst{p.nodes, up}, sealer)
	if b.root, _, b.stats, err = snapshot.Build(ctx, root, &cachingSink{up, p.nodes}, sealer, opt); err != nil {
		return b, err
	}
	progress.phase("upload")
	if err := up.Finish(); err != nil {
		return b, fmt.Errorf("upload: %w", err)
	}
	return b, nil
}

// changesOf asks the kernel what changed since the base, and returns nil where that cannot be known, or is too much: then
// walking is the way to go. It fails only where ctx ends.
//
// Both must be snapshots of one subvolume: in another one, equal inode numbers mean nothing.
func (p *Publisher) changesOf(ctx context.Context, j *Job, w *walker, info *backing.Subvolume, walkOnly bool) (*changes, error) {
	if w.origin == nil || walkOnly {
		return nil, nil
	}
	was := &w.origin.info
	if info.ParentUUID != was.ParentUUID || info.ParentUUID == [16]byte{} || info.CreatedTransid < was.CreatedTransid {
		return nil, nil
	}
	begin := time.Now()
	set, err := readChanges(ctx, w.origin.tree, w.tree, p.maxChanges)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	log := w.log.With().Str("op", "find changes").Dur("took", time.Since(begin)).Logger()
	switch {
	case errors.Is(err, errTooMany):
		log.Info().Int("limit", p.maxChanges).Msg("more changed than is kept in memory; the whole volume is compared")
		return nil, nil
	case err != nil:
		log.Warn().Err(err).Msg("the kernel does not tell what changed; the whole volume is compared")
		return nil, nil
	}
	log.Debug().Int("changes", set.size).Msg("changes found")
	return set, nil
}

// openBase gives the walker and the builder what can be taken from the base, and returns its root, nil where there is nothing. done frees it.
func (p *Publisher) openBase(ctx context.Context, j *Job, w *walker, s *seal.Sealer, opt *snapshot.Options) (top *wire.Root, done func(), err error) {
	done = func() {}
	from := j.source()
	if !from.Root.Defined() || p.isLost(from.Root) {
		return nil, done, nil
	}
	seen := &known{nodes: p.nodes, set: map[[32]byte]struct{}{}}
	w.base = snapshot.NewReader(seen, s)
	root, err := w.base.Root(ctx, from.Root)
	if err != nil {
		return nil, done, err
	}
	opt.Have = seen.has
	if from.Local == "" {
		return &root, done, nil
	}
	w.origin, err = openOrigin(from.Local)
	if errors.Is(err, fs.ErrNotExist) { // removed, as local snapshots may be at any time
		return &root, done, nil
	}
	if err != nil {
		return nil, done, err
	}
	return &root, func() { w.origin.tree.Close() }, nil
}
