package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fractal-lazy/seal"
)

// The options that say which key a volume has. None of them is kept with the others.
const (
	keyOption        = "privkey"
	keyFileOption    = "privkey-file"
	sealedKeyOption  = "sealed-key"
	passphraseOption = "passphrase-file"
)

var keyOptions = []string{keyOption, keyFileOption, sealedKeyOption, passphraseOption}

// takeKey takes the key's options out of opts, and reads the key. Without one of them given is false. It may take some tenths of a
// second, for a sealed key. No error repeats a key.
//
// The paths are those of this process, which is root: package seal says which files it reads for who may name any.
func takeKey(opts map[string]string) (key seal.Privkey, given bool, err error) {
	has := map[string]string{}
	for _, name := range keyOptions {
		if v, ok := opts[name]; ok {
			has[name] = v
			delete(opts, name)
		}
	}
	file, fromFile := has[keyFileOption]
	sealed, isSealed := has[sealedKeyOption]
	pass, hasPass := has[passphraseOption]
	text, plain := has[keyOption]
	switch {
	case len(has) == 0:
		return seal.Privkey{}, false, nil
	case hasPass != isSealed:
		return seal.Privkey{}, true, fmt.Errorf("%w: sealed-key= and passphrase-file= go together; example: -o sealed-key=fractal-key-v1... -o passphrase-file=/etc/fractal/passphrase", ErrOption)
	case plain && (fromFile || isSealed) || fromFile && isSealed:
		return seal.Privkey{}, true, fmt.Errorf("%w: a volume has one key: give one of privkey=, privkey-file= and sealed-key=", ErrOption)
	case plain:
		key, err = seal.ParsePrivkey(text)
	case fromFile:
		key, err = seal.ReadPrivkeyFile(file)
	default:
		key, err = openSealed(sealed, pass)
	}
	if err == nil {
		return key, true, nil
	}
	hint := "`fractal-lazy key generate` makes one"
	switch {
	case fromFile:
		hint = "the path is one on the driver's host, within what the driver sees, and the file root's own with mode 0600"
	case isSealed:
		hint = "`fractal-lazy key export --passphrase-file` makes a sealed key; the path is one on the driver's host"
	case seal.IsSealedKey(text):
		hint = "it is sealed: give it as sealed-key=, with passphrase-file="
	}
	return seal.Privkey{}, true, fmt.Errorf("%w: the key: %w; %s", ErrOption, err, hint)
}

func openSealed(text, file string) (seal.Privkey, error) {
	s, err := seal.ParseSealedKey(text)
	if err != nil {
		return seal.Privkey{}, err
	}
	p, err := seal.ReadPassphraseFile(file)
	if err != nil {
		return seal.Privkey{}, err
	}
	return p.OpenKey(s)
}

// keyring is the passphrase of this machine: with it the keys in volume.json are sealed. Manager.loadMu guards it.
type keyring struct {
	pass *seal.Passphrase // nil: none is set, or it cannot be read
	err  error            // why it cannot be read
	bad  int              // volumes that it does not open
}

// sealing reports whether keys are to be sealed on the disk.
func (m *Manager) sealing() bool { return m.o.PassphraseFile != "" && !m.o.PlainKeys }

// readPassphrase reads the passphrase anew. One that is the same stays, with all that was derived of it. loadMu is held.
func (m *Manager) readPassphrase() {
	if m.o.PassphraseFile == "" {
		return
	}
	p, err := seal.ReadPassphraseFile(m.o.PassphraseFile)
	m.keys.err = err
	m.mu.Lock()
	m.noPass = err
	m.mu.Unlock()
	switch {
	case err != nil:
		m.keys.pass = nil
	case m.keys.pass == nil || !m.keys.pass.Equal(p):
		m.keys.pass = p
	}
}

// openKey opens the key of a record. The error says why it stays locked. loadMu is held.
func (m *Manager) openKey(r *record) (seal.Privkey, error) {
	if r.SealedKey == "" {
		return seal.ParsePrivkey(r.Key)
	}
	s, err := seal.ParseSealedKey(r.SealedKey)
	if err != nil {
		return seal.Privkey{}, err
	}
	switch {
	case m.keys.err != nil:
		return seal.Privkey{}, fmt.Errorf("its key is sealed, and the passphrase of this machine cannot be read: %w", m.keys.err)
	case m.keys.pass == nil:
		return seal.Privkey{}, errors.New("its key is sealed with the passphrase of this machine, and none is set: set passphrase-file (FRACTAL_PASSPHRASE_FILE)")
	}
	key, err := m.keys.pass.OpenKey(s)
	if err != nil {
		return seal.Privkey{}, fmt.Errorf("%w: %s holds another than the one that it was sealed with: put that back", err, m.o.PassphraseFile)
	}
	return key, nil
}

