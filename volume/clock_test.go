package volume

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/schedule"
)

func TestClockDoubt(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		hive time.Time
		late time.Duration
		says string
	}{
		"by hand, without a Hive":      {},
		"in time, without a Hive":      {late: 6 * day},
		"too late, without a Hive":     {late: 8 * day, says: "8 days off"},
		"too early, without a Hive":    {late: -8 * day, says: "8 days off"},
		"the Hive agrees":              {hive: now.Add(-23 * time.Hour)},
		"the Hive explains a long gap": {hive: now.Add(time.Minute), late: 400 * day},
		"ahead of the Hive":            {hive: now.Add(-25 * time.Hour), says: "the Hive's 2026-05-31T11:00:00Z: set the clock"},
		"behind the Hive":              {hive: now.Add(25 * time.Hour), says: "the clock says 2026-06-01T12:00:00Z"},
	} {
		got := clockDoubt(now, c.hive, c.late)
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
}

// jumping is a machine whose clock a test sets, with three snapshots of a volume an hour apart.
func jumping(t *testing.T, w *world, change ...func(*Options, *Deps)) (*machine, *atomic.Int64) {
	t.Helper()
	var now atomic.Int64
	now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	clock := func() time.Time { return time.Unix(now.Load(), 0) }
	hive := func() time.Time {
		return time.Unix(min(now.Load(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Unix()), 0)
	}
	w.now.Store(&hive)
	a := w.machine("a", append(change, func(_ *Options, d *Deps) { d.Now = clock })...)
	a.create("db")
	dir := a.mount("db", "1")
	for g := range 3 {
		write(t, dir+"/f", fmt.Sprint(g))
		_, err := a.Snapshot(ctx(t), "db", a.pub != nil, nil)
		must(t, err)
		now.Add(3600)
	}
	return a, &now
}

// A clock that jumps ahead makes all snapshots old: nothing is removed by it while the Hive says another time, neither by a schedule nor by hand.
func TestPurge_NotByAClockThatTheHiveContradicts(t *testing.T) {
	w := newWorld(t)
	a, now := jumping(t, w)
	must(t, a.SetJob("db", "purge:4h", "60"))
	right := now.Load()
	now.Store(time.Date(2098, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	for _, opt := range []PurgeOptions{{}, {DryRun: true}, {Local: true}, {Remote: true}} {
		if _, err := a.Purge(ctx(t), "db", "4h", opt); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "2098-01-01T00:00:00Z, and the Hive's 2026-03-01") {
			t.Errorf("%+v: %v", opt, err)
		}
	}
	if err := a.jobPurge(ctx(t), "db", "4h"); !errors.Is(err, ErrNotReady) {
		t.Errorf("%v", err)
	}
	if got := fmt.Sprint(a.generations("db")); got != "[1 2 3]" {
		t.Fatal(got)
	}
	bad := false
	for _, c := range a.Health(ctx(t)).Checks {
		bad = bad || c.Name == "clock" && !c.OK && strings.Contains(c.Detail, "set the clock first")
	}
	if !bad {
		t.Error("health does not show it")
	}
	now.Store(right)
	must(t, a.jobPurge(ctx(t), "db", "4h"))
}

// Where no Hive says what time it is, a schedule goes by its own history, and a person says when it is to go on.
func TestPurge_NotByAClockThatTheScheduleDoesNotExplain(t *testing.T) {
	w := newWorld(t)
	a, now := jumping(t, w, func(_ *Options, d *Deps) { d.Hive, d.Store = nil, nil })
	count := func() int {
		v, err := a.lookup("db")
		must(t, err)
		return len(v.record().Snapshots)
	}
	must(t, a.SetJob("db", "purge:4h", "60"))
	state := func() schedule.Listed {
		jobs, _, err := a.Jobs("db")
		must(t, err)
		return jobs[0]
	}
	wake := func() { must(t, a.PauseJobs(false)) }
	a.eventually("it ran", func() bool { return !state().Ran.IsZero() && !state().Running })
	now.Add(30 * 24 * 3600)
	wake()
	a.eventually("it was put off", func() bool { return state().Failed > 0 })
	if s := state(); !strings.Contains(s.Error, "30 days off") || !strings.Contains(s.Error, "set the schedule again") || count() != 3 {
		t.Fatalf("%d snapshots, %+v", count(), s)
	}
	now.Add(24 * 3600) // it is tried again, and put off again
	wake()
	a.eventually("it was put off again", func() bool { return state().Failed > 1 })
	if count() != 3 {
		t.Fatalf("%d snapshots", count())
	}
	must(t, a.SetJob("db", "purge:4h", "60")) // somebody looked at the clock
	now.Add(24 * 3600)
	wake()
	a.eventually("it ran again", func() bool { return state().Failed == 0 })
	if count() != 1 {
		t.Errorf("%d snapshots", count())
	}
}
