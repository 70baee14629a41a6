//go:build docker

package docker

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

const postgresBin = "/usr/lib/postgresql/15/bin"

// makePostgres makes an image of PostgreSQL as Debian installed it here: the server, its libraries, time zones, and busybox.
func makePostgres(file string) error {
	i, err := newImage(file)
	if err != nil {
		return err
	}
	// Docker gives the root of an empty volume the owner that the folder has in the image.
	i.put(&tar.Header{Typeflag: tar.TypeDir, Name: "data", Mode: 0o700, Uid: 999, Gid: 999}, nil)
	i.busybox()
	i.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999:PostgreSQL:/tmp:/bin/sh\n", 0o644)
	i.file("etc/group", "root:x:0:\npostgres:x:999:\n", 0o644)
	programs := []string{"postgres", "initdb", "pg_ctl", "psql", "pgbench", "pg_isready", "pg_amcheck"}
	for _, p := range programs {
		i.copy(filepath.Join(postgresBin, p))
	}
	i.copy("/usr/lib/postgresql/15/lib")
	i.copy("/usr/share/postgresql/15")
	i.copy("/usr/share/zoneinfo/Etc")
	i.copy("/usr/share/zoneinfo/UTC")
	for _, p := range programs {
		out, err := exec.Command("ldd", filepath.Join(postgresBin, p)).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", p, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				i.copy(word)
			}
		}
	}
	return i.close()
}

// postgres starts a server on a volume and waits until it answers.
func postgres(t *testing.T, e *engine, container, volume string) {
	t.Helper()
	e.docker(t, "run", "-d", "--name", container, "--network", "none", "-u", "999:999", "-v", volume+":/data", "-e", "PGUSER=postgres", "-e", "PGHOST=/tmp",
		"postgres", postgresBin+"/postgres", "-D", "/data/pg", "-c", "listen_addresses=", "-c", "unix_socket_directories=/tmp", "-c", "shared_buffers=32MB",
		"-c", "timezone=UTC", "-c", "log_timezone=UTC")
	eventually(t, time.Minute, func() error {
		_, err := e.try("exec", container, postgresBin+"/psql", "-Atc", "SELECT 1")
		if err != nil {
			logs, _ := e.try("logs", "--tail", "20", container)
			err = fmt.Errorf("%w: %s", err, logs)
		}
		return err
	})
}

func psql(t *testing.T, e *engine, container, query string) string {
	t.Helper()
	return e.docker(t, "exec", container, postgresBin+"/psql", "-v", "ON_ERROR_STOP=1", "-Atc", query)
}

func TestFailover_PostgreSQLGoesOnOnAnotherMachine(t *testing.T) {
	a, b := the.a, the.b
	up(t, a)
	up(t, b)
	file := the.path("postgres.tar")
	kit.Must(t, makePostgres(file))
	defer os.Remove(file)
	for _, e := range []*engine{a, b} {
		e.docker(t, "import", file, "postgres:latest")
	}
	volume(t, a, "db", "interval=off")
	a.docker(t, "run", "--rm", "--network", "none", "-u", "999:999", "-v", "db:/data", "postgres", postgresBin+"/initdb", "-D", "/data/pg", "-U", "postgres",
		"--auth=trust", "--locale=C", "--data-checksums")
	postgres(t, a, "pg", "db")
	a.docker(t, "exec", "pg", postgresBin+"/pgbench", "-i", "-q", "-s", "3", "postgres")
	a.docker(t, "exec", "-d", "pg", postgresBin+"/pgbench", "-n", "-c", "4", "-T", "300", "postgres")
	eventually(t, time.Minute, func() error {
		if n := psql(t, a, "pg", "SELECT count(*) > 200 FROM pgbench_history"); n != "t" {
			return fmt.Errorf("few transactions yet: %s", n)
		}
		return nil
	})
	var before, after int
	fmt.Sscan(psql(t, a, "pg", "SELECT count(*) FROM pgbench_history"), &before)
	a.cli(t, "flush", "db") // while pgbench goes on
	k := a.cli(t, "key", "export", "db")
	kit.Must(t, a.die())

	volume(t, b, "db", "privkey="+k, "interval=off", "takeover=always")
	b.docker(t, "volume", "inspect", "db")
	began := time.Now()
	postgres(t, b, "pg", "db")
	answer := time.Since(began)
	fmt.Sscan(psql(t, b, "pg", "SELECT count(*) FROM pgbench_history"), &after)
	t.Logf("%d transactions before the flush, %d on B, which answered after %s", before, after, answer.Round(time.Millisecond))
	if after < before {
		t.Errorf("B has %d transactions, A had %d before it flushed", after, before)
	}
	// Money is neither made nor lost, and every page has its checksum.
	sums := psql(t, b, "pg", `SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
		AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
		AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history), (SELECT count(*) FROM pgbench_accounts)`)
	if sums != "t|300000" {
		t.Errorf("balances and accounts: %s", sums)
	}
	b.docker(t, "exec", "pg", postgresBin+"/pgbench", "-n", "-c", "2", "-t", "50", "postgres")
	b.docker(t, "stop", "pg")
	b.state(t, "db", "unmounted")
	b.docker(t, "rm", "pg")

	kit.Must(t, a.start())
	a.docker(t, "rm", "-f", "pg")
}
