package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/replica"
	"fractal-lazy/seal"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// Bounds and version of volume.json.
const (
	recordVersion = 1
	sealedVersion = 2        // the key is sealed; a program that does not know that leaves the volume alone
	maxRecord     = 16 << 20 // bytes; TestRecord_LargestThereCanBeIsWritten reckons what there can be
	maxSnapshots  = 4096
	maxRoot       = 128 // bytes of a CID's text; ours have 59
)

// errRecord: a volume.json that cannot be trusted.
var errRecord = errors.New("damaged volume.json")

// record is volume.json: all that is remembered of a volume. docs/FORMAT.md lists its fields.
type record struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Key       string            `json:"key,omitempty"`        // base64; the file is 0600
	SealedKey string            `json:"sealed_key,omitempty"` // in its place in version 2
	Made      bool              `json:"made"`                 // the key was generated here: before the first publication nobody else has data of it
	Created   time.Time         `json:"created"`
	Options   map[string]string `json:"options,omitempty"` // as given, without the key
	Known     bool              `json:"known"`             // the Hive has the volume
	Writer    bool              `json:"writer"`            // this machine is the last known writer
	Release   bool              `json:"release"`           // unmounted: publish what is left, then give the writer back
	Seen      *mark             `json:"seen,omitempty"`    // highest generation that the Hive ever showed
	Base      *baseRecord       `json:"base,omitempty"`    // what the data comes from, or was last published as
	From      *originRecord     `json:"from,omitempty"`    // what the data was restored from since Base; no snapshot was taken of it yet
	SavedGen  uint64            `json:"saved_gen"`         // BTRFS generation of data when it equalled Base
	// Source is the public key of the volume that a clone still takes content from; empty: it does not.
	Source string `json:"source,omitempty"`
	// Unpin are roots that are to be unpinned unless a manifest names them: those of manifests that were removed, or are about to be, and what is being published.
	Unpin []string `json:"unpin,omitempty"`
	// RemoteUnpin are roots at second places, of what is being replicated there.
	RemoteUnpin []rootAt `json:"remote_unpin,omitempty"`
	// Snapshots are the local ones, ascending by time.
	Snapshots  []snapRecord  `json:"snapshots,omitempty"`
	Follow     *followRecord `json:"follow,omitempty"` // what differs from Base was fetched
	Fence      *fenceRecord  `json:"fence,omitempty"`  // another machine took over
	Swap       *swapRecord   `json:"swap,omitempty"`   // data.new is whole and becomes data
	Replicated *time.Time    `json:"replicated,omitempty"`
	Imported   *importRecord `json:"imported,omitempty"` // taken over from Buttervolume
	Totals     totals        `json:"totals"`             // of the newest published snapshot; what is remote, as of the last unmount
}

type mark struct {
	Generation uint64 `json:"generation"`
	Hash       string `json:"hash"`
}

type baseRecord struct {
	Generation uint64    `json:"generation"`
	Hash       string    `json:"hash"`
	Root       string    `json:"root"`
	SizeTotal  uint64    `json:"size_total"`
	ChunkSize  uint32    `json:"chunk_size"`
	Local      string    `json:"local,omitempty"` // uuid of the snapshot under snapshots/
	Created    time.Time `json:"created"`
	Machine    string    `json:"machine,omitempty"`
	Size       uint64    `json:"size"` // bytes added, for lists
}

// Why a local snapshot is kept.
const (
	kindPending   = "pending"   // to be published
	kindBase      = "base"      // the one published last
	kindOld       = "old"       // data before it was replaced by a newer snapshot; all of it is published
	kindDivergent = "divergent" // holds changes that were never published; kept until the volume is removed
)

