package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/mutant"

	"github.com/google/uuid"
)

// askTimeout bounds one conversation with the Hive on the way of a Mount, so
// that one that hangs counts as unreachable well before Docker gives up.
const askTimeout = 7 * time.Second

// answer is what the Hive says of a volume.
type answer struct {
	rec     *record // what to hold it against: between the two nothing was published from here
	err     error   // it could not be asked; nothing else counts
	unknown bool
	writer  *uuid.UUID
	latest  *hive.Manifest // nil: none
}

var errNoHive = errors.New("no Hive is configured; give one with --hive URL or FRACTAL_HIVE")

// ask asks the Hive for the writer, and for the newest manifest where withLatest is set.
//
// An upload of this machine may end beside it: held against the record of after that, an answer from before it would look like an older snapshot than one
// already seen; and held against the record of before two uploads, an answer from after them like another machine's. So the answer comes with a record, and where
// an upload ended meanwhile it asks again.
func (m *Manager) ask(ctx context.Context, v *vol, withLatest bool) answer {
	for {
		r := v.record()
		a := m.askOnce(ctx, v, withLatest)
		a.rec = r
		after, before := v.record().Seen, r.Seen
		if after == before || after != nil && before != nil && *after == *before || ctx.Err() != nil {
			return a
		}
	}
}

