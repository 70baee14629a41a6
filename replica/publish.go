package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// Publisher uploads snapshots. Safe for concurrent use.
type Publisher struct {
	store store.Store
	hive  Hive
	nodes *nodes
	log   zerolog.Logger

	mu sync.Mutex
	// lost holds the roots of bases that the store turned out not to have in full: nothing is taken from them.
	lost map[cid.Cid]bool

	maxChanges int  // that the change set of a Job may hold
	walkOnly   bool // the kernel is not asked for changes
	whole      bool // every directory is listed, though the changes are known
	noSearch   bool // no file is looked up in the subvolume's tree
}

// New returns a Publisher. It does nothing until Publish is called.
func New(d Deps) *Publisher {
	return &Publisher{
		store: d.Store, hive: d.Hive, log: d.Log,
		nodes: &nodes{dir: d.Nodes, store: d.Store, log: d.Log},
		lost:  map[cid.Cid]bool{}, maxChanges: maxChanges,
	}
}

// Publish makes the snapshot of j known to the world: blocks and nodes, pin, manifest. It does not retry; called again with the same
// Job after an error or a kill it goes on, and ends with the same root CID.
//
// Errors: ErrFenced, ErrBehind, ErrWritable; those of package store, of package hive, and of reading the snapshot, which name the
// path within it.
func (p *Publisher) Publish(ctx context.Context, j Job) (Result, error) {
	pub := j.Key.Public()
	name := j.volumeName(pub)
	begin := time.Now()
	r, root, err := p.publish(ctx, &j, pub)
	if err != nil {
		p.distrust(&j, err)
		return Result{}, fmt.Errorf("publish snapshot of volume %s: %w", name, err)
	}
	p.log.Debug().Str("volume", name).Str("op", "publish").Stringer("cid", root).Dur("took", time.Since(begin)).
		Uint64("generation", r.Base.Generation).Bool("unchanged", r.Unchanged).Str("way", string(r.Way)).
		Uint64("read", r.Stats.BytesRead).Uint64("added", r.Stats.Bytes).Msg("snapshot published")
	return r, nil
}

// Order:
//
//  1. Blocks, children before parents within the build, in any order across batches. After a crash: unpinned
//     blocks in the store. The next attempt builds the same ones and finds them there, or a collection took
//     them and they are sent again.
//  2. Job.Pinning, then the pin of the root, which fails where a block below it is missing. After a crash: a pin that no
//     manifest names. The next attempt ends with the same root and finds it pinned; where none comes, the caller of Pinning knows it.
//  3. The writer is asked for: a machine that lost the volume stops here. (The Hive checks it again with the
//     manifest, in one transaction; this one saves the other machine the noise, and gives a clear error.)
//  4. The manifest. After a crash the Hive may hold it and nobody here know: the next attempt signs
//     the same bytes, which the Hive takes again.
//  5. The pin is looked for. Another machine may have given it up before it could know of the manifest, where the same root was left over from an
//     attempt of its own; one that gives it up later sees the manifest. After a crash: that machine looks again, too, or the next attempt does.
//  6. The caller records Result.Base. Before that the old base is still right: the attempt after a crash is 4.
func (p *Publisher) publish(ctx context.Context, j *Job, pub seal.Pubkey) (Result, cid.Cid, error) {
	progress := &reporter{tell: j.Progress}
	// Asking first of all spares a fenced machine the upload. That the Hive does not answer now is no reason to wait with it.
	if err := p.checkWriter(ctx, j, pub); errors.Is(err, ErrFenced) {
		return Result{}, cid.Undef, err
	}

	progress.phase("read")
	b, err := p.build(ctx, j, progress) // 1
	if err != nil {
		return Result{}, cid.Undef, err
	}
	if j.Base.Root.Defined() && b.root.Equals(j.Base.Root) && j.Base.Hash != (hive.Hash{}) {
		if p.isLost(b.root) { // what was missing has been sent
			if err := p.store.Pin(ctx, b.root); err != nil {
				return Result{}, cid.Undef, fmt.Errorf("pin: %w", err)
			}
		}
		return Result{Way: b.way, Base: j.Base, Stats: b.stats, Unchanged: true}, b.root, nil
	}

	progress.phase("pin")
	if j.Pinning != nil {
		if err := j.Pinning(b.root); err != nil {
			return Result{}, cid.Undef, err
		}
	}
	if err := p.pin(ctx, j.source().Root, b.root); err != nil { // 2
		return Result{}, cid.Undef, fmt.Errorf("pin: %w", err)
	}
	progress.phase("publish")
	if err := p.checkWriter(ctx, j, pub); err != nil { // 3
		return Result{}, cid.Undef, err
	}
	m, err := p.post(ctx, j, pub, newManifest(j, b.root, b.stats.Bytes)) // 4
	if err == nil {
		err = pinAgain(ctx, p.store, b.root) // 5
	}
	if err != nil {
		return Result{}, cid.Undef, err
	}
	return Result{Way: b.way, Base: baseOf(j, b.root, m, b.chunkSize), Manifest: m, Stats: b.stats}, b.root, nil
}

