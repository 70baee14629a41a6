package hive

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
	_ "modernc.org/sqlite" // the driver "sqlite", in Go alone
)

// schemaVersion stands in the database's user_version; 0 is a new file. Each later version gets a step in migrations.
const schemaVersion = 3

// migrations[i] leads from version i to i+1. Generations are u64, more than SQLite's integers hold, so they are eight bytes
// big-endian, which sort as the numbers do. Times are Unix seconds.
var migrations = [schemaVersion]string{`
CREATE TABLE volumes (
	pubkey  BLOB PRIMARY KEY CHECK (length(pubkey) = 32),
	account BLOB NOT NULL CHECK (length(account) = 16),
	writer  BLOB CHECK (writer IS NULL OR length(writer) = 16),
	locked  INTEGER NOT NULL,
	created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE manifests (
	pubkey     BLOB NOT NULL REFERENCES volumes ON DELETE CASCADE,
	hash       BLOB NOT NULL CHECK (length(hash) = 64),
	generation BLOB NOT NULL CHECK (length(generation) = 8),
	parent     BLOB CHECK (parent IS NULL OR length(parent) = 64),
	signed     BLOB NOT NULL,
	received   INTEGER NOT NULL,
	PRIMARY KEY (pubkey, hash),
	UNIQUE (pubkey, generation)
) STRICT;
CREATE INDEX manifests_by_parent ON manifests (pubkey, parent, generation);
`, `
CREATE TABLE removed (
	pubkey     BLOB NOT NULL REFERENCES volumes ON DELETE CASCADE,
	generation BLOB NOT NULL CHECK (length(generation) = 8),
	PRIMARY KEY (pubkey, generation)
) STRICT, WITHOUT ROWID;
`, `
ALTER TABLE removed ADD COLUMN hash BLOB CHECK (hash IS NULL OR length(hash) = 64);
`}

// database is SQLite with one connection that writes, so that writers queue here and not on SQLite's lock, and a few that read.
type database struct {
	writer, reader *sql.DB
}

