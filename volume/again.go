package volume

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A mount is at its place in the mount name space of one plugin instance. When Docker disables the plugin, the place goes and the containers'
// mounts stay. So a copy of the mount, which is at no place, is kept beside its connection: the next instance puts it in place.

// clonePrefix begins the keys of such copies; what follows is the rest of the mount's own key.
const clonePrefix = "clone/"

func cloneKey(key string) string { return clonePrefix + key[len(keptPrefix):] }

// keepClone has a copy of the mount at path kept. Without one the mount ends with the mount name space, and is none the worse until then.
func (m *Manager) keepClone(key, path string) {
	f, err := cloneMount(path)
	if err == nil {
		err = m.d.Keep.Keep(Kept{Key: cloneKey(key), Files: []*os.File{f}})
		f.Close()
	}
	if err != nil {
		m.log.Warn().Err(err).Str("path", path).Msg("the mount ends when the plugin is disabled, with a holder too")
	}
}

// cloneMount copies the mount at path. The copy asks the file system for nothing.
func cloneMount(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("copy the mount at %s: %w", path, err)
	}
	// By itself, whatever happens to the one that it is a copy of.
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("copy the mount at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), "mount"), nil
}

// placeAgain puts the kept copy of a mount at path.
func (h *held) placeAgain(path string) error {
	if h.clone == nil {
		return errors.New("no copy of it is kept")
	}
	if err := mountFolder(path); err != nil {
		return err
	}
	if err := unix.MoveMount(int(h.clone.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("put the mount on %s again: %w", path, err)
	}
	return nil
}
