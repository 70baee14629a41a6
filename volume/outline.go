package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fractal-lazy/replica"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// comparison is one Diff.
type comparison struct {
	m      *Manager
	v      *vol // that has the snapshots
	key    seal.Privkey
	sides  [2]side
	dir    string // for drafts, and for a snapshot of the present state; empty: not made
	pub    *replica.Publisher
	drafts *replica.Drafts // nil: both are published
	alone  bool            // nothing is taken from published trees
}

// side is one of two snapshots that are compared.
type side struct {
	info SnapshotInfo
	path string  // of the local snapshot; empty: it is not here
	root cid.Cid // of its tree, or of the outline that was made of it; undefined: there is none yet
}

// side finds what text means.
func (d *comparison) side(ctx context.Context, all []SnapshotInfo, text string, newest bool) (s side, err error) {
	switch {
	case text == Present:
		return d.present(ctx)
	case text == "" && newest:
		for _, i := range all {
			if i.Note != kindDivergent {
				s.info = i
			}
		}
		if s.info == (SnapshotInfo{}) {
			_, err = findSnapshot(nil, text)
		}
	default:
		s.info, err = findSnapshot(all, text)
	}
	if err != nil {
		return s, err
	}
	if i := s.info; i.Local != "" && d.v.has(d.v.snap(i.Local)) {
		s.path = d.v.snap(i.Local)
	}
	if s.info.Remote {
		if s.root, err = cid.Decode(s.info.Root); err != nil {
			return s, fmt.Errorf("root of generation %d: %w", s.info.Generation, err)
		}
	}
	return s, nil
}

// present takes a snapshot of what the volume holds, which end removes.
func (d *comparison) present(ctx context.Context) (s side, err error) {
	if !d.v.hasData() {
		return s, fmt.Errorf("%w: it holds nothing yet; mount it first", ErrNotReady)
	}
	if err := d.makeDir(); err != nil {
		return s, err
	}
	s.info = SnapshotInfo{Created: d.m.now().UTC(), Where: WhereHere, Note: NotePresent}
	s.path = filepath.Join(d.dir, uuid.NewString())
	if err := d.v.enter(ctx, stepSnapshot); err != nil {
		return s, err
	}
	defer d.v.leave()
	return s, d.m.snapshotUnseen(d.v, s.path, true)
}

// makeDir makes the folder of the comparison where it is not made. It is in the trash, as one that is being filled: what a crash leaves of it is deleted with the rest.
func (d *comparison) makeDir() error {
	if d.dir != "" {
		return nil
	}
	dir := filepath.Join(d.m.trash(), uuid.NewString()+filling)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for the comparison: %w", err)
	}
	d.dir = dir
	return nil
}

// end removes what was made.
func (d *comparison) end() {
	if d.dir == "" {
		return
	}
	if err := purge(d.dir); err != nil {
		d.m.logger(d.v, "diff").Warn().Err(err).Str("folder", d.dir).Msg("what was made for a comparison goes with the next start of the driver")
	}
}

// outlines makes the trees of what has none. Where the tree that the volume was last published as is not to be had, and both were never published, they are compared without it.
func (d *comparison) outlines(ctx context.Context) error {
	err := d.outlinesOnce(ctx)
	if !isAny(err, store.ErrUnavailable, store.ErrDenied, store.ErrNotFound, store.ErrCorrupt) || d.sides[0].info.Remote || d.sides[1].info.Remote {
		return err
	}
	d.alone = true
	d.sides[0].root, d.sides[1].root = cid.Undef, cid.Undef
	return d.outlinesOnce(ctx)
}

// outlinesOnce begins with the earlier one, so that the later one is compared with it.
func (d *comparison) outlinesOnce(ctx context.Context) error {
	a, b := &d.sides[0], &d.sides[1]
	if b.info.Created.Before(a.info.Created) {
		a, b = b, a
	}
	if !a.root.Defined() {
		if err := d.outline(ctx, a, b); err != nil {
			return err
		}
	}
	if !b.root.Defined() {
		return d.outline(ctx, b, a)
	}
	return nil
}

// outline makes the tree of s: from that of the other where that is here, so that the kernel can say what changed, else from that of the volume's base.
func (d *comparison) outline(ctx context.Context, s, other *side) error {
	if s.path == "" {
		return fmt.Errorf("%w: %s is not on this machine any more, and was never published", ErrNoSnapshot, shownName(s.info))
	}
	if d.drafts == nil {
		if err := d.makeDir(); err != nil {
			return err
		}
		d.pub = replica.New(replica.Deps{Store: d.m.storeOf(d.v), Nodes: filepath.Join(d.m.o.Root, "nodes"), Log: d.m.log})
		d.drafts = d.pub.Drafts(d.dir)
	}
	base, err := d.v.record().Base.replica(d.v.snaps())
	if err != nil {
		return err
	}
	switch {
	case other.root.Defined() && (other.path != "" || base.Local == "" || d.alone):
		base = replica.Base{Root: other.root, Local: other.path}
	case d.alone:
		base = replica.Base{}
	}
	s.root, err = d.pub.Outline(ctx, replica.Job{Volume: d.v.name, Key: d.key, Snapshot: s.path, Base: base,
		ChunkSize: d.v.set.chunkSize, Compression: d.v.set.compression}, d.drafts)
	switch {
	case errors.Is(err, replica.ErrForeign):
		return fmt.Errorf("%w: %w; `fractal-lazy hydrate --wait %s` brings all of it here", ErrNotReady, err, d.v.name)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s was removed while it was looked at: %w", ErrNotReady, shownName(s.info), err)
	}
	return err
}

func (d *comparison) reader() *snapshot.Reader {
	if d.drafts != nil {
		return snapshot.NewReader(d.drafts, d.key.Sealer())
	}
	return snapshot.NewReader(d.m.storeOf(d.v), d.key.Sealer())
}