type snapRecord struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Created time.Time `json:"created"`
	// Gen is the BTRFS generation of data that it holds; of a snapshot that is published, that which the snapshot keeps once it is settled (settledGeneration):
	// one that has another was written to since, and is no lazy.Source.
	Gen uint64 `json:"gen"`
	// From is set where data was restored since the snapshot before this one.
	From *originRecord `json:"from,omitempty"`
	// Published is what an old snapshot is at the Hive, where that is known.
	Published *baseRecord `json:"published,omitempty"`
}

// originRecord is what data was restored from: its next snapshot is compared with this, and published behind Base.
type originRecord struct {
	Root  string `json:"root,omitempty"`  // empty: it was never published
	Local string `json:"local,omitempty"` // uuid of the snapshot under snapshots/ that has just this tree; empty: none
}

type fenceRecord struct {
	By       string    `json:"by"` // a machine; empty: unknown
	Since    time.Time `json:"since"`
	Snapshot string    `json:"snapshot,omitempty"` // the divergent one made of this fencing
}

// swapRecord: see swap.go.
type swapRecord struct {
	Keep   string      `json:"keep,omitempty"`   // snapshot that today's data becomes; empty: there is none
	Kind   string      `json:"kind,omitempty"`   // of Keep
	Base   *baseRecord `json:"base,omitempty"`   // of data.new; nil: an empty volume
	Totals *totals     `json:"totals,omitempty"` // of data.new
	// From is set by a restore: Base stays, and today's data, of which a snapshot was taken, goes.
	From *originRecord `json:"from,omitempty"`
}

type totals struct {
	Complete    bool   `json:"complete"`
	BytesTotal  uint64 `json:"bytes_total"`
	BytesRemote uint64 `json:"bytes_remote"`
	FilesTotal  uint64 `json:"files_total"`
	FilesRemote uint64 `json:"files_remote"`
}

// decodeRecord reads a volume.json and checks every field, also those that
// become part of a path. The key comes back parsed; a sealed one is zero.
func decodeRecord(b []byte) (*record, seal.Privkey, error) {
	fail := func(what string) (*record, seal.Privkey, error) {
		return nil, seal.Privkey{}, fmt.Errorf("%w: %s", errRecord, what)
	}
	if len(b) > maxRecord {
		return fail("too long")
	}
	var r record
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		// The decoder's message may quote the file, which holds a key.
		return fail("not the JSON of this version")
	}
	if _, err := d.Token(); err != io.EOF {
		return fail("bytes behind its end")
	}
	if r.Version != recordVersion && r.Version != sealedVersion {
		return fail(fmt.Sprintf("version %d, this program knows %d and %d", r.Version, recordVersion, sealedVersion))
	}
	var key seal.Privkey
	var err error
	if r.Version == sealedVersion {
		_, err = seal.ParseSealedKey(r.SealedKey)
	} else {
		key, err = seal.ParsePrivkey(r.Key)
	}
	if err != nil || r.Key != "" && r.SealedKey != "" {
		return fail("key")
	}
	if checkName(r.Name) != nil {
		return fail("name")
	}
	if _, err := parseSettings(r.Options, 0); err != nil {
		return fail("options: " + err.Error())
	}
	if err := r.check(); err != nil {
		return nil, seal.Privkey{}, err
	}
	return &r, key, nil
}

// public returns the public half of the record's key, which is key unless that is still locked.
func (r *record) public(key seal.Privkey) seal.Pubkey {
	if !key.IsZero() {
		return key.Public()
	}
	s, err := seal.ParseSealedKey(r.SealedKey)
	if err != nil { // decodeRecord has looked at it
		return seal.Pubkey{}
	}
	return s.Public()
}