func openDatabase(file string) (_ *database, err error) {
	file, err = filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	// SQLite would make the file readable for all; a clone's manifest holds a Secret. WAL and SHM take over the file's mode.
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := syncFolder(filepath.Dir(file)); err != nil {
		return nil, err
	}
	dsn := func(extra string) string {
		return (&url.URL{Scheme: "file", Path: file}).String() +
			"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)" + extra
	}
	d := &database{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.writer, err = sql.Open("sqlite", dsn("&_txlock=immediate")); err != nil {
		return nil, err
	}
	d.writer.SetMaxOpenConns(1)
	if err := d.migrate(); err != nil {
		return nil, err
	}
	if d.reader, err = sql.Open("sqlite", dsn("&_pragma=query_only(1)")); err != nil {
		return nil, err
	}
	d.reader.SetMaxOpenConns(4)
	d.reader.SetMaxIdleConns(4)
	return d, nil
}

// syncFolder makes the new file's name durable; SQLite does so for its journals only.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *database) close() error {
	var errs []error
	// The writer last: the last connection to close folds the log into the file, which a reader may not.
	for _, db := range []*sql.DB{d.reader, d.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// migrate brings the schema up to date in one transaction: a crash leaves the old version or the new.
func (d *database) migrate() error {
	return d.write(context.Background(), func(tx *transaction) error {
		var version int
		if err := tx.QueryRowContext(tx.ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if version < 0 || version > schemaVersion {
			return fmt.Errorf("the database has schema version %d, this program knows up to %d", version, schemaVersion)
		}
		for ; version < schemaVersion; version++ {
			if _, err := tx.ExecContext(tx.ctx, migrations[version]); err != nil {
				return fmt.Errorf("migrate the schema from version %d: %w", version, err)
			}
		}
		_, err := tx.ExecContext(tx.ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
		return err
	})
}

func (d *database) ping(ctx context.Context) error {
	return d.read(ctx, func(tx *transaction) error {
		var one int
		return tx.QueryRowContext(ctx, "SELECT count(*) FROM (SELECT 1 FROM volumes LIMIT 1)").Scan(&one)
	})
}

// transaction holds the statements; the context ends it.
type transaction struct {
	*sql.Tx
	ctx context.Context
}

func (d *database) write(ctx context.Context, do func(*transaction) error) error {
	return inTransaction(ctx, d.writer, do)
}

// read shows do one state of the database throughout.
func (d *database) read(ctx context.Context, do func(*transaction) error) error {
	return inTransaction(ctx, d.reader, do)
}

func inTransaction(ctx context.Context, db *sql.DB, do func(*transaction) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(&transaction{Tx: tx, ctx: ctx}); err != nil {
		// A context that ended has rolled it back already.
		if rerr := tx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			return errors.Join(err, rerr)
		}
		return err
	}
	return tx.Commit()
}

type volumeRow struct {
	account uuid.UUID
	writer  *uuid.UUID
	locked  bool
}

// volume returns nil where there is none.
func (tx *transaction) volume(p seal.Pubkey) (*volumeRow, error) {
	var v volumeRow
	var account, writer []byte
	err := tx.QueryRowContext(tx.ctx, "SELECT account, writer, locked FROM volumes WHERE pubkey = ?", p[:]).Scan(&account, &writer, &v.locked)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	copy(v.account[:], account)
	if writer != nil {
		v.writer = &uuid.UUID{}
		copy(v.writer[:], writer)
	}
	return &v, nil
}

func (tx *transaction) createVolume(p seal.Pubkey, account uuid.UUID, now time.Time) error {
	_, err := tx.ExecContext(tx.ctx, "INSERT INTO volumes (pubkey, account, locked, created) VALUES (?, ?, 0, ?)", p[:], account[:], now.Unix())
	return err
}

func (tx *transaction) updateVolume(p seal.Pubkey, v *volumeRow) error {
	var writer []byte // nil: NULL
	if v.writer != nil {
		writer = v.writer[:]
	}
	_, err := tx.ExecContext(tx.ctx, "UPDATE volumes SET account = ?, writer = ?, locked = ? WHERE pubkey = ?", v.account[:], writer, v.locked, p[:])
	return err
}

func (tx *transaction) deleteVolume(p seal.Pubkey) error {
	_, err := tx.ExecContext(tx.ctx, "DELETE FROM volumes WHERE pubkey = ?", p[:])
	return err
}

// manifest returns the signed manifest, nil where there is none.
func (tx *transaction) manifest(p seal.Pubkey, h Hash) ([]byte, error) {
	var signed []byte
	err := tx.QueryRowContext(tx.ctx, "SELECT signed FROM manifests WHERE pubkey = ? AND hash = ?", p[:], h[:]).Scan(&signed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return signed, err
}

// hasGeneration tells whether a manifest of that generation is, or was, there.
func (tx *transaction) hasGeneration(p seal.Pubkey, generation uint64) (bool, error) {
	var n int
	key := generationKey(generation)
	err := tx.QueryRowContext(tx.ctx, `SELECT (SELECT count(*) FROM manifests WHERE pubkey = ?1 AND generation = ?2) +
		(SELECT count(*) FROM removed WHERE pubkey = ?1 AND generation = ?2)`, p[:], key).Scan(&n)
	return n > 0, err
}

// wasRemoved tells whether just this manifest was there and was removed.
func (tx *transaction) wasRemoved(p seal.Pubkey, generation uint64, h Hash) (bool, error) {
	var n int
	err := tx.QueryRowContext(tx.ctx, "SELECT count(*) FROM removed WHERE pubkey = ? AND generation = ? AND hash = ?", p[:], generationKey(generation), h[:]).Scan(&n)
	return n > 0, err
}

// forgetRemoved makes the generation of a removed manifest one that nobody has.
func (tx *transaction) forgetRemoved(p seal.Pubkey, generation uint64) error {
	_, err := tx.ExecContext(tx.ctx, "DELETE FROM removed WHERE pubkey = ? AND generation = ?", p[:], generationKey(generation))
	return err
}

// removeManifest deletes a manifest and keeps its generation taken, for any but itself.
func (tx *transaction) removeManifest(p seal.Pubkey, h Hash) error {
	_, err := tx.ExecContext(tx.ctx, "INSERT OR IGNORE INTO removed (pubkey, generation, hash) SELECT pubkey, generation, hash FROM manifests WHERE pubkey = ? AND hash = ?", p[:], h[:])
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(tx.ctx, "DELETE FROM manifests WHERE pubkey = ? AND hash = ?", p[:], h[:])
	return err
}

func (tx *transaction) insertManifest(p seal.Pubkey, m *Manifest, h Hash, signed []byte, now time.Time) error {
	var parent []byte // nil: NULL
	if m.Parent != nil {
		parent = m.Parent.Hash[:]
	}
	_, err := tx.ExecContext(tx.ctx, "INSERT INTO manifests (pubkey, hash, generation, parent, signed, received) VALUES (?, ?, ?, ?, ?, ?)",
		p[:], h[:], generationKey(m.Generation), parent, signed, now.Unix())
	return err
}

func generationKey(g uint64) []byte { return binary.BigEndian.AppendUint64(nil, g) }

// list returns hashes, ascending by generation; never nil, so that it is [] in JSON and not null.
func (tx *transaction) list(p seal.Pubkey, parent *Hash, root bool) ([]Hash, error) {
	query, args := "SELECT hash FROM manifests WHERE pubkey = ?", []any{p[:]}
	switch {
	case parent != nil:
		query, args = query+" AND parent = ?", append(args, parent[:])
	case root:
		query += " AND parent IS NULL"
	}
	rows, err := tx.QueryContext(tx.ctx, query+" ORDER BY generation", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	hashes := []Hash{}
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		if len(b) != HashSize {
			return nil, fmt.Errorf("a stored hash has %d bytes", len(b))
		}
		hashes = append(hashes, Hash(b))
	}
	return hashes, rows.Err()
}
