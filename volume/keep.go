package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fractal-lazy/fusefs"

	"golang.org/x/sys/unix"
)

// Kept is what has to outlive this process for one mount: bytes that only this package reads, and descriptors.
type Kept struct {
	Key   string
	Data  []byte
	Files []*os.File
}

// Keeper holds Kepts while processes come and go. A nil Keeper in Deps: mounts end with this process.
type Keeper interface {
	// Kept returns what a process before this one left, once. The files are the caller's.
	Kept() []Kept
	// Keep holds k, in the place of one with the same key. Its files stay the caller's.
	Keep(k Kept) error
	// Drop ends that.
	Drop(key string) error
	// Outlives reports whether what is kept stays when whoever keeps it for this process ends, too.
	Outlives() bool
	// Ready is called when all that was kept is served again, or dropped. With an error, this program cannot go on with what another one
	// began: it is to end.
	Ready(err error)
}

// keptMount is Kept.Data. It is read by the next process of the same or a later version; docs/FORMAT.md.
type keptMount struct {
	Version int    `json:"version"`
	Path    string `json:"path"`
	Minor   int    `json:"minor"` // of the connection, in /proc/self/mountinfo
	Init    []byte `json:"init"`
	Reply   []byte `json:"reply"`
}

const keptVersion = 1

const keptPrefix = "mount/"

// keptKey names a volume, or a view, by its folder below the root.
func (m *Manager) keptKey(v *vol) string {
	return keptPrefix + strings.TrimPrefix(v.dir, m.o.Root+string(filepath.Separator))
}

// held is a mount whose process has ended.
type held struct {
	k     Kept
	mount keptMount
	clone *os.File // nil: none was kept
	// removed are directories that somebody still has open.
	removed []Kept
}

func (h *held) close() {
	if h.clone != nil {
		h.clone.Close()
	}
	for _, f := range append(h.removedDirs(), h.k.Files...) {
		f.Close()
	}
}

// takeHeld reads what the process before this one left. loadMu is held.
func (m *Manager) takeHeld() {
	if m.held != nil {
		return
	}
	m.held = map[string]*held{}
	if m.d.Keep == nil {
		return
	}
	clones, removed := map[string]*os.File{}, map[string][]Kept{}
	for _, k := range m.d.Keep.Kept() {
		if strings.HasPrefix(k.Key, clonePrefix) && len(k.Files) == 1 && clones[k.Key] == nil {
			clones[k.Key] = k.Files[0]
			continue
		}
		if key, ok := mountOfRemoved(k); ok {
			removed[key] = append(removed[key], k)
			continue
		}
		h := &held{k: k}
		err := json.Unmarshal(k.Data, &h.mount)
		if err != nil || h.mount.Version != keptVersion || len(k.Files) != 2 || !strings.HasPrefix(k.Key, keptPrefix) {
			m.log.Error().Str("op", "open").Str("key", k.Key).Msg("what was kept of a mount cannot be read: it is given up")
			h.close()
			m.dropKept(k.Key)
			continue
		}
		m.held[k.Key] = h
	}
	for _, h := range m.held {
		h.clone = clones[cloneKey(h.k.Key)]
		delete(clones, cloneKey(h.k.Key))
		h.removed = removed[h.k.Key]
		delete(removed, h.k.Key)
	}
	for key, f := range clones { // its mount was given up
		f.Close()
		m.dropKept(key)
	}
	for _, dirs := range removed {
		for _, k := range dirs {
			k.Files[0].Close()
			m.dropKept(k.Key)
		}
	}
}

// isHeld reports whether the mount of v goes on although its process has ended.
func (m *Manager) isHeld(v *vol) bool { return m.held[m.keptKey(v)] != nil }

// heldAt reports whether path is a mount that goes on.
func (m *Manager) heldAt(path string) bool {
	for _, h := range m.held {
		if h.mount.Path == path {
			return true
		}
	}
	return false
}

