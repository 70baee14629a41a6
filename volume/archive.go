package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"fractal-lazy/archive"
	"fractal-lazy/hive"
	"fractal-lazy/mutant"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// Exported is the snapshot that an Export writes.
type Exported struct {
	Volume   string       `json:"volume"`
	Pubkey   string       `json:"pubkey"`
	Snapshot SnapshotInfo `json:"snapshot"`
	Estimate uint64       `json:"estimate"` // bytes that the file may have; 0: nobody knows
}

// Imported says what an Import did.
type Imported struct {
	Volume     string  `json:"volume"`
	Generation uint64  `json:"generation"` // under which the Hive has the snapshot now
	Hash       string  `json:"hash"`       // of its manifest
	Root       string  `json:"root"`
	Made       bool    `json:"made"`   // its manifest is a new one, as the Hive lacks those before it
	Known      bool    `json:"known"`  // the Hive had the manifest already: the blocks were brought and pinned
	Newest     bool    `json:"newest"` // it is what a mount shows next; else restore it
	Blocks     uint64  `json:"blocks"` // in the file
	Bytes      uint64  `json:"bytes"`  // of them
	Seconds    float64 `json:"seconds"`
}

// Export writes the published snapshot that text means, the newest where it is empty, to the writer that begin returns; begin is called once, when the snapshot
// was found and its root could be read. Nothing of the volume changes. What was written before an error is no whole file, and no Reader takes it for one.
//
// Errors: ErrNoSnapshot, ErrNotReady, those of package store and of the writer.
func (m *Manager) Export(ctx context.Context, name, text string, begin func(Exported) io.Writer) error {
	v, err := m.lookupOpen(name)
	if err != nil {
		return err
	}
	if v.isView() {
		return v.wrap(fmt.Errorf("%w: it is a view of a snapshot; export from the volume itself", ErrOption))
	}
	start := time.Now()
	stats, mf, err := m.export(ctx, v, text, begin)
	if err != nil {
		return v.wrap(fmt.Errorf("export: %w", err))
	}
	m.logger(v, "export").Info().Uint64("generation", mf.Generation).Uint64("blocks", stats.Blocks).Uint64("bytes", stats.Bytes).
		Dur("took", time.Since(start)).Msg("snapshot exported")
	return nil
}

func (m *Manager) export(ctx context.Context, v *vol, text string, begin func(Exported) io.Writer) (s archive.Stats, mf *hive.Manifest, err error) {
	all, err := m.manifests(ctx, v)
	switch {
	case err != nil:
		return s, nil, err
	case len(all) == 0:
		return s, nil, fmt.Errorf("%w: nothing is published of it yet; `fractal-lazy flush %s`", ErrNoSnapshot, v.name)
	}
	mf = all[len(all)-1]
	if text != "" && !mutant.Is(mutant.ExportNewest) {
		if mf, err = m.manifestAt(ctx, v, all, text); err != nil {
			return s, nil, err
		}
	}
	base, err := baseOf(mf, 0)
	if err != nil {
		return s, nil, err
	}
	id, err := cid.Decode(base.Root)
	if err != nil {
		return s, nil, err
	}
	limit, cancel := context.WithTimeout(ctx, rootTimeout)
	root, err := snapshot.NewReader(m.store, v.key.Sealer()).Root(limit, id)
	cancel()
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: the block store does not have generation %d any more: it was purged: %w", ErrNoSnapshot, mf.Generation, err)
	}
	if err != nil {
		return s, nil, storeGone(err)
	}
	w := begin(Exported{Volume: v.name, Pubkey: v.pub.String(), Snapshot: base.info(), Estimate: min(root.Dir.Bytes, mf.SizeTotal)})
	s, err = archive.Write(ctx, w, pacedStore{m.store, m.down.User(nil)}, v.pub, mf.Sign(v.key))
	return s, mf, storeGone(err)
}

// importBatch is how many bytes of blocks are made durable at once.
const importBatch = 64 << 20

