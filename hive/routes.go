package hive

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := s.db.ping(ctx); err != nil {
		answer(w, refuse(http.StatusServiceUnavailable, "the Hive's storage does not answer"))
		return
	}
	fmt.Fprintln(w, "ok")
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	return s.db.write(r.Context(), func(tx *transaction) error {
		v, err := tx.volume(p)
		if err != nil {
			return err
		}
		if v == nil {
			return tx.createVolume(p, account, s.now())
		}
		return ownedBy(v, account)
	})
}

// ownedBy is what every route but create asks first.
func ownedBy(v *volumeRow, account uuid.UUID) error {
	switch {
	case v == nil:
		return refuse(http.StatusNotFound, "no such volume")
	case v.account != account:
		return refuse(http.StatusForbidden, "the volume belongs to another account")
	}
	return nil
}

// owned returns the volume within a transaction, or why this account may not have it.
func owned(tx *transaction, p seal.Pubkey, account uuid.UUID) (*volumeRow, error) {
	v, err := tx.volume(p)
	if err != nil {
		return nil, err
	}
	return v, ownedBy(v, account)
}

func (s *Server) volume(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	var v *volumeRow
	err := s.db.read(r.Context(), func(tx *transaction) (err error) {
		v, err = owned(tx, p, account)
		return err
	})
	if err != nil {
		return err
	}
	return answerJSON(w, Volume{Account: v.account, Writer: v.writer})
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	body, err := readBody(w, r, maxPatch)
	if err != nil {
		return err
	}
	change, err := parsePatch(body)
	if err != nil {
		return err
	}
	return s.db.write(r.Context(), func(tx *transaction) error {
		v, err := owned(tx, p, account)
		if err != nil {
			return err
		}
		change(v)
		return tx.updateVolume(p, v)
	})
}

// parsePatch reads {"writer": uuid or null, "account": uuid, "lock": bool}. Only writer tells null from missing: null clears it.
// A field that the API does not have is refused: it would be a change that the client believes made.
func parsePatch(body []byte) (func(*volumeRow), error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return nil, refuse(http.StatusBadRequest, "the body is not a JSON object")
	}
	var changes []func(*volumeRow)
	for name, raw := range fields {
		null := string(raw) == "null"
		switch name {
		case "writer":
			if null {
				changes = append(changes, func(v *volumeRow) { v.writer = nil })
				continue
			}
			id, err := jsonUUID(raw)
			if err != nil {
				return nil, refuse(http.StatusBadRequest, "writer is neither a UUID nor null")
			}
			changes = append(changes, func(v *volumeRow) { v.writer = &id })
		case "account":
			id, err := jsonUUID(raw)
			if err != nil {
				return nil, refuse(http.StatusBadRequest, "account is not a UUID")
			}
			changes = append(changes, func(v *volumeRow) { v.account = id })
		case "lock":
			var lock bool
			if err := json.Unmarshal(raw, &lock); err != nil || null {
				return nil, refuse(http.StatusBadRequest, "lock is neither true nor false")
			}
			changes = append(changes, func(v *volumeRow) { v.locked = lock })
		default:
			return nil, refuse(http.StatusBadRequest, "a volume has no field %q; there are writer, account and lock", name)
		}
	}
	return func(v *volumeRow) {
		for _, c := range changes {
			c(v)
		}
	}, nil
}

func jsonUUID(raw json.RawMessage) (uuid.UUID, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return uuid.Nil, err
	}
	return parseUUID(text)
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	return s.db.write(r.Context(), func(tx *transaction) error {
		if _, err := owned(tx, p, account); err != nil {
			return err
		}
		return tx.deleteVolume(p)
	})
}

func (s *Server) post(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	signed, err := readBody(w, r, maxSigned)
	if err != nil {
		return err
	}
	// The account first: nobody has the Hive check signatures for volumes that are not theirs.
	if err := s.db.read(r.Context(), func(tx *transaction) error { _, err := owned(tx, p, account); return err }); err != nil {
		return err
	}
	m, err := Open(p, signed)
	if err != nil {
		return refuse(http.StatusBadRequest, "%s", err)
	}
	hash := m.Hash()
	if err := s.db.write(r.Context(), func(tx *transaction) error {
		v, err := owned(tx, p, account)
		if err != nil {
			return err
		}
		return admit(tx, p, v, m, hash, signed, s.now())
	}); err != nil {
		return err
	}
	w.Header().Set("Location", volumePath(p)+"/"+hash.String())
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	q := r.URL.Query()
	var parent *Hash
	if q.Has("parent") {
		h, err := ParseHash(q.Get("parent"))
		if err != nil {
			return refuse(http.StatusBadRequest, "parent is not a hash of 128 hex digits")
		}
		parent = &h
	}
	root := false
	if q.Has("root") {
		b, err := strconv.ParseBool(q.Get("root"))
		if err != nil {
			return refuse(http.StatusBadRequest, "root is neither true nor false")
		}
		root = b
	}
	if root && parent != nil {
		return refuse(http.StatusBadRequest, "root=true and parent exclude each other")
	}
	var hashes []Hash
	if err := s.db.read(r.Context(), func(tx *transaction) (err error) {
		if _, err := owned(tx, p, account); err != nil {
			return err
		}
		hashes, err = tx.list(p, parent, root)
		return err
	}); err != nil {
		return err
	}
	return answerJSON(w, hashes)
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	h, err := ParseHash(r.PathValue("hash"))
	if err != nil {
		return refuse(http.StatusBadRequest, "the URL's last element is not a hash of 128 hex digits")
	}
	var signed []byte
	if err := s.db.read(r.Context(), func(tx *transaction) (err error) {
		if _, err := owned(tx, p, account); err != nil {
			return err
		}
		signed, err = tx.manifest(p, h)
		return err
	}); err != nil {
		return err
	}
	if signed == nil {
		return refuse(http.StatusNotFound, "no such manifest")
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(signed)))
	w.Write(signed) // an error here is the client's: it went away
	return nil
}

// forget removes one manifest, for who keeps a bounded number of snapshots. The original API has no such call. The newest manifest stays: it
// is what the next one is held against, and what other machines mount. Its generation stays taken: no other manifest takes its place; it comes back
// where somebody posts it again (admit).
func (s *Server) forget(w http.ResponseWriter, r *http.Request, p seal.Pubkey, account uuid.UUID) error {
	h, err := ParseHash(r.PathValue("hash"))
	if err != nil {
		return refuse(http.StatusMethodNotAllowed, "only a manifest can be removed; the URL's last element is not a hash of 128 hex digits")
	}
	return s.db.write(r.Context(), func(tx *transaction) error {
		v, err := owned(tx, p, account)
		if err != nil {
			return err
		}
		signed, err := tx.manifest(p, h)
		switch {
		case err != nil:
			return err
		case signed == nil:
			return refuse(http.StatusNotFound, "no such manifest")
		case v.locked:
			return refuse(http.StatusBadRequest, "the volume is locked")
		}
		all, err := tx.list(p, nil, false)
		if err != nil {
			return err
		}
		if all[len(all)-1] == h {
			return refuse(http.StatusBadRequest, "it is the newest manifest of the volume, which stays")
		}
		return tx.removeManifest(p, h)
	})
}
