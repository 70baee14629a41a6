package volume

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

// step is what has a volume for itself: one at a time, see vol.enter.
type step string

const (
	stepNone     step = ""
	stepMount    step = "mount"
	stepUnmount  step = "unmount"
	stepSnapshot step = "snapshot"
	stepRestore  step = "restore"
	stepClone    step = "clone"
	stepPurge    step = "purge"
	stepFollow   step = "synchronize" // ends where another step wants the volume
	stepView     step = "view"        // of a view: from choosing its snapshot until its data says so
	stepRelease  step = "release"
	stepRemove   step = "remove"
)

// vol is one volume, or one view of a snapshot.
type vol struct {
	// Set once.
	dir  string // holds data, snapshots, volume.json
	name string
	pub  seal.Pubkey
	set  settings

	saveMu sync.Mutex // one writer of volume.json and of mounts.json; taken before mu

	// key is set once, under mu, by who then clears locked. Read it after lockedError.
	key seal.Privkey

	mu      sync.Mutex // guards all below; nothing blocks under it
	locked  string     // why the key is not open; empty: it is
	rec     record
	ids     map[string]struct{} // mounts in use
	step    step
	changed chan struct{} // closed, and replaced, at every change that somebody may wait for
	gone    bool          // removed
	prep    *prep         // Mount in the background
	live    *live         // nil: not mounted
	closing bool          // live is being taken down: no new ids
	since   time.Time     // when live came, or when its ids became none
	claimed bool          // the Hive named us the writer since live came, or since the last question
	offline string        // why not claimed, where live

	work     *work // runs now; nil: none
	final    bool  // not mounted: a snapshot holds the last state, or nothing changed
	retry    backoff
	asked    bool // a person waits: publish now, and do not mind the backoff
	lastSnap time.Time
	lastAsk  time.Time // of the writer
	uploadIs Progress
	problem  string // why the last upload failed
	snapWhy  string // why the last interval snapshot failed
	follow   *following
	// pinning counts who pins a root for a manifest that is to come; unpinning are those that are being unpinned. No root is both.
	pinning   map[rootAt]int
	unpinning map[rootAt]bool
	unpinAt   time.Time // when what is left to be unpinned is tried again
	// remoteUnpinAt is the same for what is left at second places.
	remoteUnpinAt time.Time
	leftOut       string // what the last snapshot of a direct mount does not hold
}

// prep is one try at mounting, shared by all who wait for it.
type prep struct {
	done chan struct{}
	err  error // valid once done is closed
}

// work is the worker's goroutine of one volume, while it runs.
type work struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// newVol makes the vol of a record whose key has the public half pub; key is zero where it is still locked.
func newVol(dir string, rec *record, key seal.Privkey, pub seal.Pubkey, set settings) *vol {
	return &vol{dir: dir, name: rec.Name, key: key, pub: pub, set: set, rec: *rec,
		ids: map[string]struct{}{}, changed: make(chan struct{})}
}

func (v *vol) data() string             { return filepath.Join(v.dir, "data") }
func (v *vol) next() string             { return filepath.Join(v.dir, "data.new") }
func (v *vol) snaps() string            { return filepath.Join(v.dir, "snapshots") }
func (v *vol) snap(id string) string    { return filepath.Join(v.snaps(), id) }
func (v *vol) recordFile() string       { return filepath.Join(v.dir, "volume.json") }
func (v *vol) idsFile() string          { return filepath.Join(v.dir, "mounts.json") }
func (v *vol) isView() bool             { return v.set.view != nil }
func (v *vol) wrap(err error) error     { return fmt.Errorf("volume %s: %w", v.name, err) }
func (v *vol) has(path string) bool     { return exists(path) }
func newSnapshotID() string             { return uuid.NewString() }
func (v *vol) signalLocked()            { close(v.changed); v.changed = make(chan struct{}) }
func (v *vol) freshLocked() (r *record) { c := v.rec.clone(); return &c }

// record returns a copy of what is remembered.
func (v *vol) record() *record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.freshLocked()
}

// update notes in the record what happened, and writes it durably. The change counts in memory
// even where writing fails.
func (v *vol) update(change func(r *record)) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	v.mu.Lock()
	change(&v.rec)
	r := v.freshLocked()
	v.signalLocked()
	v.mu.Unlock()
	return v.save(r)
}

// intend notes in the record, durably, what is about to be done. Where writing fails nothing is noted, in memory neither: a later call must not
// finish what this one gave up. change is called twice, and changes nothing but r.
func (v *vol) intend(change func(r *record)) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	r := v.record()
	change(r)
	if err := v.save(r); err != nil {
		return err
	}
	v.mutate(func() { change(&v.rec) })
	return nil
}

// save writes volume.json. saveMu is held.
func (v *vol) save(r *record) error {
	v.mu.Lock()
	gone := v.gone
	v.mu.Unlock()
	if gone {
		return v.wrap(ErrUnknown)
	}
	b, err := r.encode()
	if err == nil {
		err = writeFile(v.recordFile(), b)
	}
	if err != nil {
		return v.wrap(fmt.Errorf("write volume.json: %w", err))
	}
	return nil
}

// set changes what is only in memory.
func (v *vol) mutate(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
	v.signalLocked()
}

// enter waits until no other step has the volume, and takes it for s. It is
// the outermost of all that is waited for; see doc.go. A Synchronize makes room at once.
func (v *vol) enter(ctx context.Context, s step) error {
	for {
		v.mu.Lock()
		if v.gone {
			v.mu.Unlock()
			return v.wrap(ErrUnknown)
		}
		if v.step == stepNone {
			v.step = s
			v.signalLocked()
			v.mu.Unlock()
			return nil
		}
		other, ch, f := v.step, v.changed, v.follow
		v.mu.Unlock()
		if f != nil && s != stepFollow {
			f.cancel(fmt.Errorf("%w: it was ended by a %s of the volume", ErrBusy, s))
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return v.wrap(fmt.Errorf("%w: %s waits for its %s", ErrBusy, s, other))
		}
	}
}

func (v *vol) leave() { v.mutate(func() { v.step = stepNone }) }

// idsRecord is mounts.json: the mounts in use, of one boot of the machine.
type idsRecord struct {
	Version int      `json:"version"`
	Boot    string   `json:"boot"`
	IDs     []string `json:"ids"`
	Direct  bool     `json:"direct,omitempty"` // the mount is a bind of the subvolume, which needs no daemon
}

// Bounds of mount ids.
const (
	maxIDs    = 10_000
	maxIDSize = 256
)

// saveIDs writes mounts.json.
func (v *vol) saveIDs(boot string) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	v.mu.Lock()
	ids := slices.Sorted(maps.Keys(v.ids))
	gone, direct := v.gone, v.live != nil && v.live.how == mountDirect
	v.mu.Unlock()
	if gone {
		return nil
	}
	b, err := json.Marshal(idsRecord{Version: 1, Boot: boot, IDs: ids, Direct: direct})
	if err == nil {
		err = writeFile(v.idsFile(), append(b, '\n'))
	}
	if err != nil {
		return v.wrap(fmt.Errorf("write mounts.json: %w", err))
	}
	return nil
}

// readIDs returns what mounts.json says; a damaged one counts as empty, since
// the mounts that it names are gone with the process that wrote it.
func (v *vol) readIDs() (r idsRecord) {
	b, err := readFile(v.idsFile(), 4<<20)
	if err != nil || json.Unmarshal(b, &r) != nil || r.Version != 1 {
		return idsRecord{}
	}
	return r
}
