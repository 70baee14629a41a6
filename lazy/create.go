package lazy

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/fusefs"
	"fractal-lazy/mark"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// Create makes the new, empty subvolume at path show the snapshot with the
// given root. It fetches one block, once: trying again is the caller's. When it
// returns nil the subvolume is durable; after an error, or a crash, it is to
// be deleted and made anew.
func Create(ctx context.Context, path string, st store.Store, s *seal.Sealer, root cid.Cid) (wire.Root, error) {
	r, err := snapshot.NewReader(st, s).Root(ctx, root)
	if err != nil {
		return r, fmt.Errorf("read snapshot %s: %w", root, err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return r, fmt.Errorf("open subvolume %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := createRoot(fd, root, &r); err != nil {
		return r, fmt.Errorf("prepare subvolume %s: %w", path, err)
	}
	if err := unix.Syncfs(fd); err != nil {
		return r, fmt.Errorf("sync subvolume %s: %w", path, err)
	}
	return r, nil
}

func createRoot(fd int, root cid.Cid, r *wire.Root) error {
	if err := unix.Mkdirat(fd, fusefs.HiddenName, 0o700); err != nil {
		return fmt.Errorf("make hidden folder: %w", err)
	}
	d := &maker{dir: fd, inherits: true}
	if err := setFlags(fd, r.Flags); err != nil {
		return err
	}
	if err := d.attributes(fdPath(fd), &wire.Entry{Attr: r.Attr}, fd); err != nil {
		return err
	}
	tree := &mark.Tree{Root: root, Files: r.Dir.Files, Dirs: r.Dir.Dirs, Bytes: r.Dir.Bytes}
	dir := &mark.Dir{Ref: r.Dir, Mtime: r.Mtime, Flags: r.Flags & protectedFlags}
	err := errors.Join(mark.Set(mark.FD(fd), tree), mark.Set(mark.FD(fd), dir))
	if err != nil {
		return err
	}
	return setMtime(fd, r.Mtime)
}

// Remote returns the root of the snapshot that the subvolume at path still
// takes content from; an undefined CID where it is complete.
func Remote(path string) (cid.Cid, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return cid.Undef, fmt.Errorf("open subvolume %s: %w", path, err)
	}
	defer unix.Close(fd)
	m, err := mark.GetTree(mark.FD(fd))
	if err != nil || m == nil {
		return cid.Undef, err
	}
	return m.Root, nil
}

// release ends the laziness of a volume in which nothing is remote.
//
// Order: 1 all directories filled, hidden names gone, all files finished; 2
// that is on disk; 3 the tree's mark goes; 4 that is on disk. A crash before
// 4 leaves a volume that Run finds complete again.
func (t *Tree) release() error {
	fd := t.bt.RootFD()
	if err := unix.Syncfs(fd); err != nil {
		return err
	}
	err := t.lifted(fd, func() error { return mark.Remove(mark.FD(fd), mark.TreeName) })
	if err != nil {
		return err
	}
	if err := unix.Syncfs(fd); err != nil {
		return err
	}
	t.setComplete()
	return nil
}
