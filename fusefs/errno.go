package fusefs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What a Residency wraps with %w so that an application gets the errno that the table below says.
var (
	// ErrIntegrity: what was fetched is not what it claims to be.
	ErrIntegrity = errors.New("content failed verification")
	// ErrInterrupted: the caller is being killed, or the mount is given up.
	ErrInterrupted = errors.New("interrupted")
	// ErrNoSpace: the pool, or the volume's limit, is full.
	ErrNoSpace = errors.New("no space left")
	// ErrFenced: another machine holds the volume now; this one may not change it.
	ErrFenced = errors.New("volume is fenced: read-only")
	// ErrTimeout: the configured time to wait for remote content has passed.
	ErrTimeout = errors.New("remote content did not come in time")
	// ErrRemote: the remote content cannot be had.
	ErrRemote = errors.New("remote content is unavailable")
)

// errnoTable is searched in order; the first error that matches decides.
var errnoTable = []struct {
	err   error
	errno syscall.Errno
	loud  bool // the application sees only an errno: the reason goes to the log
}{
	{ErrIntegrity, syscall.EIO, true},
	{ErrTimeout, syscall.EIO, true},
	{ErrRemote, syscall.EIO, true},
	{ErrInterrupted, syscall.EINTR, false},
	{ErrNoSpace, syscall.ENOSPC, false},
	{unix.EDQUOT, syscall.ENOSPC, false}, // the quota behind the volume's limit
	{ErrFenced, syscall.EROFS, false},
	{context.Canceled, syscall.EINTR, false},
	{context.DeadlineExceeded, syscall.EIO, true},
}

// toErrno is the one place that turns an error into an errno. loud says that the error has to be logged.
func toErrno(err error) (errno syscall.Errno, loud bool) {
	if err == nil {
		return 0, false
	}
	for _, e := range errnoTable {
		if errors.Is(err, e.err) {
			return e.errno, e.loud
		}
	}
	if errors.As(err, &errno) {
		if errno == 0 {
			return syscall.EIO, true
		}
		return errno, false
	}
	return syscall.EIO, true
}

// status is what the kernel is told about err, which op on inode ino met.
func (f *FS) status(op string, ino uint64, err error) fuse.Status {
	errno, loud := toErrno(err)
	if loud {
		f.opt.Log.Error().Err(err).Str("op", op).Uint64("ino", ino).Msg("operation failed")
	}
	return fuse.Status(errno)
}
