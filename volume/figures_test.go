package volume

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/metrics"
)

// figureSum adds up a figure over its labels; of a histogram, the observations.
func figureSum(t *testing.T, set *metrics.Set, name, label string) (sum float64) {
	t.Helper()
	all, err := set.Registry().Gather()
	must(t, err)
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label != "" && !strings.Contains(m.String(), `"`+label+`"`) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// Each figure moves when what it counts happens, on a volume that fails over.
func TestFigures_TellWhatAFailoverDoes(t *testing.T) {
	w := newWorld(t)
	one, two := metrics.New(), metrics.New()
	a := w.machine("a", func(_ *Options, d *Deps) { d.Metrics = one })
	a.create("db")
	dir := a.mount("db", "1")
	// Small files that share blocks, and one so large that it has an index.
	shell(t, `cd "$1"; for i in $(seq 20); do head -c 9000 /dev/urandom >f$i; done; head -c 40000000 /dev/urandom >large`, dir)
	a.unmount("db", "1")
	a.released("db")
	a.Measure()
	for name, least := range map[string]float64{"fractal_upload_bytes_total": 40_000_000, "fractal_upload_seconds": 1, "fractal_fuse_op_seconds": 20, "fractal_volumes": 1} {
		if got := figureSum(t, one, name, ""); got < least {
			t.Errorf("%s is %v, want %v at least", name, got, least)
		}
	}
	if figureSum(t, one, "fractal_volumes", StateUnmounted) != 1 {
		t.Error("no volume is unmounted")
	}

	b := w.machine("b", func(_ *Options, d *Deps) { d.Metrics = two })
	b.create("db", "privkey="+a.key("db"), "prefetch=none")
	dir = b.mount("db", "1")
	b.Measure()
	if got := figureSum(t, two, "fractal_remote_bytes", ""); got < 40_000_000 {
		t.Errorf("fractal_remote_bytes is %v", got)
	}
	out, err := exec.Command("sh", "-c", `cd "$1"; cat f* >/dev/null; dd if=large of=/dev/null bs=64k skip=10 count=100 2>/dev/null`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, label := range map[string]string{
		"fractal_fetch_seconds": "", "fractal_fetch_bytes_total": "", "fractal_wait_seconds": "",
		"fractal_cache_hits_total": "content", "fractal_cache_misses_total": "content",
	} {
		if figureSum(t, two, name, label) == 0 {
			t.Errorf("%s %s did not move", name, label)
		}
	}
	if figureSum(t, two, "fractal_cache_hits_total", "index")+figureSum(t, two, "fractal_cache_misses_total", "index") == 0 {
		t.Error("nobody looked for an index")
	}

	write(t, filepath.Join(dir, "new"), "x")
	w.down.Store(true)
	_, err = b.Snapshot(ctx(t), "db", false, nil)
	must(t, err)
	b.eventually("the failed upload is counted", func() bool { return figureSum(t, two, "fractal_upload_failures_total", "") > 0 })
	b.Measure()
	if figureSum(t, two, "fractal_upload_lag_seconds", "") == 0 {
		t.Error("nothing is behind")
	}
}
