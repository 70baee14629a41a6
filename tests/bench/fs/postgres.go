package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"fractal-lazy/tests/kit"
)

var pgRows = []struct{ name, args string }{
	{"pgbench select-only", "-S"},
	{"pgbench TPC-B", ""},
}

var tps = regexp.MustCompile(`tps = ([0-9.]+)`)

// pgbench measures PostgreSQL on every place: each has a cluster of its own, and one server runs at a time.
func (b *bench) pgbench(ctx context.Context, places []*place) (err error) {
	scale := 2 * b.seconds
	servers := make([]*kit.Postgres, len(places))
	defer func() {
		for i, s := range servers {
			if s != nil {
				s.Kill9()
				err = errors.Join(err, os.RemoveAll(places[i].path("pg")))
			}
		}
	}()
	for i, p := range places {
		s, err := kit.NewPostgres(p.path("pg"), filepath.Join(b.dir, fmt.Sprintf("s%d", i)))
		if err != nil {
			return err
		}
		servers[i] = s
		s.Settings = []string{"shared_buffers=32MB", "autovacuum=off"}
		if err := s.Init(ctx); err != nil {
			return err
		}
		if err := s.Start(ctx); err != nil {
			return err
		}
		if _, err := s.Run(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(scale)); err != nil {
			return err
		}
		if err := s.Stop(ctx, false); err != nil {
			return err
		}
	}
	for round := range b.rounds {
		for k := range places {
			i := (k + round) % len(places)
			if err := servers[i].Start(ctx); err != nil {
				return err
			}
			for _, r := range pgRows {
				args := []string{"-n", "-c", "4", "-j", "1", "-T", strconv.Itoa(2 * b.seconds)}
				if r.args != "" {
					args = append(args, r.args)
				}
				out, err := servers[i].Run(ctx, "pgbench", args...)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", r.name, places[i].name, err)
				}
				m := tps.FindStringSubmatch(out)
				if m == nil {
					return fmt.Errorf("%s on %s: no tps in %q", r.name, places[i].name, out)
				}
				v, err := strconv.ParseFloat(m[1], 64)
				if err != nil {
					return err
				}
				b.add(r.name, fmt.Sprintf("pgbench %q, scale %d, after initdb --data-checksums; shared_buffers=32MB, autovacuum=off", args, scale), places[i], v, true)
			}
			if err := servers[i].Stop(ctx, false); err != nil {
				return err
			}
		}
	}
	return nil
}
