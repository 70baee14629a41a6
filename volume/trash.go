package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fractal-lazy/backing"

	"github.com/google/uuid"
)

func (m *Manager) trash() string { return filepath.Join(m.o.Root, "trash") }

// filling marks a folder of the trash that is still being filled, so that it
// is not deleted from under the renames.
const filling = ".part"

// toTrash moves paths, each a subvolume or a folder with subvolumes, to one new
// folder of the trash, by renames; those that are not there are left out. The
// scheduler deletes it later.
func (m *Manager) toTrash(paths ...string) error {
	if len(paths) == 0 {
		return nil
	}
	dir := filepath.Join(m.trash(), uuid.NewString())
	if err := moveAll(dir+filling, paths); err != nil {
		return fmt.Errorf("move to trash: %w", err)
	}
	if err := os.Rename(dir+filling, dir); err != nil {
		return fmt.Errorf("move to trash: %w", err)
	}
	m.poke()
	return nil
}

func moveAll(dir string, paths []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, p := range paths {
		if _, err := os.Lstat(p); errors.Is(err, os.ErrNotExist) {
			continue
		}
		// A read-only subvolume cannot be moved to another folder: its ".." would change.
		if ok, err := backing.IsSubvolume(p); err != nil {
			return err
		} else if ok {
			if err := backing.SetReadonly(p, false); err != nil {
				return err
			}
		}
		if err := os.Rename(p, filepath.Join(dir, filepath.Base(p))); err != nil {
			return err
		}
	}
	return nil
}

// closeTrash makes folders that a crash left half filled deletable: what is
// in them was to be deleted. It runs before anything is moved to the trash.
func (m *Manager) closeTrash() error {
	list, err := filepath.Glob(filepath.Join(m.trash(), "*"+filling))
	for _, p := range list {
		err = errors.Join(err, os.Rename(p, strings.TrimSuffix(p, filling)))
	}
	return err
}

// emptyTrash deletes what has been in the trash for long enough.
func (m *Manager) emptyTrash() error {
	list, err := os.ReadDir(m.trash())
	if err != nil {
		return fmt.Errorf("empty trash: %w", err)
	}
	var errs []error
	for _, e := range list {
		if m.life.Err() != nil {
			break
		}
		if strings.HasSuffix(e.Name(), filling) {
			continue
		}
		i, err := e.Info()
		if err != nil || m.now().Sub(i.ModTime()) < m.o.Trash {
			continue
		}
		if err := purge(filepath.Join(m.trash(), e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("empty trash: %w", err))
		}
	}
	return errors.Join(errs...)
}

// purge deletes path and what is in it, subvolumes included.
func purge(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return os.Remove(path)
	}
	if ok, err := backing.IsSubvolume(path); err != nil {
		return err
	} else if ok {
		err := backing.DeleteSubvolume(path)
		if !errors.Is(err, backing.ErrNested) {
			return err
		}
		if err := purgeNested(path); err != nil {
			return err
		}
		return backing.DeleteSubvolume(path)
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := purge(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// purgeNested deletes the subvolumes below dir, which only a direct mount lets applications make.
func purgeNested(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		ok, err := backing.IsSubvolume(path)
		switch {
		case err != nil:
		case ok:
			err = purge(path)
		default:
			err = purgeNested(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