func (r *record) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", errRecord, what) }
	if r.Seen != nil {
		if _, err := hive.ParseHash(r.Seen.Hash); err != nil || r.Seen.Generation == 0 {
			return bad("seen")
		}
	}
	if r.Base != nil && r.Base.check() != nil {
		return bad("base")
	}
	if r.From.check() != nil {
		return bad("from")
	}
	if r.Imported.check() != nil {
		return bad("imported")
	}
	if r.Source != "" {
		if p, err := seal.ParsePubkey(r.Source); err != nil || p.String() != r.Source {
			return bad("source")
		}
	}
	if len(r.Unpin) > maxSnapshots || slices.ContainsFunc(r.Unpin, func(s string) bool { return checkRoot(s) != nil }) {
		return bad("unpin")
	}
	if len(r.RemoteUnpin) > maxRemoteUnpin || slices.ContainsFunc(r.RemoteUnpin, func(a rootAt) bool { return a.check() != nil }) {
		return bad("remote_unpin")
	}
	if len(r.Snapshots) > maxSnapshots {
		return bad("too many snapshots")
	}
	for _, s := range r.Snapshots {
		if !isUUID(s.ID) || !slices.Contains([]string{kindPending, kindBase, kindOld, kindDivergent}, s.Kind) {
			return bad("snapshots")
		}
		if s.From.check() != nil || s.Published != nil && s.Published.check() != nil {
			return bad("snapshots")
		}
	}
	if f := r.Fence; f != nil && (f.By != "" && !isUUID(f.By) || f.Snapshot != "" && !isUUID(f.Snapshot)) {
		return bad("fence")
	}
	if w := r.Swap; w != nil {
		if w.Keep != "" && (!isUUID(w.Keep) || w.Kind != kindOld && w.Kind != kindDivergent) || w.Base != nil && w.Base.check() != nil ||
			w.From.check() != nil || w.From != nil && w.Totals == nil {
			return bad("swap")
		}
	}
	return nil
}

func (b *baseRecord) check() error {
	if _, err := hive.ParseHash(b.Hash); err != nil {
		return err
	}
	if err := checkRoot(b.Root); err != nil {
		return err
	}
	if b.Generation == 0 || b.Machine != "" && !isUUID(b.Machine) || b.Local != "" && !isUUID(b.Local) {
		return errRecord
	}
	return nil
}

func (a rootAt) check() error {
	if a.Remote == "" || len(a.Remote) > maxRemoteName {
		return errRecord
	}
	return checkRoot(a.Root)
}

// check passes where there is none.
func (o *originRecord) check() error {
	switch {
	case o == nil:
		return nil
	case o.Local != "" && !isUUID(o.Local):
		return errRecord
	case o.Root == "":
		return nil
	}
	return checkRoot(o.Root)
}

// checkRoot accepts the text of a CID that has a place in a record.
func checkRoot(text string) error {
	if len(text) > maxRoot {
		return fmt.Errorf("a CID of %d characters, more than %d", len(text), maxRoot)
	}
	_, err := cid.Decode(text)
	return err
}

// isUUID accepts the one spelling that this program writes; others could be the same folder twice.
func isUUID(s string) bool {
	u, err := uuid.Parse(s)
	return err == nil && u.String() == s
}

// clone returns a copy that shares nothing that is changed in place.
func (r *record) clone() record {
	c := *r
	c.Snapshots, c.Unpin, c.RemoteUnpin = slices.Clone(r.Snapshots), slices.Clone(r.Unpin), slices.Clone(r.RemoteUnpin)
	return c
}

