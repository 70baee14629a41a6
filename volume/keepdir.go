package volume

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A removed directory that somebody still has open is on no disk and in no table: only a descriptor keeps it. So it is kept beside the
// connection of its mount, one by one, until the kernel has no use for it.

// removedPrefix begins the keys of such directories; what follows is the rest of the mount's own key, and the inode number.
const removedPrefix = "removed/"

func removedKey(key string, ino uint64) string {
	return removedPrefix + key[len(keptPrefix):] + "/" + strconv.FormatUint(ino, 10)
}

// mountOfRemoved is the key of the mount that k belongs to; ok is false where k is no removed directory.
func mountOfRemoved(k Kept) (key string, ok bool) {
	rest, ok := strings.CutPrefix(k.Key, removedPrefix)
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 || len(k.Files) != 1 {
		return "", false
	}
	return keptPrefix + rest[:i], true
}

// keepRemoved is fusefs.Options.HoldRemoved for the mount of that key.
func (m *Manager) keepRemoved(key string) func(ino uint64, dir *os.File) error {
	if m.d.Keep == nil {
		return nil
	}
	return func(ino uint64, dir *os.File) error {
		if dir == nil {
			return m.d.Keep.Drop(removedKey(key, ino))
		}
		if err := m.d.Keep.Keep(Kept{Key: removedKey(key, ino), Files: []*os.File{dir}}); err != nil {
			return fmt.Errorf("have a removed directory kept: %w", err)
		}
		return nil
	}
}

// removedDirs are the descriptors of h's removed directories.
func (h *held) removedDirs() (all []*os.File) {
	for _, k := range h.removed {
		all = append(all, k.Files...)
	}
	return all
}
