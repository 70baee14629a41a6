package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

// Create makes a volume known here; nothing is fetched, and the Hive is not
// asked, before it is mounted. Without one of the key's options a key is generated.
// The same call again is no error; another volume under the name, or under the
// key, is ErrExists. With the option snapshot it is a read-only view, of which a key may have many.
func (m *Manager) Create(ctx context.Context, name string, opts map[string]string) error {
	if err := checkName(name); err != nil {
		return err
	}
	opts = maps.Clone(opts)
	key, given, err := takeKey(opts)
	if err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	set, err := parseSettings(opts, max(m.o.Interval, 0))
	if err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	if !given {
		if key, err = newKey(set); err != nil {
			return fmt.Errorf("create volume %s: %w", name, err)
		}
	}
	if err := m.ready(); err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}

	m.loadMu.Lock() // one creation at a time
	defer m.loadMu.Unlock()
	m.mu.Lock()
	old, twin := m.vols[name], m.byKey(key.Public())
	m.mu.Unlock()
	if old != nil {
		same := maps.Equal(old.record().Options, opts) && (!given || old.pub == key.Public())
		if !same {
			return fmt.Errorf("%w: %s, with other options or another key; remove it first, or take another name", ErrExists, name)
		}
		return nil
	}
	dir := filepath.Join(m.volumes(), key.Public().String())
	if set.view != nil {
		dir = filepath.Join(dir, "views", uuid.NewString())
	} else if twin != nil {
		return fmt.Errorf("%w: volume %s has this key already; mount that one, or make a view of it with -o snapshot=", ErrExists, twin.name)
	}
	rec := &record{Name: name, Made: !given, Created: m.now().UTC(), Options: opts}
	if err := m.keepKey(rec, key); err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	v := newVol(dir, rec, key, key.Public(), set)
	if v.has(v.recordFile()) {
		return fmt.Errorf("%w: %s is there, but could not be read when the driver started; its log says why", ErrExists, v.recordFile())
	}
	if err := m.enrol(v); err != nil {
		return fmt.Errorf("create volume %s: %w", name, err)
	}
	m.logger(v, "create").Info().Stringer("pubkey", v.pub).Bool("new_key", !given).Msg("volume created")
	return nil
}

// enrol writes the record of a new volume and makes it one of ours. m.loadMu is held, and nobody else has the name or the key.
//
// Order: 1. folders, 2. volume.json, 3. the folders to the disk. A crash
// before 2 leaves empty folders, which the next Create of the key uses.
func (m *Manager) enrol(v *vol) error {
	if err := os.MkdirAll(v.snaps(), 0o700); err != nil {
		return err
	}
	if err := v.update(func(*record) {}); err != nil {
		return err
	}
	for d := filepath.Dir(v.dir); d != m.o.Root; d = filepath.Dir(d) {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.vols[v.name] = v
	m.mu.Unlock()
	return nil
}

func newKey(set settings) (seal.Privkey, error) {
	if set.view != nil {
		return seal.Privkey{}, fmt.Errorf("%w: snapshot= needs the key of the volume; example: -o privkey=KEY -o snapshot=12", ErrOption)
	}
	return seal.GeneratePrivkey()
}

func (m *Manager) volumes() string { return filepath.Join(m.o.Root, "volumes") }

// byKey finds the volume, not a view, that has this key. m.mu is held.
func (m *Manager) byKey(p seal.Pubkey) *vol {
	for _, v := range m.vols {
		if v.pub == p && !v.isView() {
			return v
		}
	}
	return nil
}

// KeyExport returns the volume's private key in base64. It is the one place
// where a key leaves.
func (m *Manager) KeyExport(name string) (string, error) {
	v, err := m.lookupOpen(name)
	if err != nil {
		return "", err
	}
	return v.key.Reveal(), nil
}

// isAny reports whether err is one of these.
func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
