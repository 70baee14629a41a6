package lazy

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// parallelFillings is how many directories are filled at once for one who
// waits for all of them.
const parallelFillings = 16

// An inode with several names is made when the first of them is filled, and
// gets one more, in the hidden folder, under the number that all its entries
// share. Names that are filled later find it there, whatever became of the
// first. The hidden names go when all directories are filled, before most files
// are complete, since it moves their change times.

// An entry by which a snapshot stands for a directory that is not filled says
// what such an inode was. So it must not be changed through another name before
// all of its names are filled: in the next snapshot it would be two things, and
// whoever restores that takes the one that he meets first. Its mark stays
// pending until then, for the same reason: the kernel writes files that are
// finished without asking.

// namesPending reports whether f has names that are not filled.
func (f *file) namesPending() (bool, error) {
	if f.t.filled.Load() {
		return false, nil
	}
	l, err := mark.GetLink(mark.FD(f.fd))
	return l != nil && l.Pending > 0, err
}

// fillNames returns when all names of f are filled.
func (f *file) fillNames(ctx context.Context) error {
	return f.t.fillNames(ctx, f.namesPendingNow, f.noNamesPending)
}

// fillNames fills directories until pending says that the names of an inode are there. none is called when all directories are filled and it still does not.
func (t *Tree) fillNames(ctx context.Context, pending func() (bool, error), none func() error) error {
	for from := uint64(0); ; {
		some, err := pending()
		if err != nil || !some {
			return err
		}
		// Whatever directory: where its names are, only the directories say.
		group, gctx := errgroup.WithContext(ctx)
		group.SetLimit(parallelFillings)
		found := false
		err = t.bt.EachXattr(gctx, mark.DirName, from, func(ino uint64, _ []byte) error {
			found = true
			from = ino + 1
			group.Go(func() error {
				err := t.fillAt(gctx, ino, reader)
				if errors.Is(err, unix.ESTALE) { // removed meanwhile
					return nil
				}
				return err
			})
			return nil
		})
		if werr := group.Wait(); werr != nil {
			err = werr
		}
		if err != nil {
			return err
		}
		if !found && from > 0 {
			from = 0 // a directory is marked again where the filling of the one above it is
			continue
		}
		if !found {
			// A crash may have left the count too high: what is not there will not come.
			return none()
		}
	}
}

// FillNames implements fusefs.Names. Regular files see to it themselves when they are changed.
func (t *Tree) FillNames(ctx context.Context, path string) error {
	if t.filled.Load() {
		return nil
	}
	ctx, cancel := timeout(ctx, t.opt.FetchTimeout, t.opt.Volume)
	defer cancel()
	pending := func() (bool, error) {
		l, err := mark.GetLink(path)
		return l != nil && l.Pending > 0, err
	}
	return t.fillNames(ctx, pending, func() error {
		t.links.Lock()
		defer t.links.Unlock()
		l, err := mark.GetLink(path)
		if err != nil || l == nil || l.Pending == 0 {
			return err
		}
		l.Pending = 0
		return mark.Set(path, l)
	})
}

func (f *file) namesPendingNow() (bool, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return false, f.t.closed()
	}
	return f.namesPending()
}

// noNamesPending sets the count right when all directories are filled.
func (f *file) noNamesPending() error {
	f.t.links.Lock()
	defer f.t.links.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return f.t.closed()
	}
	path := mark.FD(f.fd)
	l, err := mark.GetLink(path)
	if err != nil || l == nil || l.Pending == 0 {
		return err
	}
	l.Pending = 0
	return f.t.lifted(f.fd, func() error { return mark.Set(path, l) })
}

// openHidden opens the hidden folder of a volume; -1 where it is gone.
func openHidden(root int) (int, error) {
	fd, err := unix.Openat(root, fusefs.HiddenName, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open hidden folder: %w", err)
	}
	return fd, nil
}

func hiddenName(id uint64) string { return strconv.FormatUint(id, 16) }

