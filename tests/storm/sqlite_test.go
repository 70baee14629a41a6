package storm

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	_ "modernc.org/sqlite"
)

func init() { children["sqlite"] = sqliteChild }

// sqliteModes has a database each: with a journal that is made and removed for every commit, and with a log and an index of it that is mapped.
var sqliteModes = []string{"delete", "wal"}

const sqliteAccounts = 100

func sqliteChild(what string, c child) error {
	var ledgers []*ledger
	for _, mode := range sqliteModes {
		db, err := sql.Open("sqlite", filepath.Join(c.dir, mode+".db")+"?_pragma=journal_mode("+mode+")&_pragma=synchronous(full)&_pragma=busy_timeout(0)&_txlock=immediate")
		if err != nil {
			return err
		}
		defer db.Close()
		db.SetMaxOpenConns(1)
		l := &ledger{db: db, acked: filepath.Join(c.state, mode), mode: mode}
		if err := l.open(); err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
		if what == "check" {
			if err := l.check(); err != nil {
				return fmt.Errorf("%s: %w", mode, err)
			}
			continue
		}
		ledgers = append(ledgers, l)
	}
	if what == "check" {
		return nil
	}
	return c.until(func(int) error {
		for _, l := range ledgers {
			for range 5 {
				if err := l.commit(); err != nil {
					return fmt.Errorf("%s: %w", l.mode, err)
				}
			}
		}
		return nil
	})
}

// ledger is a database in which every commit moves money and is written down, there and in the file acked.
type ledger struct {
	db          *sql.DB
	acked, mode string
	n           int
}

func (l *ledger) open() error {
	if b, err := os.ReadFile(l.acked); err == nil {
		if l.n, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return err
		}
		return nil
	}
	tx, err := l.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note BLOB);
		CREATE TABLE moved (n INTEGER PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER); CREATE INDEX moved_a ON moved (a, b)`); err != nil {
		return err
	}
	for i := range sqliteAccounts {
		if _, err := tx.Exec(`INSERT INTO account VALUES (?, 1000, randomblob(2000))`, i); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return os.WriteFile(l.acked, []byte("0"), 0o644)
}

func (l *ledger) commit() error {
	tx, err := l.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	a, b, amount := rand.IntN(sqliteAccounts), rand.IntN(sqliteAccounts), rand.IntN(50)
	for _, step := range []struct {
		sql  string
		args []any
	}{
		{`UPDATE account SET balance = balance - ?, note = randomblob(2000) WHERE id = ?`, []any{amount, a}},
		{`UPDATE account SET balance = balance + ? WHERE id = ?`, []any{amount, b}},
		{`INSERT INTO moved VALUES (?, ?, ?, ?)`, []any{l.n + 1, a, b, amount}},
	} {
		if _, err := tx.Exec(step.sql, step.args...); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	l.n++
	return os.WriteFile(l.acked, []byte(strconv.Itoa(l.n)), 0o644)
}

// check holds the database against what was acknowledged.
func (l *ledger) check() error {
	var integrity, mode string
	if err := l.db.QueryRow(`PRAGMA integrity_check`).Scan(&integrity); err != nil || integrity != "ok" {
		return fmt.Errorf("integrity_check: %q, %v", integrity, err)
	}
	if err := l.db.QueryRow(`PRAGMA journal_mode`).Scan(&mode); err != nil || mode != l.mode {
		return fmt.Errorf("journal_mode %q: %v", mode, err)
	}
	var n, highest, sum, wrong int
	err := l.db.QueryRow(`SELECT count(*), coalesce(max(n), 0), (SELECT sum(balance) FROM account),
		(SELECT count(*) FROM account WHERE balance != 1000 + coalesce((SELECT sum(amount) FROM moved WHERE b = id), 0) - coalesce((SELECT sum(amount) FROM moved WHERE a = id), 0))
		FROM moved`).Scan(&n, &highest, &sum, &wrong)
	if err != nil {
		return err
	}
	if n != l.n || highest != l.n || sum != 1000*sqliteAccounts || wrong != 0 {
		return fmt.Errorf("%d commits up to %d, %d were acknowledged; a sum of %d; %d wrong accounts", n, highest, l.n, sum, wrong)
	}
	return nil
}
