package replica

import (
	"context"
	"errors"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/pace"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

var (
	// ErrFenced: the Hive does not take manifests from this machine, another one is the writer.
	ErrFenced = errors.New("another machine is the writer of the volume")
	// ErrBehind: the Hive holds a manifest of the generation that was to be posted, or of a later one, and it is
	// not this Job's. The Base has to be read from the Hive again.
	ErrBehind = errors.New("the Hive holds a newer snapshot than the base")
	// ErrForeign: the snapshot is of a clone that still takes content from another volume, whose blocks it cannot refer to.
	ErrForeign = errors.New("it still takes content from the volume that it is a clone of")
	// ErrWritable: the snapshot of a Job is not read-only; what is read could change on the way.
	ErrWritable = errors.New("snapshot is not read-only")
)

// Hive is what a Publisher needs of the storage backend.
type Hive interface {
	Volume(ctx context.Context, p seal.Pubkey) (hive.Volume, error)
	Post(ctx context.Context, p seal.Pubkey, signed []byte) (hive.Hash, error)
	Latest(ctx context.Context, p seal.Pubkey) (*hive.Manifest, error)
}

var _ Hive = (*hive.Client)(nil)

// Base is the last published snapshot of the volume, made on this machine or another. The zero Base: none.
type Base struct {
	Local      string    // path of the local read-only snapshot it was made from; empty, or not there any more: none here
	Root       cid.Cid   // its root
	Hash       hive.Hash // of its manifest; zero: the Hive holds none yet
	Generation uint64
	SizeTotal  uint64
	ChunkSize  uint32
}

// Source is what the data of a Job was restored from, where that is not its Base: the tree and the local snapshot that are compared
// with. Base then is the manifest before, and nothing else.
type Source struct {
	Root  cid.Cid // undefined: the tree is not known, and nothing is taken from it
	Local string  // path of the local read-only snapshot of just this tree; empty: none here
}

// Job is one snapshot to publish. A Job that is published again must be the same in every field, or its manifest is another one.
type Job struct {
	Volume      string // name for messages
	Key         seal.Privkey
	Machine     uuid.UUID
	Snapshot    string // path of the local read-only BTRFS snapshot
	Created     time.Time
	Base        Base
	Source      *Source // nil: the data grew out of Base
	ChunkSize   uint32  // bytes; 0: the base's, or the default
	Compression snapshot.Compression
	NoPatches   bool     // what changed of a file is written in whole windows: readable by versions that know no patches, where the base has none
	Working     *Working // nil: nothing is known of it
	// Line is what the blocks are sent over; nil: no limit.
	Line *pace.User
	// Pinning is called with the root before it is pinned, so that the caller can unpin it where no manifest comes to name it; an error of it ends the Job.
	// May be nil.
	Pinning  func(root cid.Cid) error
	Progress func(Progress) // may be nil; called at most a few times a second, from any goroutine, never at once
}

// Progress of a Job.
type Progress struct {
	Phase         string // "read", "upload", "pin", "publish"
	Files, Bytes  uint64 // read so far
	BytesUploaded uint64 // sent to the store so far; what it had already does not count
}

// Way is how a Job found out what to read.
type Way string

const (
	// WayWalk: every directory was listed, and every inode compared with the base where that was here.
	WayWalk Way = "walk"
	// WayChanges: the kernel said what had changed since the base.
	WayChanges Way = "changes"
)

// Result of a Job. Unchanged: the tree equals the base; nothing was posted and Base stays the newest.
type Result struct {
	Way       Way
	Base      Base // what the next Job starts from
	Manifest  *hive.Manifest
	Stats     snapshot.Stats
	Unchanged bool
}

// Deps of a Publisher. Nodes is a folder for a local cache of tree nodes (safe to delete at any time); empty: no cache.
type Deps struct {
	Store store.Store
	Hive  Hive
	Nodes string
	Log   zerolog.Logger
}
