package hive

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"time"

	"fractal-lazy/seal"
)

// admit stores a manifest whose signature is good, if the rules of the API allow it; it runs inside the one write transaction, so
// that of two manifests of one generation the second meets the first.
//
// One that is stored already is accepted before any other rule is asked: its sender lost the answer, and what was true when it was
// taken (the writer, the lock) may have changed since.
func admit(tx *transaction, p seal.Pubkey, v *volumeRow, m *Manifest, hash Hash, signed []byte, now time.Time) error {
	stored, err := tx.manifest(p, hash)
	if err != nil {
		return err
	}
	if stored != nil {
		return nil
	}
	back, err := tx.wasRemoved(p, m.Generation, hash)
	switch {
	case err != nil:
		return err
	case back:
		err = bringBack(tx, p, v, m)
	default:
		err = checkNew(tx, p, v, m)
	}
	if err != nil {
		return err
	}
	if v.writer == nil {
		machine := m.Machine
		v.writer = &machine
		if err := tx.updateVolume(p, v); err != nil {
			return err
		}
	}
	return tx.insertManifest(p, m, hash, signed, now)
}

// bringBack makes room for a manifest that was removed, as somebody has an offline copy of its snapshot. All rules were kept when it was taken; its parent may be
// gone like it. It is never the newest: that one is not removed.
func bringBack(tx *transaction, p seal.Pubkey, v *volumeRow, m *Manifest) error {
	if err := checkTurn(v, m); err != nil {
		return err
	}
	return tx.forgetRemoved(p, m.Generation)
}

// checkNew holds a manifest against all rules.
func checkNew(tx *transaction, p seal.Pubkey, v *volumeRow, m *Manifest) error {
	var parent *Manifest
	if m.Parent != nil {
		in := p
		if m.Parent.Volume != nil {
			in = m.Parent.Volume.Pubkey
		}
		var err error
		if parent, err = storedManifest(tx, in, m.Parent.Hash); err != nil {
			return err
		}
	}
	if err := checkRules(v, m, parent); err != nil {
		return err
	}
	switch taken, err := tx.hasGeneration(p, m.Generation); {
	case err != nil:
		return err
	case taken:
		return refuse(http.StatusBadRequest, "generation %d is taken by another manifest", m.Generation)
	}
	return nil
}

// storedManifest returns nil where there is none.
func storedManifest(tx *transaction, p seal.Pubkey, h Hash) (*Manifest, error) {
	signed, err := tx.manifest(p, h)
	if err != nil || signed == nil {
		return nil, err
	}
	m, err := DecodeManifest(signed[:len(signed)-signatureSize])
	if err != nil {
		return nil, fmt.Errorf("stored manifest %s: %w", h, err)
	}
	return m, nil
}

// checkRules holds a manifest against its volume and its parent, nil where none was found. The first rule that is broken
// gives the reason.
func checkRules(v *volumeRow, m *Manifest, parent *Manifest) error {
	bad := func(format string, args ...any) error { return refuse(http.StatusBadRequest, format, args...) }
	if err := checkTurn(v, m); err != nil {
		return err
	}
	if m.Parent == nil {
		if m.SizeTotal != m.Size {
			return bad("size_total is %d; without a parent it equals size, which is %d", m.SizeTotal, m.Size)
		}
		return nil
	}
	if parent == nil {
		return bad("the parent %s is not known", m.Parent.Hash)
	}
	if m.Generation <= parent.Generation {
		return bad("generation %d is not above the parent's, which is %d", m.Generation, parent.Generation)
	}
	if m.Size < MinChildSize {
		return bad("size is %d; with a parent it is at least %d", m.Size, MinChildSize)
	}
	if m.Size > math.MaxUint64-parent.SizeTotal || m.SizeTotal != parent.SizeTotal+m.Size {
		return bad("size_total is %d, not the parent's %d plus size %d", m.SizeTotal, parent.SizeTotal, m.Size)
	}
	return nil
}

// checkTurn tells whether the machine of a manifest may post now.
func checkTurn(v *volumeRow, m *Manifest) error {
	switch {
	case v.locked:
		return refuse(http.StatusBadRequest, "the volume is locked")
	case v.writer != nil && !bytes.Equal(v.writer[:], m.Machine[:]):
		return refuse(http.StatusBadRequest, "machine %s is not the writer, which is %s", m.Machine, v.writer)
	}
	return nil
}