func (r *record) snapshot(id string) *snapRecord {
	i := slices.IndexFunc(r.Snapshots, func(s snapRecord) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &r.Snapshots[i]
}

func (r *record) drop(id string) {
	r.Snapshots = slices.DeleteFunc(r.Snapshots, func(s snapRecord) bool { return s.ID == id })
}

// pending returns the oldest snapshot that waits for its upload; nil: none.
func (r *record) pending() *snapRecord {
	i := slices.IndexFunc(r.Snapshots, func(s snapRecord) bool { return s.Kind == kindPending })
	if i < 0 {
		return nil
	}
	return &r.Snapshots[i]
}

// setAside takes the snapshots out of those that wait for their upload, which the snapshot id, empty for data as it is now, comes after: it returns what that one grew
// out of, and so holds as well. What waited when the volume was restored is in nothing that came after: it becomes divergent, and stays.
func (r *record) setAside(id string) (useless []string) {
	last := len(r.Snapshots)
	restored := r.From != nil
	if i := slices.IndexFunc(r.Snapshots, func(s snapRecord) bool { return s.ID == id }); i >= 0 {
		last, restored = i, r.Snapshots[i].From != nil
	}
	for i := last - 1; i >= 0; i-- {
		s := &r.Snapshots[i]
		began := s.From != nil // with this one data grew on from what had been restored
		switch {
		case s.Kind != kindPending:
		case restored:
			s.Kind, s.From = kindDivergent, nil
		default:
			useless = append(useless, s.ID)
		}
		restored = restored || began
	}
	return useless
}

// roomError refuses one more local snapshot where the record has as many as it may.
func (r *record) roomError() error {
	if len(r.Snapshots) < maxSnapshots {
		return nil
	}
	return fmt.Errorf("%d local snapshots are kept already, the most there may be: remove some (`fractal-lazy purge --local %s PATTERN`, `fractal-lazy rm`)", len(r.Snapshots), r.Name)
}

func (r *record) count(kind string) (n int) {
	for _, s := range r.Snapshots {
		if s.Kind == kind {
			n++
		}
	}
	return n
}

// held returns the BTRFS generation of data up to which a snapshot of this kind
// would hold nothing new: that of the last one of its kind, or of Base.
func (r *record) held(kind string) uint64 {
	gen := r.SavedGen
	for _, s := range r.Snapshots {
		if s.Kind == kindPending || kind == kindDivergent && r.Fence != nil && s.ID == r.Fence.Snapshot {
			gen = max(gen, s.Gen)
		}
	}
	return gen
}

// see remembers the newest manifest that the Hive showed.
func (r *record) see(generation uint64, hash string) {
	if r.Seen == nil || generation > r.Seen.Generation {
		r.Seen = &mark{Generation: generation, Hash: hash}
	}
}

// base gives the record of the base to package replica; dir is the snapshots' folder.
func (b *baseRecord) replica(dir string) (replica.Base, error) {
	if b == nil {
		return replica.Base{}, nil
	}
	root, err := cid.Decode(b.Root)
	if err != nil {
		return replica.Base{}, fmt.Errorf("root of the last snapshot: %w", err)
	}
	hash, err := hive.ParseHash(b.Hash)
	if err != nil {
		return replica.Base{}, fmt.Errorf("hash of the last snapshot: %w", err)
	}
	out := replica.Base{Root: root, Hash: hash, Generation: b.Generation, SizeTotal: b.SizeTotal, ChunkSize: b.ChunkSize}
	if b.Local != "" {
		out.Local = filepath.Join(dir, b.Local)
	}
	return out, nil
}

// source gives what data was restored from to package replica; dir is the snapshots' folder. Nil for a nil record.
func (o *originRecord) source(dir string, base replica.Base) (*replica.Source, error) {
	if o == nil {
		return nil, nil
	}
	if o.Root == "" {
		// Only the tree of Base is known. Its names are compared with, but no file is taken unread.
		return &replica.Source{Root: base.Root}, nil
	}
	root, err := cid.Decode(o.Root)
	if err != nil {
		return nil, fmt.Errorf("root of the restored snapshot: %w", err)
	}
	s := &replica.Source{Root: root}
	if o.Local != "" {
		s.Local = filepath.Join(dir, o.Local)
	}
	return s, nil
}

// encode returns the bytes of volume.json. What decodeRecord would refuse, and so leave the volume out, is not written.
func (r *record) encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode volume.json: %w", err)
	}
	if b = append(b, '\n'); len(b) > maxRecord {
		return nil, fmt.Errorf("%w: over %d bytes", errRecord, maxRecord)
	}
	return b, nil
}
