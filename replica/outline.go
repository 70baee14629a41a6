package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// Outline makes the tree of a local snapshot for comparing it, and publishes nothing: its nodes go to d, from which snapshot.Diff reads them. Of a Job it wants
// Volume, Key, Snapshot, Base (the tree that is taken from, an outline of d or a published one) or Source, ChunkSize and Compression.
//
// Content is not read where the kernel says what changed, nor where there is nothing to compare it with: a placeholder stands for it. Only a larger file
// that stands in the place of a published one, and of which no more is known, is read and sealed, as it would be when it is published.
//
// Memory is that of Publish. Errors are those of reading the snapshot and of what holds the base's nodes; ErrForeign; ErrWritable.
func (p *Publisher) Outline(ctx context.Context, j Job, d *Drafts) (cid.Cid, error) {
	root, way, err := p.outline(ctx, &j, d, p.walkOnly)
	if err != nil && way == WayChanges && ctx.Err() == nil && !ofStore(err) {
		p.log.Warn().Err(err).Str("volume", j.Volume).Str("op", "outline").Msg("cannot compare by what changed; the whole volume is compared")
		root, _, err = p.outline(ctx, &j, d, true)
	}
	if err != nil {
		return cid.Undef, fmt.Errorf("outline of snapshot %s: %w", filepath.Base(j.Snapshot), err)
	}
	return root, nil
}

func (p *Publisher) outline(ctx context.Context, j *Job, d *Drafts, walkOnly bool) (cid.Cid, Way, error) {
	pl, err := p.plan(ctx, j, d, &outliner{}, walkOnly)
	if err != nil {
		return cid.Undef, pl.way, err
	}
	defer pl.close()
	if pl.same {
		return j.source().Root, pl.way, nil
	}
	root, _, _, err := snapshot.Build(ctx, pl.root, d, j.Key.Sealer(), pl.opt)
	return root, pl.way, err
}

// Drafts holds the nodes of outlines, in a folder that the caller makes and removes. What it does not have it gets from the cache and the store of the Publisher.
type Drafts struct {
	dir   string
	under snapshot.Getter
}

// Drafts returns those in the folder dir, which is empty or holds some.
func (p *Publisher) Drafts(dir string) *Drafts { return &Drafts{dir: dir, under: p.nodes} }

var (
	_ snapshot.Getter = (*Drafts)(nil)
	_ snapshot.Sink   = (*Drafts)(nil)
)

// Put implements snapshot.Sink. Content is dropped: nobody reads it of an outline.
func (d *Drafts) Put(_ context.Context, b store.Block) error {
	if b.CID.Prefix().Codec != store.DagCBOR {
		return nil
	}
	if err := writeNode(d.path(b.CID), b.Data); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep a node for the comparison: %w", err)
	}
	return nil
}

// Get implements snapshot.Getter.
func (d *Drafts) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := readNode(d.path(c))
	if errors.Is(err, fs.ErrNotExist) {
		return d.under.Get(ctx, c)
	}
	if err == nil {
		err = store.Verify(c, data)
	}
	return data, err
}

func (d *Drafts) path(c cid.Cid) string {
	name := c.String()
	return filepath.Join(d.dir, name[len(name)-2:], name)
}

// outliner makes the files of an outline. A nil one leaves files as they are.
type outliner struct {
	id [16]byte // of the snapshot, so that no other one's placeholders are equal
}

// file hides the content of f. changed: what f does not know to be the same is known to be another.
func (o *outliner) file(f snapshot.File, ino uint64, changed bool) snapshot.File {
	if o == nil || f == nil {
		return f
	}
	return &outlineFile{File: f, out: o, ino: ino, changed: changed}
}

// outlineFile is a file whose content is not read, where that can be spared.
type outlineFile struct {
	snapshot.File
	out     *outliner
	ino     uint64
	changed bool
}

var _ snapshot.File = (*outlineFile)(nil)

// Known implements snapshot.File.
func (f *outlineFile) Known(ctx context.Context, index uint64, chunkSize uint32) (wire.Window, bool, error) {
	w, ok, err := f.File.Known(ctx, index, chunkSize)
	if ok || err != nil {
		return w, ok, err
	}
	start, span := index*uint64(chunkSize), wire.Span(f.Size(), chunkSize, index)
	list, err := f.Ranges(ctx, start, start+span)
	if err != nil {
		return w, false, err
	}
	w = wire.Window{Index: index}
	for _, r := range list {
		w.Data = append(w.Data, wire.Range{Off: r.Off - start, Len: r.Len})
	}
	if len(w.Data) == 1 && w.Data[0].Len == span {
		w.Data = nil
	}
	if !f.changed && w.Bytes(span) > wire.MaxPacked {
		prev, ok, err := f.Previous(ctx, index, chunkSize)
		if err != nil {
			return w, false, err
		}
		if ok && !snapshot.IsPlaceholder(prev.Block) {
			return wire.Window{}, false, nil // read it: its block, or its sum, may be the same
		}
	}
	about := append([]byte(nil), f.out.id[:]...)
	about = binary.BigEndian.AppendUint64(about, f.ino)
	about = binary.BigEndian.AppendUint64(about, index)
	w.Block = snapshot.Placeholder(f.changed, about)
	return w, true, nil
}
