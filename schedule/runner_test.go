package schedule

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// disk keeps a table as a file would, and fails when it is told to.
type disk struct {
	mu   sync.Mutex
	b    []byte
	fail error
}

func (d *disk) save(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.b = b
	}
	return d.fail
}

func (d *disk) open(t *testing.T, actions map[string]Action) *Runner {
	t.Helper()
	r, err := New(d.b, d.save, actions, Options{Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs r until the test says stop.
func start(t *testing.T, r *Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// calls notes when an action ran.
type calls struct {
	mu  sync.Mutex
	at  []time.Time
	err error
}

func (c *calls) do(context.Context, string, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Now())
	return c.err
}

func (c *calls) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.at)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRunner_RunsEachPeriodAndMakesUpAMissedRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var c calls
		actions := map[string]Action{"snapshot": {Do: c.do}}
		r := d.open(t, actions)
		must(t, r.Set("db", "snapshot", "60"))
		stop := start(t, r)
		time.Sleep(3*time.Hour + time.Minute)
		stop()
		if n := c.count(); n != 4 { // at once, and three times
			t.Errorf("%d runs in three hours", n)
		}
		time.Sleep(10 * time.Hour) // the machine is off
		stop = start(t, d.open(t, actions))
		time.Sleep(30 * time.Minute)
		stop()
		if n := c.count(); n != 5 {
			t.Errorf("%d runs after ten hours off, want one more than 4", n)
		}
	})
}

func TestRunner_AFailureIsShownAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		c := calls{err: errors.New("the Hive does not answer")}
		r := d.open(t, map[string]Action{"snapshot": {Do: c.do}})
		must(t, r.Set("db", "snapshot", "60"))
		defer start(t, r)()
		time.Sleep(4 * time.Minute) // at 0, 1 and 3 minutes
		synctest.Wait()
		list, _ := r.List("db")
		if c.count() != 3 || list[0].Failed != 3 || list[0].Error != "the Hive does not answer" || !list[0].Ran.IsZero() {
			t.Errorf("%d runs, %+v", c.count(), list[0])
		}
		c.mu.Lock()
		c.err = nil
		c.mu.Unlock()
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if list, _ = r.List("db"); c.count() != 4 || list[0].Failed != 0 || list[0].Error != "" || list[0].Ran.IsZero() {
			t.Errorf("%d runs, %+v", c.count(), list[0])
		}
	})
}

// What an action says may name files, whose names need not be text, at any length. A table that could not be read again would be that of no volume.
func TestRunner_AnErrorThatIsNoTextLeavesAGoodTable(t *testing.T) {
	for name, text := range map[string]string{
		"bytes":             "damaged: " + strings.Repeat("\xff", 500),
		"a cut rune":        strings.Repeat("x", maxError-1) + "\u20ac",
		"long":              strings.Repeat("\u20ac", maxError),
		"what JSON escapes": strings.Repeat("\x01", maxError),
	} {
		synctest.Test(t, func(t *testing.T) {
			var d disk
			c := calls{err: errors.New(text)}
			r := d.open(t, map[string]Action{"verify": {Do: c.do}})
			must(t, r.Set("db", "verify", "60"))
			stop := start(t, r)
			synctest.Wait()
			stop()
			if len(c.at) != 1 {
				t.Fatalf("%s: %d runs", name, len(c.at))
			}
			table, err := Decode(d.b)
			if err != nil || table.Jobs[0].Failed != 1 || len(table.Jobs[0].Error) < 10 {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	var d disk
	r := d.open(t, map[string]Action{"replicate": {Check: func(string) error { return nil }}})
	if err := r.Set("db", "replicate:\xff", "60"); !errors.Is(err, ErrJob) {
		t.Errorf("%v", err)
	}
}

func TestRunner_TwoOfEachActionSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var mu sync.Mutex
		now, most := map[string]int{}, map[string]int{}
		slow := func(verb string) func(context.Context, string, string) error {
			return func(_ context.Context, volume, _ string) error {
				count := func(by int) {
					mu.Lock()
					defer mu.Unlock()
					for _, k := range []string{verb, verb + " " + volume} {
						now[k] += by
						most[k] = max(most[k], now[k])
					}
				}
				count(1)
				defer count(-1)
				time.Sleep(time.Minute)
				return nil
			}
		}
		r := d.open(t, map[string]Action{"snapshot": {Do: slow("snapshot")}, "verify": {Do: slow("verify")}})
		for _, v := range []string{"a", "b", "c"} {
			must(t, r.Set(v, "snapshot", "60"))
			must(t, r.Set(v, "verify", "60"))
		}
		stop := start(t, r)
		time.Sleep(10 * time.Minute)
		stop()
		if most["snapshot"] != atOnce || most["verify"] != atOnce || most["snapshot a"] != 1 || most["verify c"] != 1 {
			t.Errorf("at once: %v", most)
		}
		list, _ := r.List("")
		if i := slices.IndexFunc(list, func(l Listed) bool { return l.Ran.IsZero() }); i >= 0 || len(list) != 6 {
			t.Errorf("%+v has not run", list)
		}
	})
}

// TestRunner_WhatHangsHoldsUpNoOtherAction as a replication does whose network is gone, on the same volume, too.
func TestRunner_WhatHangsHoldsUpNoOtherAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var c calls
		hang := func(ctx context.Context, _, _ string) error { <-ctx.Done(); return ctx.Err() }
		r := d.open(t, map[string]Action{"replicate": {Do: hang}, "snapshot": {Do: c.do}})
		for _, v := range []string{"a", "b", "c"} {
			must(t, r.Set(v, "replicate", "5"))
		}
		must(t, r.Set("a", "snapshot", "10"))
		stop := start(t, r)
		time.Sleep(time.Hour + time.Minute)
		stop()
		if c.count() != 7 {
			t.Errorf("%d snapshots in an hour", c.count())
		}
	})
}

