package volume

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
)

// Change is one name that differs between two snapshots; see snapshot.Change.
type Change struct {
	Path  string              `json:"path"`
	Kind  snapshot.ChangeKind `json:"kind"`
	Type  string              `json:"type"`
	Was   uint64              `json:"was"`
	Now   uint64              `json:"now"`
	Bytes uint64              `json:"bytes"`
	Files uint64              `json:"files,omitempty"`
	Dirs  uint64              `json:"dirs,omitempty"`
}

// DiffResult is what a comparison came to.
type DiffResult struct {
	From    SnapshotInfo `json:"from"`
	To      SnapshotInfo `json:"to"`
	Changes uint64       `json:"changes"`
	Bytes   uint64       `json:"bytes"` // of data that differs, at most
}

// Present is the name, for Diff, of what a volume holds at the moment; NotePresent says so in the answer.
const (
	Present     = "now"
	NotePresent = "present"
)

// Diff calls each for everything that changed from one snapshot to another; from and to are as for findSnapshot, or Present; to empty: the newest that is not divergent. It reads
// trees alone, of which what both have is skipped. A snapshot that was never published has no tree: an outline is made of it (replica.Outline). An error of each ends it.
//
// Where all that is compared is on this machine, neither the Hive nor the block store is needed.
func (m *Manager) Diff(ctx context.Context, name, from, to string, each func(Change) error) (res DiffResult, err error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return res, err
	}
	fail := func(err error) (DiffResult, error) { return res, v.wrap(fmt.Errorf("diff: %w", err)) }
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	all, herr := m.history(ask, v)
	cancel()
	d := &comparison{m: m, v: m.home(v), key: v.key}
	defer d.end()
	for n, text := range []string{from, to} {
		if d.sides[n], err = d.side(ctx, all, text, n == 1); errors.Is(err, ErrNoSnapshot) && herr != nil {
			err = herr // it may be one that the Hive knows
		}
		if err != nil {
			return fail(err)
		}
	}
	res.From, res.To = d.sides[0].info, d.sides[1].info
	if err := d.outlines(ctx); err != nil {
		return fail(m.storeError(err))
	}
	for c, err := range snapshot.Diff(ctx, d.reader(), d.sides[0].root, d.sides[1].root) {
		if err != nil {
			return fail(m.storeError(err))
		}
		res.Changes++
		res.Bytes += c.Bytes
		err := each(Change{Path: c.Path, Kind: c.Kind, Type: typeName(c.Mode), Was: c.Was, Now: c.Now, Bytes: c.Bytes, Files: c.Files, Dirs: c.Dirs})
		if err != nil {
			return fail(err)
		}
	}
	return res, nil
}

func typeName(mode uint32) string {
	switch mode & wire.ModeType {
	case wire.ModeReg:
		return "file"
	case wire.ModeDir:
		return "dir"
	case 0o120000:
		return "link"
	case 0o010000:
		return "fifo"
	case 0o140000:
		return "socket"
	case 0o020000:
		return "char"
	}
	return "block"
}