// resumeHeld goes on with every mount that the process before this one left. load has taken the volumes' steps, those of locked ones too; they are given back. What
// cannot be resumed is taken away, as if the daemon had died without anybody to keep its mounts.
func (m *Manager) resumeHeld() {
	if m.d.Keep == nil {
		return
	}
	var foreign error
	for _, v := range m.all() {
		h := m.held[m.keptKey(v)]
		if h == nil {
			continue
		}
		delete(m.held, h.k.Key)
		err := v.lockedError()
		if err == nil {
			err = m.resume(m.life, v, h)
		}
		h.close()
		switch {
		case errors.Is(err, fusefs.ErrDialect):
			foreign = v.wrap(err)
		case err != nil:
			m.logger(v, "open").Error().Err(err).Msg("the mount of the daemon before this one cannot go on")
			m.giveUpHeld(h)
			if v.lockedWhy() != "" {
				break // mended when it is open
			}
			if err := m.mend(v); err != nil {
				m.logger(v, "open").Error().Err(err).Msg("the volume cannot be mended")
			}
		}
		v.leave()
	}
	if foreign == nil {
		for _, h := range m.held {
			m.log.Error().Str("op", "open").Str("key", h.k.Key).Msg("a mount of no volume that is here is taken away")
			h.close()
			m.giveUpHeld(h)
		}
		clear(m.held)
	}
	m.d.Keep.Ready(foreign)
}

// giveUpHeld takes a mount away that nobody serves any more.
func (m *Manager) giveUpHeld(h *held) {
	if fuseMinor(h.mount.Path) == h.mount.Minor {
		if err := unix.Unmount(h.mount.Path, unix.MNT_DETACH); err != nil {
			m.log.Warn().Err(err).Str("path", h.mount.Path).Msg("a dead mount stays behind")
		}
		_ = removeEmpty(h.mount.Path) // it is in the way of nothing
	}
	m.dropKept(h.k.Key)
	m.dropKept(cloneKey(h.k.Key))
	for _, k := range h.removed {
		m.dropKept(k.Key)
	}
}

// resume makes v live again. Where the mount is no longer in its place, it is put there again if somebody uses the volume.
//
// Order: 1. the mount is in place; 2. it is served; 3. a copy of it is kept again, since that of before is the one in place. After a crash behind 1 the
// next process finds the mount in place. Where its place goes before 3, so does the mount.
func (m *Manager) resume(ctx context.Context, v *vol, h *held) error {
	ids := v.readIDs()
	used := ids.Boot == m.boot && len(ids.IDs) > 0 && len(ids.IDs) <= maxIDs
	again := fuseMinor(h.mount.Path) != h.mount.Minor
	if again && !used {
		return fusefs.ErrGone
	}
	if again {
		h.mount.Path = filepath.Join(m.o.Mounts, v.name)
		if err := h.placeAgain(h.mount.Path); err != nil {
			return fmt.Errorf("%w: %w", fusefs.ErrGone, err)
		}
		if got := fuseMinor(h.mount.Path); got != h.mount.Minor {
			return fmt.Errorf("%w: connection %d, not %d", fusefs.ErrGone, got, h.mount.Minor)
		}
		m.logger(v, "open").Info().Str("path", h.mount.Path).Msg("the mount is in its place again")
	}
	l, err := m.serve(ctx, v, h)
	if err != nil {
		return err
	}
	if again {
		if err := m.keepMount(l.key, h.mount, h.k.Files); err != nil {
			m.logger(v, "open").Error().Err(err).Msg("the mount ends with this process")
		}
	}
	if again || h.clone == nil {
		m.keepClone(l.key, l.path)
	}
	v.mutate(func() {
		v.live, v.closing, v.final, v.since = l, false, false, m.now()
		if used {
			for _, id := range ids.IDs {
				v.ids[id] = struct{}{}
			}
		}
		v.lastSnap = m.now() // the writer is asked for at once: lastAsk stays zero
	})
	m.logger(v, "open").Info().Strs("ids", ids.IDs).Msg("took over the mount of the daemon before this one")
	return nil
}

// keep is fusefs.Options.Hold.
func (m *Manager) keep(v *vol, path string) func(fusefs.Held) error {
	if m.d.Keep == nil {
		return nil
	}
	return func(h fusefs.Held) error {
		k := keptMount{Version: keptVersion, Path: path, Minor: fuseMinor(path), Init: h.Init, Reply: h.Reply}
		if err := m.keepMount(m.keptKey(v), k, []*os.File{h.Conn, h.Table}); err != nil {
			return err
		}
		m.keepClone(m.keptKey(v), path)
		return nil
	}
}

func (m *Manager) keepMount(key string, k keptMount, files []*os.File) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := m.d.Keep.Keep(Kept{Key: key, Data: b, Files: files}); err != nil {
		return fmt.Errorf("have the mount kept: %w", err)
	}
	return nil
}

func (m *Manager) dropKept(key string) {
	if m.d.Keep == nil {
		return
	}
	if err := m.d.Keep.Drop(key); err != nil {
		m.log.Warn().Err(err).Str("key", key).Msg("a mount that is gone is still kept")
	}
}