func TestRunner_PauseResumeRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		var c calls
		actions := map[string]Action{"snapshot": {Do: c.do}}
		r := d.open(t, actions)
		must(t, r.Set("db", "snapshot", "10"))
		must(t, r.PauseAll(true))
		stop := start(t, r)
		time.Sleep(time.Hour)
		must(t, r.PauseAll(false))
		must(t, r.Pause("db", "snapshot", true))
		time.Sleep(time.Hour)
		if c.count() != 0 {
			t.Errorf("%d runs while paused", c.count())
		}
		stop()
		r = d.open(t, actions) // both survive
		if list, paused := r.List(""); paused || !list[0].Paused {
			t.Errorf("after a restart: %+v", list)
		}
		defer start(t, r)()
		must(t, r.Pause("db", "snapshot", false))
		time.Sleep(time.Minute)
		if c.count() != 1 {
			t.Errorf("%d runs after resuming", c.count())
		}
		must(t, r.Remove("db", "snapshot"))
		time.Sleep(time.Hour)
		if list, _ := r.List(""); c.count() != 1 || len(list) != 0 {
			t.Errorf("removed, but %d runs and %+v", c.count(), list)
		}
		if err := r.Remove("db", "snapshot"); !errors.Is(err, ErrUnknownJob) {
			t.Errorf("removed twice: %v", err)
		}
	})
}

func TestRunner_ATableThatCannotBeWrittenChangesNothing(t *testing.T) {
	d := disk{fail: errors.New("no space")}
	r := d.open(t, map[string]Action{"snapshot": {}})
	if err := r.Set("db", "snapshot", "60"); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("%v", err)
	}
	if list, _ := r.List(""); len(list) != 0 {
		t.Errorf("%+v is there all the same", list)
	}
}

func TestSet_RefusesWhatItCannotDo(t *testing.T) {
	var d disk
	r := d.open(t, map[string]Action{"snapshot": {}, "purge": {Check: func(arg string) error {
		if arg != "2h" {
			return errors.New("not a pattern")
		}
		return nil
	}}})
	for _, c := range [][3]string{{"db", "snap", "60"}, {"db", "snapshot:x", "60"}, {"db", "purge", "60"}, {"db", "purge:3h", "60"},
		{"db", "snapshot", "0"}, {"", "snapshot", "60"}, {"a/b", "snapshot", "60"}} {
		if err := r.Set(c[0], c[1], c[2]); !errors.Is(err, ErrJob) {
			t.Errorf("%v: %v", c, err)
		}
	}
	must(t, r.Set("db", "purge:2h", "60"))
	must(t, r.Set("db", "purge:2h", "@daily")) // the same job, another timer
	if list, _ := r.List("db"); len(list) != 1 || list[0].Timer != "@daily" {
		t.Errorf("%+v", list)
	}
	must(t, r.RemoveAll("db"))
	if list, _ := r.List(""); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}
