package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
)

// Bounds of a verification.
const (
	verifying = 16 // blocks asked for at once
	// verified bounds the memory of blocks that were looked at already: at about 150 bytes each. Packs are asked for by neighbours, so one
	// that falls out is rarely asked for again; then it is fetched twice.
	verified = 1 << 16
	// verifiedPatches is how many blocks of patches are kept opened, of at most 512 KiB each: neighbours have their pieces in one.
	verifiedPatches = 8
	maxFindings     = 1000
	verifyTries     = 4
)

// verifyPause is how long the first pause between two tries is; each further one is three times as long.
var verifyPause = 200 * time.Millisecond

// VerifyOptions of Verify. The zero value reads every block.
type VerifyOptions struct {
	// Sample is the share of the blocks of file content to read, above 0 and below 1; anything else: all. Nodes are always read.
	Sample float64
	// Seed chooses the sample: another one takes other blocks.
	Seed uint64
	// Progress may be nil. It is told the bytes of content that were verified and that are to be, from any goroutine, also at once.
	Progress func(done, total uint64)
}

// Damage says what is wrong.
type Damage string

const (
	// Missing: the store does not have a block.
	Missing Damage = "missing"
	// Spoilt: a block does not match its CID, does not open with the volume's key, or is not what its place asks for.
	Spoilt Damage = "spoilt"
)

// Finding is one name of a snapshot that cannot be read back whole.
type Finding struct {
	Path   string  `json:"path"` // in the snapshot, from "/"; of a directory: some or all names below it are lost
	Dir    bool    `json:"dir,omitempty"`
	Damage Damage  `json:"damage"`
	Blocks uint64  `json:"blocks"` // that are damaged
	Block  cid.Cid `json:"block"`  // the first of them
	Err    string  `json:"error"`
}

// Report is what Verify found.
type Report struct {
	Files    uint64    `json:"files"`    // names of regular files seen
	Dirs     uint64    `json:"dirs"`     // directories read, the root included
	Nodes    uint64    `json:"nodes"`    // blocks of the tree's structure read
	Blocks   uint64    `json:"blocks"`   // blocks of file content read
	Bytes    uint64    `json:"bytes"`    // sealed bytes read, in all
	Content  uint64    `json:"content"`  // bytes of file content that were verified
	Findings []Finding `json:"findings"` // at most 1,000
	More     uint64    `json:"more"`     // findings that are not listed
}

// OK tells that nothing is missing or spoilt of what was read.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// Verify reads a snapshot back: every node, and every block of content or a sample. Each has to match its CID, to open with the
// key, and to be what its place in the tree asks for. It reads with g, which should be the store itself and no cache.
//
// What is missing or spoilt is in the report, and does not end the pass. An error means that the pass was not completed: ctx ended, the
// store cannot be asked (it is asked again some times before), or the snapshot is of a later version. The report then has what was found until there.
//
// Memory: at most 16 blocks, 24 opened ones of patched windows, a page for each level of each of as many branches, and the set of blocks that were read last.
func Verify(ctx context.Context, g Getter, s *seal.Sealer, root cid.Cid, opt VerifyOptions) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v := &verifier{opt: opt, cancel: cancel, slots: make(chan struct{}, verifying-1)}
	v.r = NewReader(&patientGetter{get: g, v: v}, s)
	var err error
	if v.seen, err = lru.New[cid.Cid, *verifiedBlock](verified); err != nil { // the size is a constant above 0
		panic(err)
	}
	if v.patches, err = lru.New[cid.Cid, *verifiedBlock](verifiedPatches); err != nil { // as above
		panic(err)
	}
	v.snapshot(ctx, root)
	v.wg.Wait()
	if v.rep.Findings == nil {
		v.rep.Findings = []Finding{}
	}
	return &v.rep, context.Cause(ctx)
}

type verifier struct {
	r      *Reader
	opt    VerifyOptions
	cancel context.CancelCauseFunc
	seen   *lru.Cache[cid.Cid, *verifiedBlock]
	// patches has the blocks of patches, opened.
	patches *lru.Cache[cid.Cid, *verifiedBlock]
	slots   chan struct{} // goroutines beside the first
	wg      sync.WaitGroup
	done    atomic.Uint64 // bytes of content
	total   uint64

	mu  sync.Mutex
	rep Report
}

// verifiedBlock is a block of content: fetched and opened once, however many names want pieces of it.
type verifiedBlock struct {
	once sync.Once
	size uint64 // opened
	data []byte // where it is needed with another
	err  error
}

// fork runs do beside the caller where there is room, and else at once.
func (v *verifier) fork(do func()) {
	select {
	case v.slots <- struct{}{}:
		v.wg.Go(func() {
			defer func() { <-v.slots }()
			do()
		})
	default:
		do()
	}
}

