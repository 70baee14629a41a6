package volume

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fractal-lazy/backing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// load takes possession of the pool, reads its volumes, and mends what a crash
// left half done. m.loadMu is held. Nothing long is done here: what has to be
// deleted goes to the trash, what has to be uploaded waits for Run.
func (m *Manager) load() error {
	if err := m.poolError(); err != nil {
		return err
	}
	for _, d := range []string{m.volumes(), m.trash(), filepath.Join(m.o.Root, "nodes")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
	lock, err := lockRoot(m.o.Root)
	if err != nil {
		return err
	}
	machine := m.o.Machine
	if machine == uuid.Nil {
		if machine, err = machineID(filepath.Join(m.o.Root, "machine-id")); err != nil {
			lock.Close()
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
	if err := m.closeTrash(); err != nil {
		lock.Close()
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	if err := m.clearImports(); err != nil {
		lock.Close()
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	m.takeHeld()
	if err := m.clearDeadMounts(); err != nil {
		m.log.Warn().Err(err).Str("op", "open").Msg("mounts of a dead daemon stay behind")
	}
	if err := os.MkdirAll(m.o.Mounts, 0o755); err != nil {
		lock.Close()
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	m.readPassphrase()
	vols := map[string]*vol{}
	for _, dir := range m.volumeDirs() {
		v, err := m.loadVolume(dir)
		if err != nil {
			m.log.Error().Err(err).Str("op", "open").Str("path", dir).Msg("volume is left out; nothing of it is touched")
			continue
		}
		if v == nil {
			continue
		}
		if other := vols[v.name]; other != nil {
			m.log.Error().Str("op", "open").Str("path", dir).Str("volume", v.name).Msg("left out: another volume has the same name")
			continue
		}
		if m.isHeld(v) {
			v.step = stepMount // resumeHeld's: nobody mounts it anew, or removes it, meanwhile
		}
		vols[v.name] = v
	}
	sched, schedErr := m.loadSchedule(machine.String())
	if schedErr != nil {
		m.log.Error().Err(schedErr).Str("op", "open").Msg("volumes work all the same")
	}
	m.mu.Lock()
	m.vols, m.lock, m.machine, m.loaded = vols, lock, machine, true
	m.sched, m.schedErr = sched, schedErr
	m.mu.Unlock()
	m.unlock()
	m.resumeHeld()
	m.log.Info().Str("op", "open").Int("volumes", len(vols)).Stringer("machine", machine).Msg("pool opened")
	m.poke()
	return nil
}

// lockRoot keeps a second daemon off the same pool. The lock goes with the process.
func lockRoot(root string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: another daemon runs on %s: stop it, or give this one another --root", ErrNotReady, root)
	}
	return f, nil
}

// machineID reads the identity of this machine, or makes one.
func machineID(path string) (uuid.UUID, error) {
	b, err := readFile(path, 128)
	if errors.Is(err, os.ErrNotExist) {
		id := uuid.New()
		return id, writeFile(path, []byte(id.String()+"\n"))
	}
	if err != nil {
		return uuid.Nil, err
	}
	id, err := uuid.Parse(strings.TrimSpace(string(b)))
	if err != nil || id == uuid.Nil {
		return uuid.Nil, fmt.Errorf("%s holds no UUID: delete it to get a new identity, after which volumes that this machine held have to be taken over", path)
	}
	return id, nil
}

// clearDeadMounts detaches the FUSE mounts that a daemon before this one left.
// The lock on the root says that nobody serves them.
func (m *Manager) clearDeadMounts() error {
	all, err := mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range slices.Backward(all) {
		if !strings.HasPrefix(l.fsType, "fuse") || filepath.Dir(l.path) != filepath.Clean(m.o.Mounts) || m.heldAt(l.path) {
			continue
		}
		if err := unix.Unmount(l.path, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", l.path, err))
			continue
		}
		m.log.Warn().Str("op", "open").Str("path", l.path).Msg("took away the mount of a daemon that died")
		errs = append(errs, removeEmpty(l.path))
	}
	return errors.Join(errs...)
}

// volumeDirs lists the folders of volumes and of views.
func (m *Manager) volumeDirs() (dirs []string) {
	keys, err := os.ReadDir(m.volumes())
	if err != nil {
		m.log.Error().Err(err).Str("op", "open").Msg("cannot list volumes")
	}
	for _, k := range keys {
		if b, err := hex.DecodeString(k.Name()); err != nil || len(b) != 32 || !k.IsDir() {
			continue
		}
		dir := filepath.Join(m.volumes(), k.Name())
		dirs = append(dirs, dir)
		views, _ := os.ReadDir(filepath.Join(dir, "views")) // mostly there is none
		for _, w := range views {
			if isUUID(w.Name()) {
				dirs = append(dirs, filepath.Join(dir, "views", w.Name()))
			}
		}
	}
	return dirs
}

// loadVolume reads one volume and mends it; nil, nil where there is none.
func (m *Manager) loadVolume(dir string) (*vol, error) {
	b, err := readFile(filepath.Join(dir, "volume.json"), maxRecord)
	if errors.Is(err, os.ErrNotExist) {
		// Folders only, or views only, or a clone that a crash left half made.
		if next := filepath.Join(dir, "data.new"); exists(next) {
			return nil, m.toTrash(next)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, key, err := decodeRecord(b)
	if err != nil {
		return nil, err
	}
	set, err := parseSettings(rec.Options, max(m.o.Interval, 0))
	if err != nil {
		return nil, err
	}
	var locked error
	if rec.SealedKey != "" {
		key, locked = m.openKey(rec)
	}
	v := newVol(dir, rec, key, rec.public(key), set)
	if locked != nil {
		v.locked = locked.Error()
		m.logger(v, "open").Error().Err(locked).Msg("the volume is locked")
	}
	home := dir
	if v.isView() {
		home = filepath.Dir(filepath.Dir(dir))
	}
	if filepath.Base(home) != v.pub.String() {
		return nil, fmt.Errorf("%w: its key is not that of its folder", errRecord)
	}
	// A write that a crash interrupted may have left the key there, in a form that is not wanted any more.
	if err := os.Remove(v.recordFile() + ".tmp"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if v.locked != "" {
		return v, nil // it is mended when it is open: a mount that goes on wants the key
	}
	return v, m.mend(v)
}

// mend finishes, or throws away, what a crash interrupted.
func (m *Manager) mend(v *vol) error {
	r := v.record()
	if r.Swap != nil {
		if err := m.finishSwap(v); err != nil {
			return err
		}
		r = v.record()
	} else if v.has(v.next()) {
		m.clearAway(v, v.next())
	}
	if err := m.mendSource(v, r); err != nil {
		return err
	}
	if err := m.mendSnapshots(v, r); err != nil {
		return err
	}
	ids := v.readIDs()
	if m.isHeld(v) || m.adopt(v, ids) {
		return nil
	}
	if len(ids.IDs) > 0 {
		why := "the daemon ended without unmounting"
		if ids.Boot != m.boot {
			why = "the machine was started anew"
		}
		m.logger(v, "open").Warn().Strs("ids", ids.IDs).Msg("mounts of an earlier run are forgotten: " + why)
		if err := os.Remove(v.idsFile()); err != nil {
			return err
		}
	}
	if r.Writer && r.Fence == nil && !r.Release {
		// Its mount went with the process: publish what is left and give it back,
		// unless a Mount comes first.
		v.mutate(func() { v.rec.Release = true })
	}
	return nil
}

// mendSnapshots makes the record and the folder of snapshots agree.
func (m *Manager) mendSnapshots(v *vol, r *record) error {
	list, err := os.ReadDir(v.snaps())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	here := map[string]bool{}
	var orphans []string
	for _, e := range list {
		here[e.Name()] = true
		if r.snapshot(e.Name()) == nil {
			orphans = append(orphans, v.snap(e.Name()))
		}
	}
	if len(orphans) > 0 {
		m.clearAway(v, orphans...)
	}
	complete := !slices.ContainsFunc(r.Snapshots, func(s snapRecord) bool { return !here[s.ID] })
	if complete {
		return nil
	}
	err = v.update(func(r *record) {
		for _, s := range slices.Clone(r.Snapshots) {
			if here[s.ID] {
				continue
			}
			m.logger(v, "open").Warn().Str("snapshot", s.ID).Str("kind", s.Kind).Msg("a local snapshot is gone")
			r.drop(s.ID)
			if r.Base != nil && r.Base.Local == s.ID {
				b := *r.Base
				b.Local = ""
				r.Base = &b
			}
			if r.Fence != nil && r.Fence.Snapshot == s.ID {
				f := *r.Fence
				f.Snapshot = ""
				r.Fence = &f
			}
		}
	})
	if errors.Is(err, unix.ENOSPC) { // the next Open finds the same
		m.logger(v, "open").Warn().Err(err).Msg("the record still names local snapshots that are gone")
		return nil
	}
	return err
}

// clearAway throws away what a crash left and nothing needs. Where that cannot be, as on a full disk, it stays for the next Open: a volume is not
// left out for it, which may be in use.
func (m *Manager) clearAway(v *vol, paths ...string) {
	if err := m.toTrash(paths...); err != nil {
		m.logger(v, "open").Warn().Err(err).Strs("paths", paths).Msg("what a crash left cannot be thrown away yet")
	}
}

// hasData reports whether the volume's subvolume is there.
func (v *vol) hasData() bool {
	ok, err := backing.IsSubvolume(v.data())
	return err == nil && ok
}
