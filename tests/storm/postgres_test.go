package storm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"fractal-lazy/tests/kit"
)

func init() { children["postgres"] = postgresChild }

var (
	pgbenchDone   = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	pgbenchFailed = regexp.MustCompile(`number of failed transactions: (\d+)`)
	postgresFault = regexp.MustCompile(`(?m)^.*((ERROR|PANIC|FATAL):  |could not (open|read|write|fsync|stat|access|rename|remove|link|truncate|create|seek|extend)).*$`)
	// What is no fault: a connection that comes early, the background making room, and the end.
	postgresUsual = regexp.MustCompile(`FATAL:  the database system is (starting up|not yet accepting connections)|ERROR:  canceling autovacuum task|FATAL:  terminating .* due to administrator command`)
)

// postgresChild runs a server whose data is on the volume, with small buffers, so that it reads and writes files all the time, and pgbench
// against it. What pgbench says that it committed is kept outside the volume.
func postgresChild(what string, c child) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	p, err := kit.NewPostgres(filepath.Join(c.dir, "data"), filepath.Join(c.state, "s"))
	if err != nil {
		return err
	}
	p.Settings = []string{"shared_buffers=2MB", "max_wal_size=32MB", "min_wal_size=32MB", "checkpoint_timeout=30s", "checkpoint_completion_target=0.1",
		"autovacuum_naptime=1s", "bgwriter_delay=10ms", "max_connections=20", "log_min_messages=warning"}
	acked := filepath.Join(c.state, "acked")
	fresh := false
	if _, err := os.Stat(acked); errors.Is(err, os.ErrNotExist) {
		fresh = true
		if err := p.Init(ctx); err != nil {
			return err
		}
	}
	if what == "check" {
		if _, err := p.Run(ctx, "pg_checksums", "--check", "-D", p.Data); err != nil {
			return err
		}
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, p.Stop(ctx, false), faults(p.Log))
	}()
	if what == "check" {
		return checkBank(ctx, p, acked)
	}
	if fresh {
		if err := p.Exec(ctx, "CREATE EXTENSION amcheck"); err != nil {
			return err
		}
		if _, err := p.Run(ctx, "pgbench", "-i", "-q", "-s", "2"); err != nil {
			return err
		}
		if err := os.WriteFile(acked, []byte("0"), 0o644); err != nil {
			return err
		}
	}
	return c.until(func(int) error { return bench(ctx, p, acked) })
}

// bench runs pgbench for a while, and then makes some files anew.
func bench(ctx context.Context, p *kit.Postgres, acked string) error {
	out, err := p.Run(ctx, "pgbench", "-n", "-c", "3", "-T", "1")
	if err != nil {
		return err
	}
	done, failed := pgbenchDone.FindStringSubmatch(out), pgbenchFailed.FindStringSubmatch(out)
	if done == nil || failed == nil || failed[1] != "0" || strings.Contains(out, "error") {
		return fmt.Errorf("pgbench: %s", out)
	}
	before, err := number(acked)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(done[1])
	if err != nil {
		return err
	}
	if err := os.WriteFile(acked, []byte(strconv.Itoa(before+n)), 0o644); err != nil {
		return err
	}
	for _, sql := range []string{"VACUUM FULL pgbench_tellers", "REINDEX TABLE pgbench_branches", "CHECKPOINT"} {
		if err := p.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// checkBank holds the database against what pgbench was told.
func checkBank(ctx context.Context, p *kit.Postgres, acked string) error {
	want, err := number(acked)
	if err != nil {
		return err
	}
	got, err := p.Query(ctx, `SELECT concat_ws(' ', (SELECT count(*) FROM pgbench_history), (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts),
		(SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches),
		(SELECT count(*) FROM pgbench_accounts))`)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%d t t t 200000", want); got != want {
		return fmt.Errorf("the bank has %q, want %q", got, want)
	}
	_, err = p.Run(ctx, "pg_amcheck", "--all", "--heapallindexed")
	return err
}

// faults returns what the server's log complains of.
func faults(log string) error {
	b, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	for _, line := range postgresFault.FindAllString(string(b), -1) {
		if !postgresUsual.MatchString(line) {
			return fmt.Errorf("PostgreSQL: %s", line)
		}
	}
	return nil
}

func number(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(b))
}
