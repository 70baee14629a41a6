package fusefs

import (
	"os"
	"time"

	"github.com/rs/zerolog"
)

// Options of a mount. The zero value serves a tree read and write, with
// passthrough, without a limit, without logs.
type Options struct {
	// FSName is the source shown in /proc/self/mounts; "fractal-lazy" where empty.
	FSName string
	// ReadOnly mounts read-only: the kernel refuses changes before they reach us.
	ReadOnly bool
	// Log receives what no caller gets to see: errors that became a bare EIO,
	// passthrough refused by the kernel.
	Log zerolog.Logger
	// NoPassthrough serves all data through this process.
	NoPassthrough bool
	// Limit answers the size of the volume and what it uses, in bytes. It is
	// asked at each statfs, creation and growing write, so it has to be cheap.
	// nil, or a total of 0: the limits of the pool.
	Limit func() (total, used uint64)
	// Grew is told of each write, that has begun, how many bytes it may add to
	// what Limit answers. nil: nobody.
	Grew func(bytes uint64)
	// Measure is asked, before an operation is refused for lack of room, to find out anew what
	// Limit answers, and to give what room there is; it may take as long as du(1). nil: what Limit says counts.
	Measure func()
	// Timeouts say how long the kernel may keep what we told it.
	Timeouts Timeouts
	// Observe is told the name and the time of each operation, after it. nil: nobody.
	Observe func(op string, took time.Duration)
	// Opened is told the inode number of each regular file that is opened or made, before the application has it, and must not wait. nil: nobody.
	Opened func(ino uint64)
	// Without switches off what makes a mount faster.
	Without Without
	// Hold is given, before the mount is used, what another process needs to go on with it after this one; see Resume. The files are
	// the mount's and have to be duplicated. nil: the mount ends with this process. An error of it fails the mount.
	Hold func(Held) error
	// HoldRemoved is given a removed directory that is still in use, for Held.Removed of the next process, or nil for one that is used no more. The
	// file has to be duplicated. It is called with a lock held, and must not wait. nil: they end with this process.
	HoldRemoved func(ino uint64, dir *os.File) error
	// Debug logs each request and its answer.
	Debug bool
}

// Without names what makes a mount faster and can be switched off, so that it can be measured (docs/SPEED.md). Programs see the same files either way,
// but for KillPriv: without it passthrough writes leave setuid bits. The zero value has all of it.
type Without struct {
	NoOpenDir       bool // the kernel opens and closes directories at this process
	ListingCache    bool // the kernel forgets listings; with NoOpenDir
	ReadDirPlus     bool // listings have no attributes
	ReadDirPlusAuto bool // all listings have attributes, wanted or not
	SymlinkCache    bool // the kernel forgets what symbolic links say
	OpenDirectories bool // each operation opens its directory anew
	KillPriv        bool // the kernel asks for a file's capabilities at each write
}

// Timeouts of the kernel's caches. Zero means the default; a negative value means
// that nothing is cached. They can be long, as nobody else changes the tree.
type Timeouts struct {
	Entry    time.Duration // names that exist; 24 h
	Negative time.Duration // names that do not; 24 h
	Attr     time.Duration // attributes; 24 h, less where attrTimeout says so
}

const defaultTimeout = 24 * time.Hour

func (o Options) withDefaults() Options {
	if o.FSName == "" {
		o.FSName = "fractal-lazy"
	}
	for _, t := range []*time.Duration{&o.Timeouts.Entry, &o.Timeouts.Negative, &o.Timeouts.Attr} {
		switch {
		case *t == 0:
			*t = defaultTimeout
		case *t < 0:
			*t = 0
		}
	}
	return o
}