// makeLinked makes one name of an inode with several.
//
// Order: 1 the inode with its hidden name, the mark counting all others as
// pending; 2 the name; 3 the count. A crash between 2 and 3 leaves the count
// one too high until the hidden names go.
//
// Two names of one inode may be filled at the same time, and attributes be read
// between 2 and 3, so all of it is done alone.
func (d *maker) makeLinked(e *wire.Entry) error {
	d.t.links.Lock()
	defer d.t.links.Unlock()
	hidden := hiddenName(e.Link)
	var st unix.Stat_t
	err := unix.Fstatat(d.hidden, hidden, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		if err = d.makeHidden(e, hidden); err == nil {
			err = unix.Fstatat(d.hidden, hidden, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != e.Mode&unix.S_IFMT {
		return fmt.Errorf("is a file of another type under its other name")
	}
	var there unix.Stat_t
	err = unix.Fstatat(d.dir, e.Name, &there, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && there.Ino == st.Ino:
		return nil // by an interrupted filling
	case err == nil:
		return fmt.Errorf("is there already, as another inode")
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	return d.unprotected(hidden, &st, func() error {
		if err := unix.Linkat(d.hidden, hidden, d.dir, e.Name, 0); err != nil {
			return err
		}
		path := mark.At(d.hidden, hidden)
		l, err := mark.GetLink(path)
		if err != nil || l == nil || l.Pending == 0 {
			return err
		}
		l.Pending--
		return mark.Set(path, l)
	})
}

// unprotected runs do while the inode may be linked and marked: an immutable
// or append-only one may not.
func (d *maker) unprotected(hidden string, st *unix.Stat_t, do func() error) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return do()
	}
	fd, err := unix.Openat(d.hidden, hidden, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return d.t.lifted(fd, do)
}

// makeHidden makes the inode under its hidden name. What is not a regular
// file is made under another name first, so that the hidden one only ever
// stands for an inode with all its attributes.
func (d *maker) makeHidden(e *wire.Entry, hidden string) error {
	link := &mark.Link{ID: e.Link, Pending: e.Nlink, Hidden: true}
	if e.Mode&unix.S_IFMT == unix.S_IFREG {
		return d.createFile(e, func(fd int) error {
			return unix.Linkat(unix.AT_FDCWD, fdPath(fd), d.hidden, hidden, unix.AT_SYMLINK_FOLLOW)
		}, link)
	}
	temp := "new-" + hidden
	if err := unix.Unlinkat(d.hidden, temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := d.createSpecial(d.hidden, temp, e, false); err != nil {
		return err
	}
	if err := mark.Set(mark.At(d.hidden, temp), link); err != nil {
		return err
	}
	return unix.Renameat2(d.hidden, temp, d.hidden, hidden, unix.RENAME_NOREPLACE)
}

// dropHidden removes the hidden names, when all directories are filled, and
// their folder. Each inode's mark stays, as the number that the next snapshot
// gives to its names.
//
// Order, for each: 1 the mark says that there is no hidden name; 2 the name
// goes. A crash between leaves a count of names that is one too high, and the
// name, which the next run removes.
func (t *Tree) dropHidden(ctx context.Context) error {
	if t.hidden < 0 {
		return nil
	}
	dir, err := unix.Openat(t.hidden, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = backing.ReadDir(dir, func(name string, _ uint64, _ uint8) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.dropHiddenName(name); err != nil {
			return fmt.Errorf("remove hidden name %s of volume %s: %w", name, t.opt.Volume, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := t.dropHiddenFolder(); err != nil {
		return fmt.Errorf("remove hidden folder of volume %s: %w", t.opt.Volume, err)
	}
	return nil
}

// dropHiddenFolder removes the folder, and gives the root back its times.
func (t *Tree) dropHiddenFolder() error {
	root := t.bt.RootFD()
	st, err := backing.Statx(root)
	if err != nil {
		return err
	}
	return t.lifted(root, func() error {
		err := unix.Unlinkat(root, fusefs.HiddenName, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return errors.Join(err, setMtime(root, wireTime(st.Mtime)))
	})
}

func (t *Tree) dropHiddenName(name string) error {
	path := mark.At(t.hidden, name)
	var st unix.Stat_t
	if err := unix.Fstatat(t.hidden, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	t.links.Lock() // nobody counts names meanwhile
	defer t.links.Unlock()
	d := &maker{t: t, hidden: t.hidden}
	return d.unprotected(name, &st, func() error {
		l, err := mark.GetLink(path)
		if err != nil {
			return err
		}
		if l != nil && (l.Hidden || l.Pending != 0) {
			l.Hidden, l.Pending = false, 0
			if err := mark.Set(path, l); err != nil {
				return err
			}
		}
		return unix.Unlinkat(t.hidden, name, 0)
	})
}