// Import reads an exported snapshot of the volume from r, brings its blocks to the block store, pins it there, and makes it known to the Hive. It is not mounted, and takes the
// place of nothing newer: see decideImport. The volume is made before, from its key.
//
// Order: 1. blocks, in batches; 2. a note of the root, and the pin, which proves that they are all there; 3. the manifest; 4. the Hive's writer, which a manifest sets, is cleared;
// 5. the record. A crash before 2 leaves blocks that a collection may take, before 3 a pin that no manifest names, which the worker gives up, before 4 a writer: the machine of the
// manifest, which may be another one. The same import again goes on from there, but for that: the volume is then mounted with takeover=always.
//
// Errors: ErrArchive (the file), ErrOption (of another volume), ErrRollback, ErrHeld, ErrInUse, ErrNotReady, and the error of r.
func (m *Manager) Import(ctx context.Context, name string, r io.Reader, p func(Progress)) (out Imported, err error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return out, err
	}
	if v.isView() {
		return out, v.wrap(fmt.Errorf("%w: it is a view of a snapshot; import into the volume itself", ErrOption))
	}
	start := time.Now()
	out, err = m.importNow(ctx, v, r, p)
	if err != nil {
		return Imported{}, v.wrap(fmt.Errorf("import: %w", err))
	}
	out.Seconds = time.Since(start).Seconds()
	m.logger(v, "import").Info().Uint64("generation", out.Generation).Bool("known", out.Known).Bool("made", out.Made).Bool("newest", out.Newest).
		Uint64("blocks", out.Blocks).Uint64("bytes", out.Bytes).Dur("took", time.Since(start)).Msg("snapshot imported")
	return out, nil
}

func (m *Manager) importNow(ctx context.Context, v *vol, r io.Reader, p func(Progress)) (out Imported, err error) {
	file, err := archive.NewReader(r, v.pub)
	if err != nil {
		return out, fileError(err)
	}
	if d, _, err := m.askImport(ctx, v, file.Manifest); err != nil {
		return out, err // before anything is sent
	} else if d.err != nil {
		return out, d.err
	}
	if err := m.putArchive(ctx, file, p); err != nil { // 1
		return out, fileError(err)
	}
	if p != nil {
		p(Progress{Phase: "pinning", Done: file.Stats().Bytes, Total: file.Stats().Bytes})
	}
	at := here(file.Root.String())
	endPin, err := v.holdPin(ctx, at) // an import before this one may have left it to be unpinned
	if err != nil {
		return out, err
	}
	defer endPin()
	before, err := m.store.Pinned(ctx, file.Root)
	if err != nil {
		return out, storeGone(err)
	}
	if !before { // else somebody keeps it already
		if err := v.intendUnpin(at); err != nil {
			return out, err
		}
	}
	if err := m.store.Pin(ctx, file.Root); err != nil { // 2
		if errors.Is(err, store.ErrNotFound) {
			err = fmt.Errorf("%w: the block store lost some of it meanwhile, as by a collection; import it again: %w", ErrNotReady, err)
		}
		return out, storeGone(fmt.Errorf("pin: %w", err))
	}
	wait, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	if err := v.enter(wait, stepRestore); err != nil {
		return out, err
	}
	defer v.leave()
	d, a, err := m.askImport(ctx, v, file.Manifest) // it may have changed
	if err == nil {
		err = d.err
	}
	if err != nil {
		return out, err
	}
	stats := file.Stats()
	mf, err := m.postImport(ctx, v, d, a, file.Manifest, stats.Bytes)
	if err == nil {
		err = pinAgain(ctx, m.store, file.Root.String()) // see unpin.go
	}
	if mutant.Is(mutant.ImportUnpinned) {
		_ = m.store.Unpin(ctx, file.Root)
	}
	if errors.Is(err, hive.ErrRejected) && !before { // nothing would name it
		err = errors.Join(err, m.store.Unpin(ctx, file.Root))
	}
	if err != nil {
		return out, err
	}
	return Imported{Volume: v.name, Generation: mf.Generation, Hash: mf.Hash().String(), Root: file.Root.String(), Made: mf.Hash() != file.Manifest.Hash(),
		Known: d.do == importKnown, Newest: d.newest, Blocks: stats.Blocks, Bytes: stats.Bytes}, nil
}