// pin protects root, at the cost of its difference from base where that is pinned.
func (p *Publisher) pin(ctx context.Context, base, root cid.Cid) error {
	if base.Defined() && !p.isLost(base) {
		err := p.store.PinUpdate(ctx, base, root)
		if !errors.Is(err, store.ErrNotPinned) {
			return err
		}
	}
	return p.store.Pin(ctx, root)
}

// pinAgain pins root where it is not pinned any more.
func pinAgain(ctx context.Context, s store.Store, root cid.Cid) error {
	is, err := s.Pinned(ctx, root)
	if err == nil && !is {
		err = s.Pin(ctx, root)
	}
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// checkWriter returns ErrFenced where another machine is the volume's writer. None is as good as this one: the manifest takes it.
func (p *Publisher) checkWriter(ctx context.Context, j *Job, pub seal.Pubkey) error {
	v, err := p.hive.Volume(ctx, pub)
	if err != nil {
		return err
	}
	return fenced(v.Writer, j.Machine)
}

func fenced(writer *uuid.UUID, machine uuid.UUID) error {
	if writer != nil && *writer != machine {
		return fmt.Errorf("%w: %s", ErrFenced, writer)
	}
	return nil
}

// post posts m and returns the manifest that the Hive then holds.
func (p *Publisher) post(ctx context.Context, j *Job, pub seal.Pubkey, m *hive.Manifest) (*hive.Manifest, error) {
	_, err := p.hive.Post(ctx, pub, m.Sign(j.Key))
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, hive.ErrRejected) && !errors.Is(err, hive.ErrDenied) {
		return nil, err
	}
	// The reason is text for people. What the Hive holds says which one it is.
	if werr := p.checkWriter(ctx, j, pub); errors.Is(werr, ErrFenced) {
		return nil, fmt.Errorf("%w (%w)", werr, err)
	}
	latest, lerr := p.hive.Latest(ctx, pub)
	switch {
	case lerr != nil:
		return nil, err
	case sameSnapshot(latest, m):
		return latest, nil
	case latest.Generation >= m.Generation:
		return nil, fmt.Errorf("%w: generation %d (%w)", ErrBehind, latest.Generation, err)
	}
	return nil, err
}

// distrust remembers that the store does not have all of a base, so that the next attempt reads and sends everything.
func (p *Publisher) distrust(j *Job, err error) {
	from := j.source().Root
	if !from.Defined() || !(errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt)) {
		return
	}
	p.Distrust(from)
	p.log.Warn().Str("volume", j.Volume).Stringer("cid", from).
		Msg("the store does not have all of the last snapshot; the next attempt sends everything that is here")
}

// Distrust keeps all later Jobs from building on root as their base: the store turned out not to have all of it. What is here is then
// read and sent again, as far as the store lacks it.
func (p *Publisher) Distrust(root cid.Cid) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost[root] = true
}

func (p *Publisher) isLost(c cid.Cid) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost[c]
}

// source is what the snapshot is compared with.
func (j *Job) source() Source {
	if j.Source != nil {
		return *j.Source
	}
	return Source{Root: j.Base.Root, Local: j.Base.Local}
}

func (j *Job) chunkSize() uint32 {
	switch {
	case j.ChunkSize != 0:
		return j.ChunkSize
	case j.Base.ChunkSize != 0:
		return j.Base.ChunkSize
	}
	return wire.DefChunk
}

// cachingSink keeps tree nodes in the local cache on their way: the next walk reads them all.
type cachingSink struct {
	*uploader
	nodes *nodes
}

// Put implements snapshot.Sink.
func (s *cachingSink) Put(ctx context.Context, b store.Block) error {
	s.nodes.put(b.CID, b.Data)
	return s.uploader.Put(ctx, b)
}
