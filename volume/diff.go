package volume

import (
	"context"
	"fmt"

	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
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

// Diff calls each for everything that changed from one published snapshot to another; to empty: the newest. It reads the trees alone, of
// which what both have is skipped. An error of each ends it.
func (m *Manager) Diff(ctx context.Context, name, from, to string, each func(Change) error) (res DiffResult, err error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return res, err
	}
	fail := func(err error) (DiffResult, error) { return res, v.wrap(fmt.Errorf("diff: %w", err)) }
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	all, err := m.history(ask, v)
	cancel()
	if err != nil {
		return fail(err)
	}
	if res.From, err = findSnapshot(all, from); err != nil {
		return fail(err)
	}
	if to == "" {
		for _, i := range all {
			if i.Remote {
				res.To = i
			}
		}
	} else if res.To, err = findSnapshot(all, to); err != nil {
		return fail(err)
	}
	var roots [2]cid.Cid
	for n, i := range []SnapshotInfo{res.From, res.To} {
		if !i.Remote {
			return fail(fmt.Errorf("%w: %s is on this machine alone, and its tree is known only when it is published; look into it with `fractal-lazy browse`", ErrNotReady, shownName(i)))
		}
		if roots[n], err = cid.Decode(i.Root); err != nil {
			return fail(fmt.Errorf("root of generation %d: %w", i.Generation, err))
		}
	}
	r := snapshot.NewReader(m.storeOf(v), v.key.Sealer())
	for c, err := range snapshot.Diff(ctx, r, roots[0], roots[1]) {
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
