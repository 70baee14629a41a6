package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/mutant"
	"fractal-lazy/pace"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// VerifyOptions of Manager.Verify. The zero value reads every block of the newest snapshot.
type VerifyOptions struct {
	// Snapshot is a generation, a manifest's hash or a time, as in the option snapshot=; empty: the newest published one.
	Snapshot string
	// Sample is the share of the blocks of file content to read, above 0 and at most 1; 0 and 1: all. The tree's structure is always read as a whole.
	Sample float64
}

// Verification is what reading a published snapshot back has found.
type Verification struct {
	OK       bool         `json:"ok"`       // pinned, and nothing of what was read is missing or spoilt
	Snapshot SnapshotInfo `json:"snapshot"` // that was read
	Sample   float64      `json:"sample"`   // share of the blocks of content; 1: all
	Pinned   bool         `json:"pinned"`   // the store keeps it from collection
	Files    uint64       `json:"files"`
	Dirs     uint64       `json:"dirs"`
	Nodes    uint64       `json:"nodes"`   // blocks of structure read
	Blocks   uint64       `json:"blocks"`  // blocks of content read
	Bytes    uint64       `json:"bytes"`   // read from the store, sealed
	Content  uint64       `json:"content"` // bytes of files that were verified
	Seconds  float64      `json:"seconds"`
	Damage   []Damage     `json:"damage"` // at most 1,000
	More     uint64       `json:"more"`   // names with damage that are not listed
}

// Damage is one name of a snapshot that cannot be read back whole.
type Damage struct {
	Path   string `json:"path"`
	Dir    bool   `json:"dir"`    // names below it are lost
	Kind   string `json:"kind"`   // missing or spoilt
	Blocks uint64 `json:"blocks"` // that are damaged
	Block  string `json:"block"`  // CID of the first
	Error  string `json:"error"`
}

// DefaultShare is the share of a snapshot's content that is read back where nothing else is said.
const DefaultShare = "5%"

// ParseShare reads a share in per cent, with the sign or without: 5% is 0.05.
func ParseShare(text string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(n > 0 && n <= 100) {
		return 0, fmt.Errorf("%q is not a share above 0 and at most 100 per cent, such as 5%%", clip(text))
	}
	return n / 100, nil
}

// Verify reads a published snapshot back from the store: that its blocks are there, match their CIDs, open with the volume's key, and make
// up a snapshot. It takes nothing from this machine, not even the cache of nodes. The volume may be in any state; nothing of it changes, and
// several verifications may run at once.
//
// Damage is a result, with OK false. An error means that the pass could not be done: ErrUnknown, ErrNoSnapshot, ErrOption,
// ErrNotReady (the Hive or the store cannot be asked), or the error of ctx. p, which may be nil, is told of the progress.
func (m *Manager) Verify(ctx context.Context, name string, o VerifyOptions, p func(Progress)) (Verification, error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return Verification{}, err
	}
	if o.Sample < 0 || o.Sample > 1 || o.Sample != o.Sample {
		return Verification{}, v.wrap(fmt.Errorf("%w: a sample is a share above 0 and at most 1", ErrOption))
	}
	base, err := m.publishedOne(ctx, v, o.Snapshot)
	if err != nil {
		return Verification{}, v.wrap(err)
	}
	root, err := cid.Decode(base.Root)
	if err != nil {
		return Verification{}, v.wrap(fmt.Errorf("root of generation %d: %w", base.Generation, err))
	}
	out := Verification{Snapshot: base.info(), Sample: o.Sample}
	if o.Sample == 0 {
		out.Sample = 1
	}
	begin := time.Now()
	if out.Pinned, err = m.store.Pinned(ctx, root); err != nil {
		return out, v.wrap(m.verifyError(ctx, err))
	}
	rep, err := snapshot.Verify(ctx, pacedStore{m.store, m.down.User(nil)}, v.key.Sealer(), root, snapshot.VerifyOptions{
		Sample: o.Sample, Seed: rand.Uint64(), Progress: verifyProgress(p, begin),
	})
	if mutant.Is(mutant.VerifyBlind) {
		rep = &snapshot.Report{}
	}
	out.Files, out.Dirs, out.Nodes, out.Blocks, out.Bytes, out.Content = rep.Files, rep.Dirs, rep.Nodes, rep.Blocks, rep.Bytes, rep.Content
	out.More, out.Seconds, out.Damage = rep.More, time.Since(begin).Seconds(), []Damage{}
	for _, f := range rep.Findings {
		out.Damage = append(out.Damage, Damage{Path: f.Path, Dir: f.Dir, Kind: string(f.Damage), Blocks: f.Blocks, Block: f.Block.String(), Error: f.Err})
	}
	if err != nil {
		return out, v.wrap(m.verifyError(ctx, err))
	}
	out.OK = out.Pinned && rep.OK()
	if !rep.OK() && m.pub != nil {
		m.pub.Distrust(root) // the next snapshot mends what it can
	}
	log := m.logger(v, "verify").Info()
	if !out.OK {
		log = m.logger(v, "verify").Error()
	}
	log.Uint64("generation", base.Generation).Stringer("cid", root).Bool("ok", out.OK).Bool("pinned", out.Pinned).Float64("sample", out.Sample).
		Uint64("blocks", out.Blocks).Int("damaged", len(out.Damage)+int(out.More)).Dur("took", time.Since(begin)).Msg("snapshot verified")
	return out, nil
}