func (v *verifier) snapshot(ctx context.Context, c cid.Cid) {
	root, err := v.r.Root(ctx, c)
	if err != nil {
		v.found("/", true, c, 1, err)
		return
	}
	v.total = root.Dir.Bytes
	if v.sampled() {
		v.total = uint64(float64(v.total) * v.opt.Sample)
	}
	if root.Trace.Defined() {
		if _, err := v.r.Trace(ctx, root.Trace); err != nil {
			v.found("/ (recorded working set)", true, root.Trace, 1, err)
		}
	}
	v.dir(ctx, "/", root.Dir)
}

// found notes what err says of the block c. A version that is not known, an end of ctx, or a store that does not answer end the pass.
func (v *verifier) found(path string, dir bool, c cid.Cid, blocks uint64, err error) {
	var kind Damage
	switch {
	case errors.Is(err, store.ErrNotFound):
		kind = Missing
	case errors.Is(err, wire.ErrVersion), errors.Is(err, wire.ErrFeature):
		v.cancel(err)
		return
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrTooLarge), errors.Is(err, seal.ErrOpen), errors.Is(err, ErrDamaged):
		kind = Spoilt
	default:
		v.cancel(fmt.Errorf("%s: %w", path, err))
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.rep.Findings) >= maxFindings {
		v.rep.More++
		return
	}
	v.rep.Findings = append(v.rep.Findings, Finding{Path: path, Dir: dir, Damage: kind, Blocks: blocks, Block: c, Err: err.Error()})
}

// dir verifies a directory and what is below it.
func (v *verifier) dir(ctx context.Context, path string, ref wire.DirRef) {
	v.count(func(r *Report) { r.Dirs++ })
	v.dirNode(ctx, path, wire.DirChild{Node: ref.Node, Files: ref.Files, Dirs: ref.Dirs, Bytes: ref.Bytes}, ref.Depth)
}

// dirNode verifies a page, or an index node and its pages; a page that cannot be read is no reason to leave out the others.
func (v *verifier) dirNode(ctx context.Context, path string, at wire.DirChild, level uint8) {
	if ctx.Err() != nil {
		return
	}
	if level > 0 {
		children, err := v.r.dirIndex(ctx, at, level)
		if err != nil {
			v.found(path, true, at.Node, 1, err)
			return
		}
		for _, c := range children {
			v.fork(func() { v.dirNode(ctx, path, c, level-1) })
		}
		return
	}
	entries, err := v.r.page(ctx, at)
	if err != nil {
		v.found(path, true, at.Node, 1, err)
		return
	}
	for i := range entries {
		e := &entries[i]
		below := path + e.Name
		switch {
		case e.Dir != nil:
			ref := *e.Dir
			v.fork(func() { v.dir(ctx, below+"/", ref) })
		case e.Content != nil:
			v.file(ctx, below, e.Content)
		}
	}
}

// file verifies the content of one name.
func (v *verifier) file(ctx context.Context, path string, c *wire.Content) {
	v.count(func(r *Report) { r.Files++ })
	f := &verifiedFile{v: v, path: path, content: c}
	f.left.Store(1)
	if c.Depth == 0 {
		f.windows(ctx, c.Windows)
	} else {
		f.index(ctx, c.Index, wire.FilePos{Size: c.Size, ChunkSize: c.ChunkSize, Level: c.Depth})
	}
	f.ended()
}

// verifiedFile gathers what is found of one file, so that it is one finding.
type verifiedFile struct {
	v       *verifier
	path    string
	content *wire.Content
	left    atomic.Int64 // windows under way, and the walk

	mu     sync.Mutex
	data   uint64 // bytes of data in the windows that were listed
	broken bool   // not all windows are known
	blocks uint64
	last   cid.Cid // damaged; windows of one block are neighbours
	first  cid.Cid
	err    error
}

func (f *verifiedFile) damaged(c cid.Cid, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.first, f.err = c, err
	}
	if f.last != c {
		f.blocks++
	}
	f.last = c
}

// cut notes that not all windows will be seen.
func (f *verifiedFile) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = true
}

// index verifies an index node and what it lists.
func (f *verifiedFile) index(ctx context.Context, node cid.Cid, pos wire.FilePos) {
	n, err := f.v.r.index(ctx, node, pos)
	if err != nil {
		f.cut()
		f.damaged(node, err)
		return
	}
	if pos.Level == 1 {
		f.windows(ctx, n.Windows)
		return
	}
	for _, child := range n.Children {
		if ctx.Err() != nil {
			f.cut()
			return
		}
		down := pos
		down.Level, down.First = pos.Level-1, child.First
		f.index(ctx, child.Node, down)
	}
}

