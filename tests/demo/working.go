package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fractal-lazy/tests/kit"
)

// compare measures what a recorded working set brings: new devices take one database over, in turns with its working set and from a clone that has the same
// data and none, and the time to the first answer is compared.
func (d *demo) compare(ctx context.Context, rounds int) error {
	say("1. PostgreSQL on a volume of A, whose working set is recorded while it starts a second time")
	if err := d.startHive(ctx); err != nil {
		return err
	}
	a, err := d.startDevice(ctx, "a", d.hiveURL)
	if err != nil {
		return err
	}
	keys, err := d.recordOnA(ctx, a)
	if err != nil {
		return err
	}
	if err := a.die(); err != nil {
		return err
	}
	names := []string{"with", "without"}
	took := map[string][]time.Duration{}
	for i := range rounds {
		say("2. Round %d of %d, through %s", i+1, rounds, describe(d.size.link))
		for _, name := range names {
			t, err := d.firstAnswer(ctx, fmt.Sprintf("%s-%d", name, i), keys[name])
			if err != nil {
				return err
			}
			fmt.Printf("   %-8s first answer after %s\n", name, round(t))
			took[name] = append(took[name], t)
		}
		slices.Reverse(names)
	}
	with, without := median(took["with"]), median(took["without"])
	fmt.Printf("\nFirst answer, median of %d: %s with the working set, %s without; %.2f times sooner\n", rounds, round(with), round(without),
		without.Seconds()/with.Seconds())
	return nil
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// recordOnA leaves a database in the volume db, published with its working set, and in a clone that has none; and returns their keys.
func (d *demo) recordOnA(ctx context.Context, a *device) (map[string]string, error) {
	run := func(args ...string) (string, error) { return a.cli(ctx, args...) }
	if _, err := run("volume", "create", "db", "-o", "interval=off"); err != nil {
		return nil, err
	}
	mount, err := run("volume", "mount", "db")
	if err != nil {
		return nil, err
	}
	if a.pg, err = d.newPostgres(lastLine(mount), a.name); err != nil {
		return nil, err
	}
	steps := []func() error{
		func() error { return a.pg.Init(ctx) },
		func() error { return a.pg.Start(ctx) },
		func() error { return a.pg.fill(ctx, d.size.rows) },
		func() error { return a.pg.Stop(ctx, false) },
		func() error { _, err := run("volume", "umount", "db"); return err },
		func() error { _, err := run("clone", "db", "plain"); return err },
		func() error { return d.forget(a) },
		func() error { _, err := run("volume", "mount", "db"); return err },
		func() error { return a.pg.Start(ctx) },
		func() error { _, err := a.pg.answer(ctx); return err },
		func() error { return d.waitRecorded(ctx, a) },
		func() error { return a.pg.Stop(ctx, false) },
		func() error { _, err := run("volume", "umount", "db"); return err },
		func() error { _, err := run("flush", "plain"); return err },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	keys := map[string]string{}
	for name, vol := range map[string]string{"with": "db", "without": "plain"} {
		if keys[name], err = run("key", "export", vol); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// recorded finds what is recorded on a device of its mounted volume.
func (d *demo) recorded(a *device) ([]string, error) {
	return filepath.Glob(filepath.Join(a.pool.Dir, "volumes", "*", "working.json"))
}

func (d *demo) forget(a *device) error {
	found, err := d.recorded(a)
	for _, f := range found {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

func (d *demo) waitRecorded(ctx context.Context, a *device) error {
	fmt.Println("   the daemon records for 30 s what is used")
	for {
		if found, err := d.recorded(a); err != nil || len(found) > 0 {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// firstAnswer has a new device take a volume over, and returns how long its database needed to answer, from the first command on.
func (d *demo) firstAnswer(ctx context.Context, name, key string) (time.Duration, error) {
	relay, err := kit.NewRelay(d.hiveURL[len("http://"):], d.size.link)
	if err != nil {
		return 0, err
	}
	defer relay.Close()
	v, err := d.startDevice(ctx, name, "http://"+relay.Addr())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := v.cliInput(ctx, key+"\n", "volume", "create", "db", "-o", "privkey=-", "-o", "takeover=always", "-o", "interval=off"); err != nil {
		return 0, err
	}
	mount, err := v.cli(ctx, "volume", "mount", "db")
	if err != nil {
		return 0, err
	}
	if v.pg, err = d.newPostgres(lastLine(mount), name); err != nil {
		return 0, err
	}
	if err := v.pg.Start(ctx); err != nil {
		return 0, err
	}
	if _, err := v.pg.answer(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, v.die()
}
