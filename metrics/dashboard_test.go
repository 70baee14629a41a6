package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// told is a Set in which each figure has a value.
func told() *Set {
	s := New()
	v := s.Volume(one)
	v.Fetched(1, time.Millisecond)
	v.FetchFailed()
	v.Shared()
	v.Waited(time.Millisecond)
	v.Cache("content", true)
	v.Cache("index", false)
	v.Uploaded(1, time.Second)
	v.UploadFailed()
	v.SetRemote(1, 1)
	v.SetFenced(true)
	v.Op("read", time.Millisecond)
	s.SetStates(map[string]int{"complete": 1})
	return s
}

// names returns the names that Prometheus sees, and those of the figures.
func names(t *testing.T, s *Set) (seen, figures map[string]bool) {
	t.Helper()
	all, err := s.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen, figures = map[string]bool{}, map[string]bool{}
	for _, f := range all {
		name := f.GetName()
		if !strings.HasPrefix(name, "fractal_") {
			continue
		}
		figures[name], seen[name] = true, true
		if f.GetMetric()[0].GetHistogram() != nil {
			delete(seen, name)
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				seen[name+part] = true
			}
		}
	}
	return seen, figures
}

var figure = regexp.MustCompile(`fractal_[a-z_]+`)

func TestDashboard_ShowsEveryFigureAndNoneThatDoesNotExist(t *testing.T) {
	b, err := os.ReadFile("../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title  string
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	seen, figures := names(t, told())
	if len(figures) < 15 {
		t.Fatalf("only %d figures are told", len(figures))
	}
	shown := map[string]bool{}
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, q := range p.Targets {
			found := figure.FindAllString(q.Expr, -1)
			if len(found) == 0 {
				t.Errorf("panel %q asks %q", p.Title, q.Expr)
			}
			for _, name := range found {
				if !seen[name] {
					t.Errorf("panel %q asks for %s, which does not exist", p.Title, name)
				}
				for _, part := range []string{"", "_bucket", "_sum", "_count"} {
					shown[strings.TrimSuffix(name, part)] = true
				}
			}
		}
	}
	for name := range figures {
		if !shown[name] {
			t.Errorf("%s is in no panel", name)
		}
	}
	for _, name := range figure.FindAllString(string(b), -1) { // in variables, too
		if !seen[name] {
			t.Errorf("the dashboard names %s, which does not exist", name)
		}
	}
}

func TestOperations_DescribesEveryFigure(t *testing.T) {
	b, err := os.ReadFile("../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	seen, figures := names(t, told())
	for name := range figures {
		if !strings.Contains(string(b), "\n| `"+name+"` |") {
			t.Errorf("%s is not described", name)
		}
	}
	for _, name := range figure.FindAllString(string(b), -1) {
		if !seen[name] && !figures[name] {
			t.Errorf("%s is described and does not exist", name)
		}
	}
}

func TestSet_StatesThatNoVolumeIsInAreGone(t *testing.T) {
	s := told()
	s.SetStates(map[string]int{"locked": 2})
	page := scrape(t, s)
	wantLines(t, page, `fractal_volumes{state="locked"} 2`, `fractal_cache_hits_total{cache="content",volume="0011223344556677"} 1`,
		`fractal_cache_misses_total{cache="index",volume="0011223344556677"} 1`, `fractal_wait_seconds_count{volume="0011223344556677"} 1`,
		`fractal_upload_bytes_total{volume="0011223344556677"} 1`)
	if strings.Contains(page, `state="complete"`) {
		t.Error("a state that is over is still shown")
	}
	s.Forget(one)
	if page := scrape(t, s); strings.Contains(page, "0011223344556677") {
		t.Errorf("a volume that is gone is still shown: %s", page)
	}
}