func (f *verifiedFile) windows(ctx context.Context, list []wire.Window) {
	for _, w := range list {
		if ctx.Err() != nil {
			f.cut()
			return
		}
		n := w.Bytes(f.content.Span(w.Index))
		f.mu.Lock()
		f.data += n
		f.mu.Unlock()
		if !f.v.chosen(w.Block) {
			continue
		}
		f.left.Add(1)
		f.v.fork(func() {
			defer f.ended()
			if c, err := f.v.window(ctx, f.content, w); err != nil {
				f.damaged(c, err)
				return
			}
			f.v.content(n)
		})
	}
}

func (f *verifiedFile) ended() {
	if f.left.Add(-1) > 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && !f.broken && f.data != f.content.Data {
		f.first = f.content.Index
		f.err = fmt.Errorf("%w: its windows have %d bytes, its entry says %d", ErrDamaged, f.data, f.content.Data)
	}
	if f.err != nil {
		f.v.found(f.path, false, f.first, max(f.blocks, 1), f.err)
	}
}

// window verifies the block of w, unless that was done, and that the window lies in it; of a patched one, that both blocks come to what its sum
// says. With an error it returns the block that is at fault.
func (v *verifier) window(ctx context.Context, c *wire.Content, w wire.Window) (cid.Cid, error) {
	span := c.Span(w.Index)
	if w.Patch != nil {
		return v.patched(ctx, c, w)
	}
	b := v.block(ctx, v.seen, w.Block, false)
	if b.err != nil {
		return w.Block, b.err
	}
	if n := w.Bytes(span); n > b.size || uint64(w.Off) > b.size-n {
		return w.Block, fmt.Errorf("block %s: %w: %d bytes where a window has %d from %d on", w.Block, ErrDamaged, b.size, n, w.Off)
	}
	return cid.Undef, nil
}

// patched verifies a window with a patch. Its own block is read for it alone: nobody else has pieces of it, but for windows that were equal once.
// That of the patch is kept for its neighbours.
func (v *verifier) patched(ctx context.Context, c *wire.Content, w wire.Window) (cid.Cid, error) {
	base, err := v.r.Data(ctx, w.Block)
	v.count(func(r *Report) { r.Blocks++ })
	if err != nil {
		return w.Block, err
	}
	patch := v.block(ctx, v.patches, w.Patch.Block, true)
	if patch.err != nil {
		return w.Patch.Block, patch.err
	}
	if _, err := Piece(base, patch.data, c, w); err != nil {
		return w.Patch.Block, fmt.Errorf("block %s: %w", w.Patch.Block, err)
	}
	return cid.Undef, nil
}

// block returns what a block is, from a set of those that were read. keep: with its content.
func (v *verifier) block(ctx context.Context, set *lru.Cache[cid.Cid, *verifiedBlock], c cid.Cid, keep bool) *verifiedBlock {
	fresh := new(verifiedBlock)
	b, ok, _ := set.PeekOrAdd(c, fresh)
	if !ok {
		b = fresh
	}
	b.once.Do(func() {
		var data []byte
		data, b.err = v.r.Data(ctx, c)
		b.size = uint64(len(data))
		if keep {
			b.data = data
		}
		v.count(func(r *Report) { r.Blocks++ })
	})
	return b
}

func (v *verifier) sampled() bool { return v.opt.Sample > 0 && v.opt.Sample < 1 }

// chosen tells whether a block is in the sample: by its CID, so that it is or is not for all who refer to it.
func (v *verifier) chosen(c cid.Cid) bool {
	if !v.sampled() {
		return true
	}
	h := c.Hash()
	if len(h) < 8 {
		return true // no block of ours; reading it says so
	}
	hi, lo := bits.Mul64(binary.BigEndian.Uint64(h[len(h)-8:])^v.opt.Seed, 0x9e3779b97f4a7c15)
	return float64(hi^lo)/(1<<64) < v.opt.Sample
}

func (v *verifier) count(add func(*Report)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	add(&v.rep)
}

func (v *verifier) content(n uint64) {
	v.count(func(r *Report) { r.Content += n })
	done := v.done.Add(n)
	if v.opt.Progress != nil {
		v.opt.Progress(done, max(v.total, done))
	}
}

// patientGetter asks again where the answer may be another one, and counts.
type patientGetter struct {
	get Getter
	v   *verifier
}

// Get implements Getter.
func (p *patientGetter) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	pause := verifyPause
	for try := 1; ; try++ {
		b, err := p.get.Get(ctx, c)
		if err == nil {
			p.v.count(func(r *Report) {
				r.Bytes += uint64(len(b))
				if c.Prefix().Codec == cid.DagCBOR {
					r.Nodes++
				}
			})
			return b, nil
		}
		again := errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrCorrupt)
		if !again || try == verifyTries {
			return nil, err
		}
		select {
		case <-time.After(pause):
			pause *= 3
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
