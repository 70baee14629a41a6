package backing

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotBtrfs: the folder is not on BTRFS; the message names the command that mends it.
	ErrNotBtrfs = errors.New("not a BTRFS file system")
	// ErrExists: the name that should become a subvolume is taken, by whatever it is.
	ErrExists = errors.New("subvolume exists already")
	// ErrNotSubvolume: the path is there, but is not a subvolume's root directory.
	ErrNotSubvolume = errors.New("not a subvolume")
	// ErrNested: the subvolume cannot be deleted while other subvolumes live in it.
	ErrNested = errors.New("holds other subvolumes")
	// ErrNoQuota: the kernel has no simple quotas (they came with Linux 6.7).
	ErrNoQuota = errors.New("no simple quotas in this kernel")
)

// pathError puts the step and the path before err.
func pathError(op, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s %s: %w (root, CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH are needed)", op, path, err)
	case errors.Is(err, unix.ENOTTY):
		return fmt.Errorf("%s %s: %w: %w", op, path, ErrNotBtrfs, err)
	}
	return fmt.Errorf("%s %s: %w", op, path, err)
}