// verifyError makes what keeps a pass from its end one of ErrNotReady, but for the end of ctx and a snapshot of a later version.
func (m *Manager) verifyError(ctx context.Context, err error) error {
	err = fmt.Errorf("verify: %w", err)
	if ctx.Err() != nil || isAny(err, wire.ErrVersion, wire.ErrFeature) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotReady, err)
}

// publishedOne finds one published snapshot: the one that a text selects, of a view the one that it shows, or else the newest.
func (m *Manager) publishedOne(ctx context.Context, v *vol, which string) (*baseRecord, error) {
	var sel *selector
	if which != "" {
		var err error
		if sel, err = parseSelector(which); err != nil {
			return nil, fmt.Errorf("%w: snapshot %q: %w", ErrOption, clip(which), err)
		}
	} else {
		sel = v.set.view // nil: it is no view
	}
	if sel == nil {
		return m.publishedLast(ctx, v)
	}
	all, err := m.manifests(ctx, v)
	if err != nil {
		return nil, err
	}
	mf := sel.pick(all)
	if mf == nil {
		return nil, fmt.Errorf("%w: no snapshot %q is published; `fractal-lazy snapshots` lists %d of them", ErrNoSnapshot, clip(sel.text), len(all))
	}
	return baseOf(mf, 0)
}

// publishedLast is what another machine would mount now. Where the Hive cannot be asked, the newest that this one knows of will do.
func (m *Manager) publishedLast(ctx context.Context, v *vol) (*baseRecord, error) {
	err := errNoHive
	var mf *hive.Manifest
	if m.d.Hive != nil {
		mf, err = m.d.Hive.Latest(ctx, v.pub)
	}
	r := v.record()
	switch {
	case err == nil:
		return baseOf(mf, 0)
	case isAny(err, hive.ErrNotFound):
		return nil, fmt.Errorf("%w: nothing of the volume is published yet; `fractal-lazy flush %s` does that", ErrNoSnapshot, v.name)
	case r.Base == nil || ctx.Err() != nil:
		return nil, fmt.Errorf("%w: newest snapshot at the Hive: %w", ErrNotReady, err)
	}
	m.logger(v, "verify").Warn().Err(err).Uint64("generation", r.Base.Generation).Msg("the Hive cannot be asked for the newest snapshot; the newest known here is verified")
	return r.Base, nil
}

// verifyProgress makes a report of bytes one with a rate and the time that is left.
func verifyProgress(p func(Progress), begin time.Time) func(done, total uint64) {
	if p == nil {
		return nil
	}
	var mu sync.Mutex
	var last time.Time
	return func(done, total uint64) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if now.Sub(last) < reportEvery {
			return
		}
		last = now
		out := Progress{Phase: "verifying", Done: done, Total: total}
		if took := now.Sub(begin).Seconds(); took > 0 {
			out.Rate = float64(done) / took
			out.ETASeconds = float64(total-done) / max(out.Rate, 1)
		}
		p(out)
	}
}

// pacedStore gives a block out when its turn has come.
type pacedStore struct {
	snapshot.Getter
	line *pace.User
}

// Get implements snapshot.Getter.
func (s pacedStore) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := s.Getter.Get(ctx, c)
	if err == nil {
		err = s.line.Wait(ctx, len(b))
	}
	return b, err
}