// putArchive brings all blocks of a file to the store, and returns nil where the file was whole.
func (m *Manager) putArchive(ctx context.Context, file *archive.Reader, p func(Progress)) error {
	line, start, told := m.up.User(nil), time.Now(), time.Now()
	for done := false; !done; {
		size := 0
		err := m.store.PutMany(ctx, func(yield func(store.Block, error) bool) {
			for size < importBatch {
				b, err := file.Next()
				if errors.Is(err, io.EOF) {
					done = true
					return
				}
				if err == nil {
					err = line.Wait(ctx, len(b.Data))
				}
				if size += len(b.Data); !yield(b, err) || err != nil {
					return
				}
				if now := time.Now(); p != nil && now.Sub(told) >= reportEvery {
					told = now
					n := file.Stats().Bytes
					p(Progress{Phase: "importing", Done: n, Rate: float64(n) / now.Sub(start).Seconds()})
				}
			}
		})
		if err != nil {
			return storeGone(err)
		}
	}
	return nil
}

// storeGone gives a store that does not answer the kind of what goes on when that is mended.
func storeGone(err error) error {
	if isAny(err, store.ErrUnavailable, store.ErrDenied) && !errors.Is(err, ErrNotReady) {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return err
}

// askImport asks the Hive what an import of mf would meet.
func (m *Manager) askImport(ctx context.Context, v *vol, mf *hive.Manifest) (importDecision, answer, error) {
	a := m.ask(ctx, v, false)
	if a.err != nil {
		return importDecision{}, a, fmt.Errorf("%w: the Hive cannot be asked what it has: %w", ErrNotReady, a.err)
	}
	var all []*hive.Manifest
	if !a.unknown {
		var err error
		if all, err = m.manifests(ctx, v); err != nil {
			return importDecision{}, a, err
		}
	}
	v.mu.Lock()
	used := v.live != nil || v.prep != nil
	v.mu.Unlock()
	return decideImport(v.record(), m.id(), v.hasData(), used, mf, all, a.writer), a, nil
}

// How an imported snapshot becomes known.
type importWay int

const (
	importRefuse importWay = iota // err says why
	importKnown                   // the Hive has its manifest
	importAsIs                    // its own manifest is posted
	importFresh                   // one without a parent is, of generation
)

type importDecision struct {
	do         importWay
	generation uint64
	orFresh    bool // of importAsIs: the Hive lacks what is before it, and takes it only if it once had it
	newest     bool // it will be what the next mount shows
	err        error
}

// decideImport says how the snapshot of mf becomes known to a Hive that has the manifests all, ascending, and the writer. Where the Hive has newer ones it becomes one of the older
// snapshots, for a restore, and never the newest. It is a pure function.
func decideImport(r *record, me uuid.UUID, hasData, used bool, mf *hive.Manifest, all []*hive.Manifest, writer *uuid.UUID) importDecision {
	hash := mf.Hash()
	var newest *hive.Manifest
	chain, taken := mf.Parent == nil, false
	for i, o := range all {
		newest = o
		if o.Hash() == hash {
			return importDecision{do: importKnown, generation: mf.Generation, newest: i == len(all)-1}
		}
		taken = taken || o.Generation == mf.Generation
		chain = chain || mf.Parent.Volume == nil && o.Hash() == mf.Parent.Hash && o.Generation < mf.Generation
	}
	turn := writer == nil || *writer == mf.Machine
	asIs := chain && turn
	refuse := func(format string, args ...any) importDecision {
		return importDecision{err: fmt.Errorf(format, args...)}
	}
	if writer != nil && *writer != me {
		return refuse("%w: machine %s; unmount it there first", ErrHeld, writer)
	}
	if newest != nil && newest.Generation >= mf.Generation {
		switch {
		case taken:
			return refuse("%w of generation %d: the Hive has another snapshot under that number, and the newest there is %d; nothing was changed. Another Hive and block "+
				"store take the file", ErrRollback, mf.Generation, newest.Generation)
		case turn: // one that was purged there is taken back, but no other of its number
			return importDecision{do: importAsIs, generation: mf.Generation, orFresh: !chain}
		}
		return importDecision{do: importFresh, generation: mf.Generation}
	}
	d := importDecision{do: importFresh, generation: mf.Generation, newest: true}
	seen := r.Seen
	switch {
	case newest != nil && newest.Creation > mf.Creation:
		return refuse("%w: generation %d there was made after the snapshot in the file; nothing was changed. Another Hive and block store take the file", ErrRollback, newest.Generation)
	case used, r.Writer, r.Fence != nil, r.pending() != nil:
		return refuse("%w, or has changes that are not published: unmount it and wait until it is given back, since the snapshot in the file is newer than any at the Hive", ErrInUse)
	case seen == nil || seen.Generation < mf.Generation:
		if asIs {
			d.do = importAsIs
		}
	case seen.Hash == hash.String() && asIs:
		d.do = importAsIs
	case hasData && seen.Hash != hash.String():
		return refuse("%w: this machine has the data of generation %d, and the file holds %d; nothing was changed", ErrRollback, seen.Generation, mf.Generation)
	default: // all newer ones are lost with their Hive
		d.generation = seen.Generation + 1
	}
	return d
}

// postImport does steps 3 to 5 of Import. The step is held.
func (m *Manager) postImport(ctx context.Context, v *vol, d importDecision, a answer, mf *hive.Manifest, size uint64) (*hive.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	size = max(size, hive.MinChildSize)
	fresh := &hive.Manifest{Creation: mf.Creation, Machine: m.id(), Path: mf.Path, Size: size, SizeTotal: size, Generation: d.generation, Data: mf.Data}
	if d.do == importFresh {
		mf = fresh
	}
	if d.do != importKnown {
		if a.unknown {
			if err := m.d.Hive.Create(ctx, v.pub); err != nil {
				return nil, fmt.Errorf("%w: make the volume known to the Hive: %w", ErrNotReady, err)
			}
		}
		_, err := m.d.Hive.Post(ctx, v.pub, mf.Sign(v.key)) // 3
		if errors.Is(err, hive.ErrRejected) && d.orFresh {
			mf = fresh
			_, err = m.d.Hive.Post(ctx, v.pub, mf.Sign(v.key))
		}
		if err != nil {
			if errors.Is(err, hive.ErrRejected) {
				return nil, fmt.Errorf("%w; it does not take generation %d back: if it was purged there, unmount the volume and import again; another Hive and block store take the file: %w",
					ErrRollback, mf.Generation, err)
			}
			return nil, fmt.Errorf("%w: post the manifest: %w", ErrNotReady, err)
		}
		if err := m.clearPoster(ctx, v.pub, a.writer, mf.Machine); err != nil { // 4
			return nil, fmt.Errorf("%w: set the volume free: %w; mount it with takeover=always", ErrNotReady, err)
		}
	}
	root, err := mf.Root()
	if err != nil {
		return nil, err
	}
	return mf, v.update(func(r *record) { // 5
		r.unpinDone(here(root))
		if !d.newest {
			return
		}
		r.Known = true
		r.see(mf.Generation, mf.Hash().String())
	})
}

// clearPoster sets a volume free that was free before, and that a manifest of machine has just been posted of.
func (m *Manager) clearPoster(ctx context.Context, pub seal.Pubkey, before *uuid.UUID, machine uuid.UUID) error {
	if before != nil {
		return nil
	}
	now, err := m.d.Hive.Volume(ctx, pub)
	if err != nil || now.Writer == nil || *now.Writer != machine {
		return err
	}
	return m.d.Hive.SetWriter(ctx, pub, nil)
}

// fileError says of what is wrong with the file of an import that it is that.
func fileError(err error) error {
	switch {
	case errors.Is(err, archive.ErrKey):
		return fmt.Errorf("%w: %w", ErrOption, err)
	case isAny(err, archive.ErrFormat, archive.ErrCut, archive.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return err
}

var _ archive.Getter = pacedStore{}
