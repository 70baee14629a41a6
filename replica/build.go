package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
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
	sealer := j.Key.Sealer()
	pl, err := p.plan(ctx, j, p.nodes, nil, walkOnly)
	b := built{chunkSize: pl.opt.ChunkSize, way: pl.way}
	if err != nil {
		return b, err
	}
	defer pl.close()
	if pl.same {
		b.root = j.source().Root
		return b, nil
	}
	up := newUploader(ctx, p.store, !j.Base.Root.Defined() && !j.source().Root.Defined(), j.Line, progress.sent)
	defer up.Abort()
	pl.opt.Progress = progress.read
	pl.opt.Trace = workingSet(j, pl.tree, &pl.info, pl.base, sentFirst{p.nodes, up}, sealer)
	if b.root, _, b.stats, err = snapshot.Build(ctx, pl.root, &cachingSink{up, p.nodes}, sealer, pl.opt); err != nil {
		return b, err
	}
	progress.phase("upload")
	if err := up.Finish(); err != nil {
		return b, fmt.Errorf("upload: %w", err)
	}
	return b, nil
}

// plan is a tree that is ready to be built.
type plan struct {
	tree *backing.Tree
	info backing.Subvolume
	base *wire.Root // nil: there is nothing to take from
	root snapshot.Node
	opt  snapshot.Options
	way  Way
	same bool // nothing changed since the base

	open []func()
}

// close frees what the plan holds.
func (pl *plan) close() {
	for _, f := range slices.Backward(pl.open) {
		f()
	}
	pl.open = nil
}

// plan finds out what of the snapshot is taken from where; nodes are read from get. out, where set, makes an outline of it. After an error, which frees it, way is
// that of the try.
func (p *Publisher) plan(ctx context.Context, j *Job, get snapshot.Getter, out *outliner, walkOnly bool) (pl *plan, err error) {
	pl = &plan{}
	defer func() {
		if err != nil {
			pl.close()
		}
	}()
	if pl.info, err = backing.Info(j.Snapshot); err != nil {
		return pl, err
	}
	if !pl.info.Readonly {
		return pl, fmt.Errorf("%s: %w", j.Snapshot, ErrWritable)
	}
	if pl.tree, err = backing.OpenTree(j.Snapshot); err != nil {
		return pl, err
	}
	pl.open = append(pl.open, func() { pl.tree.Close() })

	sealer := j.Key.Sealer()
	w := &walker{tree: pl.tree, reader: snapshot.NewReader(get, sealer), log: p.log.With().Str("volume", j.Volume).Logger(), out: out}
	source, err := mark.GetSource(mark.FD(pl.tree.RootFD()))
	if err != nil {
		return pl, err
	}
	w.foreign = source != nil && source.Pubkey != [32]byte(j.Key.Public())
	pl.opt = snapshot.Options{ChunkSize: j.chunkSize(), Compression: j.Compression, NoPatches: j.NoPatches}
	base, done, err := p.openBase(ctx, j, w, get, sealer, &pl.opt)
	if err != nil {
		return pl, fmt.Errorf("read the base: %w", err)
	}
	pl.base, pl.open = base, append(pl.open, done)
	if pl.opt.Unsure = base == nil; base != nil {
		pl.opt.Features = base.Features
	}
	if out != nil {
		out.id = pl.info.UUID
		if base != nil {
			pl.opt.ChunkSize = base.ChunkSize // windows of another size cannot be compared
		}
	}

	set, err := p.changesOf(ctx, j, w, &pl.info, walkOnly)
	if err != nil {
		return pl, err
	}
	if set == nil {
		pl.way = WayWalk
		was := counterpart{}
		if base != nil {
			was.ref = &base.Dir
		}
		if w.origin != nil {
			was.ino = backing.RootIno
		}
		w.search = base == nil && !p.noSearch
		pl.root, err = w.root(was)
		return pl, err
	}
	pl.way = WayChanges
	if set.none() && base.ChunkSize == pl.opt.ChunkSize {
		pl.same = true
		return pl, nil
	}
	patch, err := newPatcher(w, w.origin.tree, base.Dir, set)
	if err != nil {
		return pl, err
	}
	pl.open = append(pl.open, patch.close)
	patch.whole = p.whole
	pl.root, err = patch.root(ctx)
	return pl, err
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
func (p *Publisher) openBase(ctx context.Context, j *Job, w *walker, get snapshot.Getter, s *seal.Sealer, opt *snapshot.Options) (top *wire.Root, done func(), err error) {
	done = func() {}
	from := j.source()
	if !from.Root.Defined() || p.isLost(from.Root) {
		return nil, done, nil
	}
	seen := &known{nodes: get, set: map[[32]byte]struct{}{}}
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
