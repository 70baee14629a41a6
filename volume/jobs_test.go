package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/schedule"

	"github.com/ipfs/go-cid"
)

func (x *machine) job(action string) schedule.Listed {
	x.t.Helper()
	jobs, _, err := x.Jobs("db")
	must(x.t, err)
	for _, j := range jobs {
		if j.Action == action {
			return j
		}
	}
	x.t.Fatalf("no job %s in %+v", action, jobs)
	return schedule.Listed{}
}

func TestJobs_PublishVerifyAndSurviveARestart(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "interval=off")
	write(t, filepath.Join(a.mount("db", "1"), "file"), "x")
	must(t, a.SetJob("db", "snapshot", "60"))
	a.eventually("the scheduled snapshot is published", func() bool { return a.info("db").Generation == 1 })
	must(t, a.SetJob("db", "verify:all", "@daily"))
	must(t, a.SetJob("db", "verify:all", "pause"))
	must(t, a.SetJob("db", "verify", "60"))
	a.eventually("the snapshot is verified", func() bool { return !a.job("verify").Ran.IsZero() })
	if j := a.job("verify"); j.Failed != 0 {
		t.Errorf("%+v", j)
	}
	ran := a.job("snapshot").Ran
	a.vanish()

	a = w.machine("a")
	if j := a.job("snapshot"); !j.Ran.Equal(ran) || !a.job("verify:all").Paused {
		t.Errorf("after a restart: %+v", j)
	}
	must(t, a.SetJob("db", "verify", "delete"))
	if err := a.SetJob("db", "verify", "delete"); !errors.Is(err, schedule.ErrUnknownJob) {
		t.Errorf("deleted twice: %v", err)
	}
	must(t, a.Remove(ctx(t), "db", true))
	if jobs, _, err := a.Jobs(""); err != nil || len(jobs) != 0 {
		t.Errorf("the volume is gone, its jobs are %+v, %v", jobs, err)
	}
}

// TestJobs_AFailureSaysWhatIsWrong with a pin that the store has lost.
func TestJobs_AFailureSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "interval=off")
	write(t, filepath.Join(a.mount("db", "1"), "file"), "x")
	root, err := cid.Decode(a.flush("db").Root)
	must(t, err)
	must(t, w.store.Unpin(ctx(t), root))
	must(t, a.SetJob("db", "verify", "60"))
	a.eventually("the run fails", func() bool { return a.job("verify").Failed > 0 })
	if j := a.job("verify"); !strings.Contains(j.Error, "not pinned") || j.Next.Why != "the last run failed" {
		t.Errorf("%+v", j)
	}
}

func TestJobs_RefuseWhatCannotBe(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	for _, c := range [][3]string{{"db", "defragment", "60"}, {"db", "purge:2h:2h", "60"}, {"db", "replicate:nas", "60"}, {"db", "snapshot:x", "60"}, {"db", "verify:0%", "60"}, {"db", "snapshot", "often"}} {
		if err := a.SetJob(c[0], c[1], c[2]); !errors.Is(err, schedule.ErrJob) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := a.SetJob("nobody", "snapshot", "60"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a volume that is not here: %v", err)
	}
}

// TestJobs_ADamagedTableStopsNoVolume.
func TestJobs_ADamagedTableStopsNoVolume(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	table := a.scheduleFile()
	a.vanish()
	must(t, os.WriteFile(table, []byte("{"), 0o600))
	a = w.machine("a")
	a.mount("db", "1")
	if err := a.SetJob("db", "snapshot", "60"); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), table) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(table); err != nil || string(b) != "{" {
		t.Errorf("the damaged file was touched: %q, %v", b, err)
	}
	a.unmount("db", "1")
}
