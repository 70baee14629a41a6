package mark

import (
	"errors"

	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

// Names of the marks.
const (
	Prefix   = "trusted.fractal."
	DirName  = Prefix + "dir"
	FileName = Prefix + "file"
	LinkName = Prefix + "link"
	TreeName = Prefix + "tree"
	// LiftedName stands at the root directory while the flags of an inode are lifted.
	LiftedName = Prefix + "lifted"
	// SourceName stands at the root directory of a clone, for good.
	SourceName = Prefix + "source"
)

const (
	// MaxSize bounds a mark, in bytes. BTRFS keeps an attribute of 16 KiB, but
	// a value that grows in place has to find room beside the old one, and
	// with it in one node of the tree: from half of that on it may fail with ENOSPC.
	MaxSize = 8000
	// MaxZero is the longest zero-list. Who needs more fetches instead.
	MaxZero = 400
	// MaxCaps is the longest security.capability, in bytes; version 3 of Linux has 24.
	MaxCaps = 64
	version = 1
)

// doneWindow is how long before Done the change time of an unchanged inode may
// be, in seconds. Without such a bound, a clock that was set back would make every later
// change look as if it had been before.
const doneWindow = 2

var (
	// ErrFormat: the bytes are no mark of a version that is known here.
	ErrFormat = errors.New("damaged mark")
	// ErrFull: the mark would be over MaxSize, or its zero-list over MaxZero.
	ErrFull = errors.New("mark is too large")
)

// State of a file's mark.
type State uint8

const (
	// Pending: bytes below Valid that the reference has as data, that are
	// not in Zero, and that are a hole in the backing file, are remote.
	Pending State = 1
	// Clean: nothing is missing. Content still describes the file where
	// Unchanged says so.
	Clean State = 2
	// held is how a pending mark with Held is stored.
	held State = 3
)

// Attributes reports whether the inode's times, capabilities and protecting flags are those of the mark.
func (f *File) Attributes() bool { return f.State == Pending && (f.Kept || f.Held) }

// File is the mark of a regular file. A field that says nothing in a state is
// not written in it, and read as its zero value.
type File struct {
	State   State
	Content wire.Content
	Valid   uint64       // pending: bytes; what lies above never was, or no longer is, remote
	Zero    []wire.Range // pending: whole sectors, ascending, not touching; reads as zeros wherever it is a hole
	Kept    bool         // pending: no application has changed the file, and Mtime, Caps and Flags are its own, whatever the inode says
	Held    bool         // pending, and not Kept: an application has, but Mtime, Caps and Flags are its own all the same; stored as a State
	Mtime   wire.Time    // where Kept or Held
	Caps    []byte       // where Kept or Held: security.capability; empty: none
	Flags   uint32       // where Kept or Held: immutable and append-only, which a fetch lifts for a moment
	Ctime   wire.Time    // clean, or where Kept: the change time to show while nothing but fetching changed the inode
	Done    wire.Time    // clean: shortly after the marking
}

// Unchanged reports whether an inode with the given change time and a clean
// mark still is what the marking left. Who marks keeps all others
// from the inode until the clock that stamps inodes is past Done.
func (f *File) Unchanged(ctime wire.Time) bool {
	return f.State == Clean && !after(ctime, f.Done) &&
		!after(wire.Time{Sec: f.Done.Sec - doneWindow, Nsec: f.Done.Nsec}, ctime)
}

func after(a, b wire.Time) bool { return a.Sec > b.Sec || (a.Sec == b.Sec && a.Nsec > b.Nsec) }

// Dir is the mark of a directory that is not filled.
type Dir struct {
	Ref   wire.DirRef
	Mtime wire.Time // to be set when it is filled
	Flags uint32    // immutable and append-only, to be set when it is filled
}

// Link is the mark of an inode with several names.
type Link struct {
	ID      uint64 // Entry.Link of the snapshot
	Pending uint32 // names that are not filled yet
	Hidden  bool   // a name in the hidden folder is one of st_nlink
}

// Tree is the mark on the root directory of a volume that is not complete.
type Tree struct {
	Root               cid.Cid // root of the snapshot that it came from
	Files, Dirs, Bytes uint64  // totals of that snapshot
}

// Source is the mark on the root directory of a clone: the references in all other marks of the subvolume are to blocks that were
// sealed for another volume.
type Source struct {
	Pubkey [32]byte // of that volume
}

// Lifted is the mark on the root directory while the protecting flags of one inode of the subvolume are lifted: what they were.
type Lifted struct {
	Ino   uint64
	Flags uint32 // immutable and append-only, at least one of them
}
