package main

import (
	"context"
	"fmt"
	"time"

	"fractal-lazy/tests/kit"
)

// life is what A leaves behind.
type life struct {
	data     uint64        // bytes of the volume when it was flushed
	flush    time.Duration // the flush that was accepted before A died
	history  int64         // rows of pgbench_history before that flush began
	peakRSS  int64
	snapshot time.Duration // a second flush, of what pgbench changed
}

// liveOnA has a database live on device a, up to a flush under load.
func (d *demo) liveOnA(ctx context.Context, a *device) (*life, error) {
	out, err := a.cli(ctx, "volume", "create", "db", "-o", "interval=off")
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	if d.key, err = a.cli(ctx, "key", "export", "db"); err != nil {
		return nil, err
	}
	mount, err := a.cli(ctx, "volume", "mount", "db")
	if err != nil {
		return nil, err
	}
	if a.pg, err = d.newPostgres(lastLine(mount), a.name); err != nil {
		return nil, err
	}
	if err := a.pg.Init(ctx); err != nil {
		return nil, err
	}
	if err := a.pg.Start(ctx); err != nil {
		return nil, err
	}
	if err := a.pg.fill(ctx, d.size.rows); err != nil {
		return nil, err
	}
	l := &life{}
	began := time.Now()
	if _, err := a.cli(ctx, "flush", "db"); err != nil {
		return nil, err
	}
	l.flush = time.Since(began)
	i, err := a.inspect(ctx)
	if err != nil {
		return nil, err
	}
	l.data = i.BytesTotal
	fmt.Printf("   flushed %s in %s\n", mib(i.BytesTotal), round(l.flush))

	load, err := a.pg.load(d.size.load + 30*time.Second) // goes on during the flush, and dies with A
	if err != nil {
		return nil, err
	}
	defer load.Kill9()
	select {
	case <-time.After(d.size.load):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if l.history, err = a.pg.count(ctx, "pgbench_history"); err != nil {
		return nil, err
	}
	began = time.Now()
	if _, err := a.cli(ctx, "flush", "db"); err != nil {
		return nil, err
	}
	l.snapshot = time.Since(began)
	l.peakRSS = a.daemon.PeakRSS()
	fmt.Printf("   flushed again under load, with %d transactions of pgbench, in %s\n", l.history, round(l.snapshot))
	return l, nil
}

// takeover is what one device measured.
type takeover struct {
	name        string
	mount       time.Duration // all from the first command on
	firstAnswer time.Duration
	complete    time.Duration
	before      int64 // bytes that came over the link before the first answer
	total       int64
	peakRSS     int64
}

// takeOver has a new device take over the volume: lazily, or everything first.
func (d *demo) takeOver(ctx context.Context, name string, l *life, everythingFirst bool) (*takeover, error) {
	relay, err := kit.NewRelay(d.hiveURL[len("http://"):], d.size.link)
	if err != nil {
		return nil, err
	}
	d.later(relay.Close)
	v, err := d.startDevice(ctx, name, "http://"+relay.Addr())
	if err != nil {
		return nil, err
	}
	t := &takeover{name: name}
	began := time.Now()
	if _, err := v.cliInput(ctx, d.key+"\n", "volume", "create", "db", "-o", "privkey=-", "-o", "takeover=always", "-o", "interval=off"); err != nil {
		return nil, err
	}
	mount, err := v.cli(ctx, "volume", "mount", "db")
	if err != nil {
		return nil, err
	}
	t.mount = time.Since(began)
	fmt.Printf("   mounted after %s\n", round(t.mount))
	if everythingFirst {
		if _, err := v.cli(ctx, "hydrate", "--wait", "db"); err != nil {
			return nil, err
		}
		t.complete = time.Since(began)
		fmt.Printf("   all blocks fetched after %s\n", round(t.complete))
	}
	if v.pg, err = d.newPostgres(lastLine(mount), name); err != nil {
		return nil, err
	}
	if err := v.pg.Start(ctx); err != nil {
		return nil, err
	}
	answer, err := v.pg.answer(ctx)
	if err != nil {
		return nil, err
	}
	t.firstAnswer = time.Since(began)
	_, t.before = relay.Bytes()
	fmt.Printf("   first answer after %s: %s\n", round(t.firstAnswer), answer)
	if !everythingFirst {
		i, err := v.inspect(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Printf("   state %s, %s of %s still to fetch; the hydrator goes on\n", i.State, mib(i.BytesRemote), mib(i.BytesTotal))
		if _, err := v.cli(ctx, "hydrate", "--wait", "db"); err != nil {
			return nil, err
		}
		t.complete = time.Since(began)
		fmt.Printf("   complete after %s\n", round(t.complete))
	}
	_, t.total = relay.Bytes()
	t.peakRSS = v.daemon.PeakRSS()

	relay.Unplug(kit.Cut)
	rows, err := v.pg.verify(ctx)
	if err != nil {
		return nil, err
	}
	if rows != int64(d.size.rows) {
		return nil, fmt.Errorf("device %s has %d rows, A had %d", name, rows, d.size.rows)
	}
	history, err := v.pg.count(ctx, "pgbench_history")
	if err != nil {
		return nil, err
	}
	if history < l.history {
		return nil, fmt.Errorf("device %s has %d transactions of pgbench, A had %d before its last flush", name, history, l.history)
	}
	fmt.Printf("   network unplugged: %d rows with the right checksum, %d transactions of pgbench\n", rows, history)
	return t, v.die()
}