// unlock tries the passphrase on the volumes that are still locked, and, once none is, brings all keys on the disk into the form that the settings ask
// for. loadMu is held. It is cheap where nothing changed.
//
// Order, for each volume by itself: 1. the sealed form is made and opened again, 2. volume.json is replaced as a whole. A crash leaves some
// volumes in the one form and some in the other; the passphrase opens both, and the next start goes on. Nothing is sealed while
// there is a volume that the passphrase does not open: a slip of the pen must not become the passphrase of half of the keys.
func (m *Manager) unlock() {
	all := m.all()
	bad := 0
	for _, v := range all {
		if v.lockedWhy() == "" {
			continue
		}
		if err := m.unlockOne(v); err != nil {
			bad++
			v.mutate(func() { v.locked = err.Error() })
		}
	}
	m.keys.bad = bad
	if m.o.PassphraseFile == "" || bad > 0 || m.sealing() && m.keys.pass == nil {
		return
	}
	var moved int
	for _, v := range all {
		if sealed := v.record().SealedKey != ""; sealed == m.sealing() {
			continue
		}
		var err error
		k := record{}
		if err = m.keepKey(&k, v.key); err == nil {
			err = v.update(func(r *record) { r.Version, r.Key, r.SealedKey = k.Version, k.Key, k.SealedKey })
		}
		if err != nil {
			m.logger(v, "open").Warn().Err(err).Msg("the form of the volume's key on the disk could not be changed; it is tried again at the next start")
			continue
		}
		moved++
	}
	switch {
	case moved > 0 && m.sealing():
		m.log.Warn().Str("op", "open").Int("volumes", moved).
			Msg("keys on the disk are sealed now: who loses the passphrase loses them; keep copies made with `fractal-lazy key export`")
	case moved > 0:
		m.log.Warn().Str("op", "open").Int("volumes", moved).Msg("keys on the disk are no longer sealed")
	}
}

// unlockOne opens the key of a volume and mends what a crash left of it, which waited for the key. loadMu is held.
func (m *Manager) unlockOne(v *vol) error {
	key, err := m.openKey(v.record())
	if err != nil {
		return err
	}
	if !m.isHeld(v) { // else load has taken the step, and resumeHeld gives it back
		if err := v.enter(m.life, stepMount); err != nil {
			if errors.Is(err, ErrUnknown) {
				return nil // removed just now
			}
			return err
		}
		defer v.leave()
	}
	v.mutate(func() { v.key = key })
	if err := m.mend(v); err != nil {
		return err
	}
	v.mutate(func() { v.locked = "" })
	m.logger(v, "open").Info().Msg("the volume's key is open")
	return nil
}

// keepKey writes key into r, in the form that the settings ask for. ErrNotReady where it is to be sealed and cannot. loadMu is held.
func (m *Manager) keepKey(r *record, key seal.Privkey) error {
	if !m.sealing() {
		r.Version, r.Key, r.SealedKey = recordVersion, key.Reveal(), ""
		return nil
	}
	if m.keys.pass == nil || m.keys.bad > 0 {
		m.readPassphrase()
		m.unlock()
	}
	switch {
	case m.keys.pass == nil:
		return fmt.Errorf("%w: keys are to be sealed, and the passphrase of this machine cannot be read: %w", ErrNotReady, m.keys.err)
	case m.keys.bad > 0:
		return fmt.Errorf("%w: the passphrase in %s does not open the keys of %d volumes here; put the right one back before another key is sealed with it",
			ErrNotReady, m.o.PassphraseFile, m.keys.bad)
	}
	s, err := m.keys.pass.SealKey(key)
	if err != nil {
		return err
	}
	if again, err := m.keys.pass.OpenKey(s); err != nil || again != key {
		return fmt.Errorf("seal the key: what was sealed does not open again: %w", err)
	}
	r.Version, r.Key, r.SealedKey = sealedVersion, "", s.Reveal()
	return nil
}

// retryKeys is unlock with the passphrase as it is now, where a volume is locked. It reports whether one still is.
func (m *Manager) retryKeys() (locked bool) {
	isLocked := func(v *vol) bool { return v.lockedWhy() != "" }
	if !slices.ContainsFunc(m.all(), isLocked) {
		return false
	}
	m.loadMu.Lock()
	m.readPassphrase()
	m.unlock()
	m.loadMu.Unlock()
	return slices.ContainsFunc(m.all(), isLocked)
}

// lookupOpen is lookup, for who needs the key.
func (m *Manager) lookupOpen(name string) (*vol, error) {
	v, err := m.lookup(name)
	if err != nil {
		return nil, err
	}
	if v.lockedWhy() != "" {
		m.retryKeys()
	}
	if err := v.lockedError(); err != nil {
		return nil, v.wrap(err)
	}
	return v, nil
}

// checkKeys is Health's line about keys.
func (m *Manager) checkKeys(context.Context) Check {
	m.mu.Lock()
	err := m.noPass
	m.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("the passphrase of this machine cannot be read: %w", err)
	}
	for _, v := range m.all() {
		if why := v.lockedWhy(); why != "" {
			err = fmt.Errorf("volume %s is locked: %s", v.name, why)
			break
		}
	}
	good := "keys on the disk are not sealed"
	if m.sealing() {
		good = "keys on the disk are sealed with the passphrase in " + m.o.PassphraseFile
	}
	return check("keys", good, err)
}

// lockedWhy tells why the key is not open; empty: it is.
func (v *vol) lockedWhy() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.locked
}

func (v *vol) lockedError() error {
	if why := v.lockedWhy(); why != "" {
		return fmt.Errorf("%w: %s", ErrNotReady, why)
	}
	return nil
}
