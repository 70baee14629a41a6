package main

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"fractal-lazy/tests/kit"

	"github.com/jackc/pgx/v5"
)

// postgres is the server on a volume of one device.
type postgres struct{ *kit.Postgres }

// newPostgres describes the server for the data in the volume mounted at mount.
func (d *demo) newPostgres(mount, name string) (*postgres, error) {
	p, err := kit.NewPostgres(filepath.Join(mount, "pgdata"), d.path(name+"-pg"))
	if err != nil {
		return nil, err
	}
	p.Log = d.path(name + "-postgres.log")
	p.Settings = []string{"shared_buffers=64MB", "wal_level=minimal", "max_wal_senders=0",
		"max_wal_size=128MB", "min_wal_size=48MB", "autovacuum=off"}
	return &postgres{p}, nil
}

// fill makes the rows, each with its checksum, and pgbench's tables.
func (p *postgres) fill(ctx context.Context, rows int) error {
	c, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	// The table is made and filled in one transaction, so that its rows do
	// not go through the log as well.
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	for _, q := range []string{
		`CREATE TABLE photos (id int, body bytea, sum text)`,
		`ALTER TABLE photos ALTER body SET STORAGE EXTERNAL`,
	} {
		if _, err := tx.Exec(ctx, q); err != nil {
			return err
		}
	}
	n := 0
	body := make([]byte, 8000)
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"photos"}, []string{"id", "body", "sum"}, pgx.CopyFromFunc(func() ([]any, error) {
		if n == rows {
			return nil, nil
		}
		n++
		if _, err := rand.Read(body); err != nil {
			return nil, err
		}
		sum := md5.Sum(body)
		return []any{n, body, hex.EncodeToString(sum[:])}, nil
	}))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `ALTER TABLE photos ADD PRIMARY KEY (id)`); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if _, err := p.Run(ctx, "pgbench", "-i", "-q", "-s", "5"); err != nil {
		return err
	}
	_, err = c.Exec(ctx, "CHECKPOINT")
	return err
}

// load runs pgbench in the background. It ends with the server.
func (p *postgres) load(d time.Duration) (*kit.Process, error) {
	return kit.Start(kit.ProcessOptions{
		Path: filepath.Join(kit.PostgresBin, "pgbench"),
		Args: []string{"-n", "-c", "4", "-R", "150", "-T", strconv.Itoa(int(d.Seconds())),
			"-h", p.Socket, "-p", strconv.Itoa(p.Port), "-U", "postgres", "postgres"},
		Dir: p.Socket, Log: p.Log,
	})
}

// answer asks the question that the demo's clock stops at.
func (p *postgres) answer(ctx context.Context) (string, error) {
	c, err := p.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	var right bool
	var balance int64
	err = c.QueryRow(ctx, `SELECT md5(body) = sum, (SELECT bbalance FROM pgbench_branches WHERE bid = 3) FROM photos WHERE id = 4711`).Scan(&right, &balance)
	if err != nil {
		return "", err
	}
	if !right {
		return "", errors.New("row 4711 has another checksum")
	}
	return fmt.Sprintf("row 4711 has its checksum, branch 3 a balance of %d", balance), nil
}

// verify reads every row and returns how many there are; one with another
// checksum is an error.
func (p *postgres) verify(ctx context.Context) (int64, error) {
	c, err := p.Connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	var rows, right int64
	if err := c.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE md5(body) = sum) FROM photos`).Scan(&rows, &right); err != nil {
		return 0, err
	}
	if rows != right {
		return rows, fmt.Errorf("%d of %d rows have another checksum", rows-right, rows)
	}
	// Every page of pgbench's tables has a checksum that reading it verifies.
	var accounts int64
	if err := c.QueryRow(ctx, `SELECT count(*) FROM pgbench_accounts WHERE abalance IS NOT NULL`).Scan(&accounts); err != nil {
		return rows, err
	}
	if accounts != 500_000 {
		return rows, fmt.Errorf("pgbench has %d accounts, want 500000", accounts)
	}
	return rows, nil
}

func (p *postgres) count(ctx context.Context, table string) (int64, error) {
	c, err := p.Connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	var n int64
	err = c.QueryRow(ctx, `SELECT count(*) FROM `+pgx.Identifier{table}.Sanitize()).Scan(&n)
	return n, err
}
