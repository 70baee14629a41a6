package schedule

import (
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		panic(err)
	}
	return t
}

const machine = "a9bcb8e8-6c36-4f0f-8d2e-3b1d1a7d5d10"

func TestNext(t *testing.T) {
	now := at("2026-11-21 12:00:00")
	for name, c := range map[string]struct {
		job  Job
		want time.Time // without jitter
		why  string
	}{
		"a new job of minutes is due at once": {
			Job{Timer: "60", Created: at("2026-11-21 11:59:00")}, at("2026-11-21 11:59:00"), "it has not run yet"},
		"a new job of cron waits for its time": {
			Job{Timer: "30 3 * * *", Created: at("2026-11-21 11:59:00")}, at("2026-11-22 03:30:00"), "its time has come"},
		"it runs a period after it last began": {
			Job{Timer: "60", Ran: at("2026-11-21 11:30:00")}, at("2026-11-21 12:30:00"), "its time has come"},
		"ten missed runs are one": {
			Job{Timer: "60", Ran: at("2026-11-21 01:30:00")}, at("2026-11-21 02:30:00"), "more than one run was missed, and is made up once"},
		"and so are those of cron": {
			Job{Timer: "@hourly", Ran: at("2026-11-21 01:30:00")}, at("2026-11-21 02:00:00"), "more than one run was missed, and is made up once"},
		"a failure is tried again after a minute": {
			Job{Timer: "60", Failed: 1, Tried: at("2026-11-21 11:59:30"), Ran: at("2026-11-21 10:00:00")}, at("2026-11-21 12:00:30"), "the last run failed"},
		"the fourth after eight": {
			Job{Timer: "60", Failed: 4, Tried: at("2026-11-21 11:59:30")}, at("2026-11-21 12:07:30"), "the last run failed"},
		"but never later than the period": {
			Job{Timer: "5", Failed: 40, Tried: at("2026-11-21 11:59:30")}, at("2026-11-21 12:04:30"), "the last run failed"},
		"a clock that was set back does not stop it": {
			Job{Timer: "60", Ran: at("2027-11-21 11:30:00")}, now, "it last ran in the future: the clock was set back"},
		"a paused one never runs": {
			Job{Timer: "60", Paused: true}, time.Time{}, "paused"},
	} {
		t.Run(name, func(t *testing.T) {
			c.job.Volume, c.job.Action = "db", "snapshot"
			due := next(&c.job, machine, now)
			late := due.At.Sub(c.want)
			timer, err := ParseTimer(c.job.Timer)
			if err != nil {
				t.Fatal(err)
			}
			if want := timer.jitter(&c.job, machine, now); c.job.Failed == 0 && !due.At.IsZero() && late != want || late < 0 || late > maxJitter {
				t.Errorf("due %v, want %v and %v of jitter", due.At, c.want, want)
			}
			if due.Why != c.why {
				t.Errorf("why: %q, want %q", due.Why, c.why)
			}
		})
	}
}

func TestDecide_RunsWhatIsDueAndSaysWhenToLookAgain(t *testing.T) {
	now := at("2026-11-21 12:00:00")
	table := &Table{Jobs: []Job{
		{Volume: "a", Action: "snapshot", Timer: "60", Ran: at("2026-11-21 11:00:00")},
		{Volume: "b", Action: "snapshot", Timer: "60", Ran: at("2026-11-21 11:00:01")},
		{Volume: "c", Action: "snapshot", Timer: "60", Ran: at("2026-11-21 11:30:00")},
		{Volume: "d", Action: "snapshot", Timer: "60", Paused: true},
	}}
	run, again := Decide(table, machine, now)
	if len(run) != 1 || run[0].Volume != "a" || !again.Equal(at("2026-11-21 12:00:01")) {
		t.Errorf("%+v, look again at %v", run, again)
	}
	table.Paused = true
	if run, again := Decide(table, machine, now); len(run) != 0 || !again.IsZero() {
		t.Errorf("all are paused, but %+v, %v", run, again)
	}
}

// TestTimer_Cron in the zone of the caller: a night with 25 hours has 03:30 once.
func TestTimer_Cron(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	timer, err := ParseTimer("30 3 * * *")
	if err != nil {
		t.Fatal(err)
	}
	next := timer.after(time.Date(2026, 10, 24, 12, 0, 0, 0, zone))
	if want := time.Date(2026, 10, 25, 3, 30, 0, 0, zone); !next.Equal(want) {
		t.Errorf("%v, want %v", next, want)
	}
	if next = timer.after(next); !next.Equal(time.Date(2026, 10, 26, 3, 30, 0, 0, zone)) {
		t.Errorf("the day after: %v", next)
	}
}

func TestParseTimer_RefusesWhatIsNone(t *testing.T) {
	for _, s := range []string{"", "0", "-1", "1.5", "527041", "pause", "* * * *", "61 * * * *", "* * * * * *", "@never", "0 0 30 2 *",
		"9999999999999999999", string(make([]byte, 500))} {
		if _, err := ParseTimer(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestTimer_JitterIsSteadyAndSpread(t *testing.T) {
	timer, err := ParseTimer("0 3 * * *")
	if err != nil {
		t.Fatal(err)
	}
	now, seen := at("2026-11-21 12:00:00"), map[time.Duration]bool{}
	for _, m := range []string{"a", "b", "c", "d"} {
		j := &Job{Volume: "db", Action: "snapshot"}
		d := timer.jitter(j, m, now)
		if d < 0 || d >= maxJitter || d != timer.jitter(j, m, now.Add(time.Hour)) {
			t.Errorf("machine %s: %v", m, d)
		}
		seen[d] = true
	}
	if len(seen) < 4 {
		t.Errorf("four machines come at only %d times", len(seen))
	}
}

func TestLate(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 3, n, 12, 0, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		job  Job
		now  time.Time
		want time.Duration
	}{
		"never ran":       {Job{Timer: "60", Created: day(1)}, day(1).Add(2 * time.Hour), time.Hour},
		"ran in time":     {Job{Timer: "60", Created: day(1), Ran: day(2)}, day(2).Add(time.Hour), 0},
		"was off":         {Job{Timer: "1440", Created: day(1), Ran: day(2)}, day(12), 9 * 24 * time.Hour},
		"set anew since":  {Job{Timer: "1440", Created: day(11), Ran: day(2)}, day(12), 0},
		"each month":      {Job{Timer: "0 12 1 * *", Created: day(1), Ran: day(1)}, day(32), 24 * time.Hour}, // the month before had 31 days, this one has 30
		"ran in a future": {Job{Timer: "60", Created: day(1), Ran: day(12)}, day(2), -10 * 24 * time.Hour},
	} {
		if got := c.job.Late(c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Whoever sets a job anew, or lets it go on, says that it is in time.
func TestRunner_SettingAndResumingBeginAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		r := d.open(t, map[string]Action{"snapshot": {}})
		created := func() time.Time { list, _ := r.List("db"); return list[0].Created }
		for name, do := range map[string]func(){
			"set":    func() { must(t, r.Set("db", "snapshot", "60")) },
			"resume": func() { must(t, r.Pause("db", "snapshot", true)); must(t, r.Pause("db", "snapshot", false)) },
			"all":    func() { must(t, r.PauseAll(true)); must(t, r.PauseAll(false)) },
		} {
			must(t, r.Set("db", "snapshot", "60"))
			time.Sleep(time.Hour)
			if do(); !created().Equal(time.Now()) {
				t.Errorf("%s: %v", name, created())
			}
		}
	})
}
