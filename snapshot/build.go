package snapshot

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
)

const (
	seenBlocks  = 16384 // CIDs remembered, so as not to put a block twice
	seenLinks   = 4096  // inodes with several names remembered, so as not to read them twice
	queuedTasks = 64    // between the walker and the workers; bounds open files too
)

// Build makes the snapshot of root (an Entry of a directory with an empty
// Name) and returns its root CID. Deterministic: equal trees with equal
// references give equal blocks. Memory is bounded by a page and an index node
// for each level on the path, and the packs under construction with what
// waits for them. It returns when all its goroutines have ended and all files
// are closed.
//
// The calling goroutine walks the tree and alone decides where everything
// goes; workers read, compress, seal and put. So timing decides nothing.
func Build(ctx context.Context, root Node, sink Sink, s *seal.Sealer, opt Options) (cid.Cid, wire.Root, Stats, error) {
	b, err := newBuilder(ctx, sink, s, opt)
	if err != nil {
		return cid.Undef, wire.Root{}, Stats{}, fmt.Errorf("build snapshot: %w", err)
	}
	c, top, err := b.build(root)
	if err != nil {
		return cid.Undef, wire.Root{}, b.stats(), fmt.Errorf("build snapshot: %w", err)
	}
	return c, top, b.stats(), nil
}

type builder struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	sink   Sink
	sealer *seal.Sealer
	opt    Options
	tasks  chan task
	seen   *lru.Cache[cid.Cid, struct{}]

	// The walker's own.
	walker *worker
	links  *lru.Cache[uint64, *builtFile]
	pack   *pack         // open, or nil
	packs  chan []byte   // buffers of packs that are not in work
	root   *wire.DirRef  // set by the last join of the root directory
	ended  chan struct{} // closed with it

	patched atomic.Bool // a window has a patch
	unseen  atomic.Bool // something was taken by reference of which not all windows were looked at

	files, dirs, bytesRead, blocks, bytes, kept, filesDone atomic.Uint64
}

// task is work for a worker. Its file, where set, stays open until it is done.
type task struct {
	file *openFile
	run  func(w *worker)
}

// worker has what one goroutine needs for itself.
type worker struct {
	*encoder
	buf []byte // a spare byte and one chunk
}

func newBuilder(ctx context.Context, sink Sink, s *seal.Sealer, opt Options) (*builder, error) {
	if opt.ChunkSize == 0 {
		opt.ChunkSize = wire.DefChunk
	}
	if !wire.ValidChunk(opt.ChunkSize) {
		return nil, fmt.Errorf("chunk size %d: want a power of two from %d to %d", opt.ChunkSize, wire.MinChunk, wire.MaxChunk)
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	b := &builder{
		sink: sink, sealer: s, opt: opt,
		tasks: make(chan task, queuedTasks),
		packs: make(chan []byte, opt.Workers+2),
		ended: make(chan struct{}),
	}
	for range cap(b.packs) {
		b.packs <- nil // made when it is first needed
	}
	var err error
	if b.walker, err = b.newWorker(); err != nil {
		return nil, err
	}
	if b.seen, err = lru.New[cid.Cid, struct{}](seenBlocks); err != nil {
		return nil, err
	}
	if b.links, err = lru.New[uint64, *builtFile](seenLinks); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	return b, nil
}

func (b *builder) newWorker() (*worker, error) {
	e, err := newEncoder(b.opt.Compression)
	return &worker{encoder: e}, err
}

func (b *builder) build(root Node) (cid.Cid, wire.Root, error) {
	defer b.cancel(nil)
	var running sync.WaitGroup
	for range b.opt.Workers {
		w, err := b.newWorker()
		if err != nil {
			b.cancel(err)
			break
		}
		running.Go(func() {
			for t := range b.tasks {
				if b.ctx.Err() == nil {
					t.run(w)
				}
				b.release(t.file)
			}
		})
	}
	if err := b.walk(root); err != nil {
		b.cancel(err)
	}
	close(b.tasks)
	running.Wait()
	if b.ctx.Err() != nil {
		return cid.Undef, wire.Root{}, context.Cause(b.ctx)
	}
	select {
	case <-b.ended:
	default:
		return cid.Undef, wire.Root{}, errors.New("the tree was not finished; this is a bug")
	}
	top := wire.Root{Features: b.features(), ChunkSize: b.opt.ChunkSize, Attr: root.Attr, Dir: *b.root}
	if b.opt.Trace != nil {
		var err error
		if top.Trace, err = b.opt.Trace(b.ctx, &top.Dir, b.putTrace); err != nil {
			return cid.Undef, wire.Root{}, fmt.Errorf("working set: %w", err)
		}
	}
	links, payload, err := wire.EncodeRoot(&top)
	if err != nil {
		return cid.Undef, wire.Root{}, err
	}
	c, err := b.putNode(b.walker, seal.KindRoot, links, payload)
	return c, top, err
}

func (b *builder) walk(root Node) error {
	if root.Mode&wire.ModeType != wire.ModeDir || root.Name != "" {
		return fmt.Errorf("%w: the root must be a directory without a name", wire.ErrFormat)
	}
	if root.Dir != nil {
		b.kept.Add(root.Dir.Files)
		b.unseen.Store(true)
		b.root = root.Dir
		close(b.ended)
		return nil
	}
	if _, err := b.dir("", &root, func(_ *worker, ref wire.DirRef) {
		b.root = &ref
		close(b.ended)
	}); err != nil {
		return err
	}
	return b.closePack()
}

// submit hands work to the workers. Where the build has failed already it only
// gives up the file.
func (b *builder) submit(file *openFile, run func(w *worker)) error {
	if file != nil {
		file.users.Add(1)
	}
	select {
	case b.tasks <- task{file, run}:
		return nil
	case <-b.ctx.Done():
		b.release(file)
		return context.Cause(b.ctx)
	}
}

// fail ends the build with its first error.
func (b *builder) fail(err error) { b.cancel(err) }

// put stores a block, unless that was done before.
func (b *builder) put(codec uint64, data []byte) (cid.Cid, error) {
	c := store.Sum(codec, data)
	if b.seen.Contains(c) {
		return c, nil
	}
	if b.opt.Have == nil || !b.opt.Have(c) {
		if err := b.sink.Put(b.ctx, store.Block{CID: c, Data: data}); err != nil {
			return cid.Undef, fmt.Errorf("put block %s: %w", c, err)
		}
		b.blocks.Add(1)
		b.bytes.Add(uint64(len(data)))
	}
	b.seen.Add(c, struct{}{})
	return c, nil
}

func (b *builder) putNode(w *worker, kind seal.Kind, links []cid.Cid, payload []byte) (cid.Cid, error) {
	block, err := w.sealNode(b.sealer, kind, links, payload)
	if err != nil {
		return cid.Undef, err
	}
	return b.put(store.DagCBOR, block)
}

func (b *builder) putTrace(t *wire.Trace) (cid.Cid, error) {
	links, payload, err := wire.EncodeTrace(t)
	if err != nil {
		return cid.Undef, err
	}
	return b.putNode(b.walker, seal.KindTrace, links, payload)
}

func (b *builder) progress() {
	if b.opt.Progress != nil {
		b.opt.Progress(b.filesDone.Load(), b.bytesRead.Load())
	}
}

func (b *builder) stats() Stats {
	return Stats{
		Files: b.files.Load(), Dirs: b.dirs.Load(), BytesRead: b.bytesRead.Load(),
		Blocks: b.blocks.Load(), Bytes: b.bytes.Load(), FilesKept: b.kept.Load(),
	}
}
