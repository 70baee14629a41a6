package fusefs

import (
	"context"

	"golang.org/x/sys/unix"
)

// Tree opens the inodes of the subvolume that a file system shows.
// *backing.Tree is one.
type Tree interface {
	// Open returns a new descriptor of inode ino, ESTALE where it is gone.
	Open(ino uint64, flags int) (fd int, err error)
	// OpenNamed is Open for a file that is written durably through the descriptor without Fsync, as by passthrough; Anchor
	// makes fd, a descriptor of Open, one of this kind.
	OpenNamed(ino uint64, flags int) (fd int, err error)
	Anchor(fd int) error
	// Fsync is fsync, or fdatasync, of a descriptor of the subvolume, however that was opened.
	Fsync(fd int, dataOnly bool) error
	// RootFD is a descriptor of the root directory, owned by the Tree.
	RootFD() int
}

// Residency is what the file system asks before it touches anything that may
// still be remote. All methods may be called from many goroutines at once.
// A context ends when the asking process was killed; the errors are those of
// errno.go's table.
type Residency interface {
	// Complete reports that nothing of the volume is remote any more. Once
	// true it stays true, and no other method needs to be called but for
	// descriptors that were opened before.
	Complete() bool

	// Fill makes directory ino whole: all its names are there when it
	// returns nil. Called before every operation on names of ino.
	Fill(ctx context.Context, ino uint64) error

	// Look runs do, which reads attributes or extended attributes of inode
	// ino, while no fetch changes them behind it.
	Look(ino uint64, do func() error) error

	// Overlay corrects st, just read under Look from path (which may be
	// "/proc/self/fd/N" or "/proc/self/fd/N/name"), where the disk shows traces of
	// fetching: times, blocks, links.
	Overlay(path string, st *unix.Statx_t) error

	// File returns the residency of the regular file ino, open as fd (which
	// stays the caller's). Each File is Closed once. nil, nil: local for ever.
	File(ctx context.Context, ino uint64) (File, error)

	// Sync runs do, an fsync or fdatasync of one inode, or something stronger where a filling
	// is not yet committed (R6). fd is any descriptor of the file system.
	Sync(ctx context.Context, fd int, do func() error) error
}

// File is the residency of one open regular file.
type File interface {
	// Local reports that the backing file holds everything and its mark says
	// so: the kernel may read and write it without us. Once true it stays so.
	Local() bool

	// Read returns when bytes [off, off+n) of the backing file are what a
	// reader has to see; what lies past the end of the file is no error.
	Read(ctx context.Context, off, n uint64) error

	// Write runs do, which writes n bytes at off (or preallocates there), in
	// the order that R1, R2 and R4 ask for.
	Write(ctx context.Context, off, n uint64, do func() error) error

	// Truncate runs do, which sets the file's size (R1, R2).
	Truncate(ctx context.Context, size uint64, do func() error) error

	// Punch runs do, which makes [off, off+n) read as zeros without storing
	// them (FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE), in the order of R3.
	Punch(ctx context.Context, off, n uint64, do func() error) error

	// Modify runs do, which changes attributes (mode, owner, times, xattrs, flags).
	Modify(ctx context.Context, do func() error) error

	// Seek answers SEEK_DATA and SEEK_HOLE from the true content, not from
	// what happens to be here. ENXIO as lseek(2) does.
	Seek(ctx context.Context, off uint64, whence int) (uint64, error)

	// Whole fetches all that is missing.
	Whole(ctx context.Context) error

	// Close ends the use of this File.
	Close()
}

// Names that no process sees through the file system, and that none can make.
const (
	// HiddenName in the root directory holds what a half-fetched volume needs for itself.
	HiddenName = ".fractal-lazy"
	// HiddenXattr begins the names of the marks.
	HiddenXattr = "trusted.fractal."
)

// Through is what a File may also offer: reading when nothing can be kept.
// It is asked after Read failed with ErrNoSpace.
type Through interface {
	// ReadThrough fills p with the true content at off without storing what it
	// fetches. Fewer bytes than asked for mean the end of the file.
	ReadThrough(ctx context.Context, off uint64, p []byte) (int, error)
}

// Still is what a Residency may also offer: running do, which takes a snapshot, while
// none of its inodes is in the middle of being fetched into. It is asked with the gate of Freeze held.
type Still interface {
	Freeze(do func() error) error
}

// Names is what a Residency may also offer: bringing all names of the inode at path (of a
// descriptor), which is no directory. It is asked before an inode gets another name, and before the attributes of one that is no regular file
// are changed: a name that is not here is known by what the inode was.
type Names interface {
	FillNames(ctx context.Context, path string) error
}

// Fillings is what a Residency may also offer: whether the filling of any directory is under way or not yet committed. While one is, nothing may be made
// durable but by Sync (R6), and the kernel does so without asking in passthrough mode.
type Fillings interface {
	Filling() bool
}

// Flags is what a Residency may also offer: running do, which looks at the immutable and append-only flags of an inode, or makes a change that they
// may forbid, while none of them is lifted for a moment, as fetching into a protected file needs. It is asked with the gate of Freeze held, or without.
//
// Protected reports whether the directory at path (of a descriptor, perhaps with a name below it) is immutable or append-only although its flags do not say
// so: they are lifted for as long as it is being filled. It is asked in do of Steady.
type Flags interface {
	Steady(do func() error) error
	Protected(path string) (bool, error)
}

// Caps is what a Residency may also offer: the capabilities of the regular file at path (of a descriptor) where it keeps them; nil where it does not.
// Writing what was fetched takes them from the inode, and a crash may come before they are back. It is asked under Look.
type Caps interface {
	Caps(path string) ([]byte, error)
}
