package volume

import "errors"

// Errors of a Manager, wrapped with the volume, with what failed and with what
// to do about it. Errors of the packages below are wrapped beside them.
var (
	// ErrUnknown: no volume has this name here.
	ErrUnknown = errors.New("no such volume")
	// ErrNoSnapshot: the volume has no such snapshot, or several that the text may mean.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrExists: the name or the key is taken by another volume.
	ErrExists = errors.New("volume exists already")
	// ErrName: not of the form [A-Za-z0-9][A-Za-z0-9_.-]*, or too long.
	ErrName = errors.New("not a volume name")
	// ErrOption: an option that does not exist or a value that it does not take.
	ErrOption = errors.New("bad option")
	// ErrInUse: the volume is mounted.
	ErrInUse = errors.New("volume is in use")
	// ErrHeld: the Hive names another machine as the writer.
	ErrHeld = errors.New("another machine holds the volume")
	// ErrFenced: this machine lost the volume while it had it mounted, and does not publish any more.
	ErrFenced = errors.New("volume was taken over by another machine")
	// ErrNotReady: the pool, FUSE, the Hive or the block store is missing. It
	// goes on by itself as soon as that is mended.
	ErrNotReady = errors.New("not ready")
	// ErrBusy: the work goes on in the background; the same call again finds it further on.
	ErrBusy = errors.New("preparing, try again")
	// ErrRollback: what the Hive offers is older than what this machine has
	// seen, or another snapshot of the same generation.
	ErrRollback = errors.New("the Hive offers an older snapshot than one already seen")
	// ErrArchive: what was to be imported is no file of a snapshot, or not all of one, or spoilt.
	ErrArchive = errors.New("the file cannot be imported")
	// ErrNotSaved: the volume holds changes that no Hive and no other machine has.
	ErrNotSaved = errors.New("data exists only here")
)