func (m *Manager) askOnce(ctx context.Context, v *vol, withLatest bool) (a answer) {
	if m.d.Hive == nil {
		return answer{err: errNoHive}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	vol, err := m.d.Hive.Volume(ctx, v.pub)
	if errors.Is(err, hive.ErrNotFound) {
		return answer{unknown: true}
	}
	if err != nil {
		return answer{err: err}
	}
	a.writer = vol.Writer
	if withLatest {
		a.latest, err = m.d.Hive.Latest(ctx, v.pub)
		if err != nil && !errors.Is(err, hive.ErrNotFound) {
			return answer{err: err}
		}
	}
	return a
}

// How a mount stands towards the Hive.
type claim int

const (
	claimRefuse  claim = iota // err says why
	claimOffline              // mount what is here, without the Hive
	claimTake                 // become the writer
	claimCreate               // make the volume known there, then become the writer
)

type claimDecision struct {
	do  claim
	why string
	err error
}

// decideClaim says whether this machine, me, may mount the volume for writing.
// It is a pure function.
func decideClaim(r *record, set *settings, me uuid.UUID, hasData bool, a answer) claimDecision {
	switch {
	case a.err != nil:
		switch {
		case hasData && r.Writer:
			return claimDecision{do: claimOffline, why: a.err.Error()}
		case hasData && r.Made && !r.Known, !hasData && r.Made && !r.Known && r.Base == nil:
			// Nobody else can have data of a key that was made here and never published.
			return claimDecision{do: claimOffline, why: a.err.Error()}
		case hasData:
			return claimDecision{err: fmt.Errorf("%w: the Hive cannot be asked whether another machine has the volume, "+
				"and this one was not its last known writer; mount again when it answers: %w", ErrNotReady, a.err)}
		default:
			return claimDecision{err: fmt.Errorf("%w: the volume's data is not here and the Hive cannot be asked for it: %w", ErrNotReady, a.err)}
		}
	case a.unknown && r.Seen != nil:
		return claimDecision{err: fmt.Errorf("%w: it does not know the volume any more, of which generation %d was seen; "+
			"check the Hive's URL and the token", ErrRollback, r.Seen.Generation)}
	case a.unknown:
		return claimDecision{do: claimCreate, why: "the Hive does not know the volume yet"}
	case a.writer == nil:
		return claimDecision{do: claimTake, why: "the volume is free"}
	case *a.writer == me:
		return claimDecision{do: claimTake, why: "this machine is the writer already"}
	case set.takeover:
		return claimDecision{do: claimTake, why: fmt.Sprintf("taken over from machine %s (takeover=always)", a.writer)}
	default:
		return claimDecision{err: fmt.Errorf("%w: machine %s; unmount it there, or have the Hive pass the writer on, "+
			"or, if that machine is gone for good, create the volume with -o takeover=always", ErrHeld, a.writer)}
	}
}

// take makes this machine the writer and reads it back, since the Hive's API
// has no compare-and-set.
func (m *Manager) take(ctx context.Context, v *vol, create bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if create {
		if err := m.d.Hive.Create(ctx, v.pub); err != nil {
			return fmt.Errorf("make the volume known to the Hive: %w", err)
		}
	}
	me := m.id()
	if err := m.d.Hive.SetWriter(ctx, v.pub, &me); err != nil {
		return fmt.Errorf("become the writer: %w", err)
	}
	now, err := m.d.Hive.Volume(ctx, v.pub)
	if err != nil {
		return fmt.Errorf("become the writer: %w", err)
	}
	if now.Writer == nil || *now.Writer != me {
		holder := "nobody"
		if now.Writer != nil {
			holder = now.Writer.String()
		}
		return fmt.Errorf("%w: it was taken by %s at the same moment; try again", ErrHeld, holder)
	}
	return nil
}

// What to do with the data that is here.
type dataPlan int

const (
	dataRefuse  dataPlan = iota // err says why
	dataKeep                    // mount what is here
	dataEmpty                   // begin empty
	dataRestore                 // show the Hive's newest snapshot; what is here, if anything, becomes a local snapshot
)

type dataDecision struct {
	do   dataPlan
	kind string // dataRestore with data here: of the snapshot that it becomes
	why  string
	err  error
}

// decideData says where a mounted volume's data comes from. changed: the data
// here is not, or may not be, what Base describes. It is a pure function.
func decideData(r *record, me uuid.UUID, hasData, changed bool, latest *hive.Manifest) dataDecision {
	if err := checkSeen(r, latest); err != nil {
		return dataDecision{err: err}
	}
	switch {
	case latest == nil && hasData:
		return dataDecision{do: dataKeep, why: "nothing is published yet"}
	case latest == nil:
		return dataDecision{do: dataEmpty, why: "new volume"}
	case !hasData:
		return dataDecision{do: dataRestore, why: fmt.Sprintf("generation %d from the Hive", latest.Generation)}
	case mutant.Is(mutant.TakeoverKeeps):
		return dataDecision{do: dataKeep, why: "a fault"}
	case r.Base != nil && latest.Generation == r.Base.Generation && latest.Hash().String() == r.Base.Hash:
		return dataDecision{do: dataKeep, why: "the data here is the newest"}
	case isOwnUpload(r, me, latest):
		return dataDecision{do: dataKeep, why: "the newest snapshot is this machine's own upload, not yet recorded"}
	case changed:
		return dataDecision{do: dataRestore, kind: kindDivergent,
			why: fmt.Sprintf("machine %s published generation %d, and there are changes here that were never published", latest.Machine, latest.Generation)}
	default:
		return dataDecision{do: dataRestore, kind: kindOld, why: fmt.Sprintf("machine %s published generation %d", latest.Machine, latest.Generation)}
	}
}

// checkSeen holds the Hive's newest manifest, nil for none, against the newest ever seen.
func checkSeen(r *record, latest *hive.Manifest) error {
	if r.Seen == nil {
		return nil
	}
	const what = "; if the Hive was set back on purpose, remove the volume here and create it again from its key"
	switch {
	case latest == nil:
		return fmt.Errorf("%w: none, after generation %d%s", ErrRollback, r.Seen.Generation, what)
	case latest.Generation < r.Seen.Generation:
		return fmt.Errorf("%w: generation %d, after %d%s", ErrRollback, latest.Generation, r.Seen.Generation, what)
	case latest.Generation == r.Seen.Generation && latest.Hash().String() != r.Seen.Hash:
		return fmt.Errorf("%w: another snapshot of generation %d%s", ErrRollback, latest.Generation, what)
	}
	return nil
}

// isOwnUpload reports whether latest is what this machine posted without
// living to write it down: the next upload meets it and goes on from there.
func isOwnUpload(r *record, me uuid.UUID, latest *hive.Manifest) bool {
	base := uint64(0)
	if r.Base != nil {
		base = r.Base.Generation
	}
	return latest.Machine == me && latest.Generation == base+1 && r.pending() != nil
}
