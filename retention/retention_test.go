package retention

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// kept returns the ages that stay.
func kept(t *testing.T, pattern string, ages ...time.Duration) (stay []time.Duration) {
	t.Helper()
	p, err := Parse(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all []Snapshot
	for _, a := range ages {
		all = append(all, Snapshot{ID: a.String(), Created: now.Add(-a)})
	}
	for i, d := range Plan(all, p, now) {
		if d.ID != all[i].ID || d.Reason == "" {
			t.Fatalf("%+v", d)
		}
		if !d.Remove {
			stay = append(stay, ages[i])
		}
	}
	return stay
}

func hourly(n int, off time.Duration) (ages []time.Duration) {
	for h := range n {
		ages = append(ages, time.Duration(h)*time.Hour+off)
	}
	return ages
}

// The counts are those of Buttervolume's own tests.
func TestPlan_CountsOfButtervolumesTests(t *testing.T) {
	for _, c := range []struct {
		pattern string
		ages    []time.Duration
		want    int
	}{
		{"2h", hourly(20, time.Second), 2},
		{"2h", hourly(20, 0), 3},
		{"1d:1w:4w:1y", hourly(5000, 30*time.Minute), 40},
	} {
		if got := len(kept(t, c.pattern, c.ages...)); got != c.want {
			t.Errorf("%s of %d keeps %d, want %d", c.pattern, len(c.ages), got, c.want)
		}
	}
	// Applied each hour for 3000 hours, the same 3000 snapshots shrink to 4.
	p, err := Parse("1d:1w:4w:1y")
	if err != nil {
		t.Fatal(err)
	}
	var all []Snapshot
	for h := range 3000 {
		all = append(all, Snapshot{ID: fmt.Sprint(h), Created: now.Add(-time.Duration(h) * time.Hour)})
	}
	for h := range 3000 {
		plan := Plan(all, p, now.Add(time.Duration(h)*time.Hour))
		left := all[:0:0]
		for i, s := range all {
			if !plan[i].Remove {
				left = append(left, s)
			}
		}
		all = left
	}
	if len(all) != 4 {
		t.Errorf("%d are left, want 4", len(all))
	}
}

func TestPlan_Table(t *testing.T) {
	const h, d = time.Hour, 24 * time.Hour
	for _, c := range []struct {
		pattern    string
		ages, want []time.Duration
	}{
		{"2h", []time.Duration{0, h, 2 * h, 2*h + time.Second, 9 * d}, []time.Duration{0, h, 2 * h}},
		{"0h", []time.Duration{0, time.Second}, []time.Duration{0}},
		{"4h:1d", []time.Duration{0, h, 3 * h, 5 * h, 6 * h, 7 * h, 9 * h, 25 * h}, []time.Duration{0, h, 3 * h, 7 * h, 9 * h}},
		// 4 h is in both worlds: kept as young, and the first of its frame.
		{"4h:1d", []time.Duration{4 * h, 5 * h}, []time.Duration{5 * h}},
		{"4h:1d:2w", []time.Duration{-h, 30 * h, 25 * h, 50 * h, 14 * d, 15 * d}, []time.Duration{-h, 30 * h, 50 * h, 14 * d}},
		{"60m:120m:180m", []time.Duration{30 * time.Minute, 70 * time.Minute, 90 * time.Minute, 150 * time.Minute, 250 * time.Minute},
			[]time.Duration{30 * time.Minute, 90 * time.Minute, 150 * time.Minute}},
		{"2h:3h", []time.Duration{150 * time.Minute, 200 * time.Minute}, nil},
	} {
		if got := kept(t, c.pattern, c.ages...); !slices.Equal(got, c.want) {
			t.Errorf("%s of %v keeps %v, want %v", c.pattern, c.ages, got, c.want)
		}
	}
}

func TestPlan_ProtectedStaysAndCounts(t *testing.T) {
	p, err := Parse("1h:1d")
	if err != nil {
		t.Fatal(err)
	}
	all := []Snapshot{
		{ID: "old", Created: now.Add(-48 * time.Hour), Protected: "in use"},
		{ID: "b", Created: now.Add(-100 * time.Minute)},
		{ID: "a", Created: now.Add(-110 * time.Minute), Protected: "newest"},
	}
	plan := Plan(all, p, now)
	if plan[0].Remove || plan[0].Reason != "in use" || !plan[1].Remove || !strings.Contains(plan[1].Reason, "a is the oldest") || plan[2].Remove {
		t.Errorf("%+v", plan)
	}
	if plan := Plan(all, Pattern{}, now); plan[0].Remove || plan[1].Remove || plan[2].Remove {
		t.Errorf("without a pattern: %+v", plan)
	}
}

// reference is the rule in one sentence for each part: of the ages in (or at) a part, oldest first, what has the same frame as the one before goes,
// and so does what is over the last time; over-age counts as one before in the last part.
func reference(times []int64, ages []int64) (gone map[int]bool) {
	gone = map[int]bool{}
	for i, a := range ages {
		if a > times[len(times)-1] {
			gone[i] = true
		}
	}
	for n := 1; n < len(times); n++ {
		before := int64(-1)
		for i, a := range ages { // descending
			if a < times[n-1] || a > times[n] && n < len(times)-1 {
				continue
			}
			if a/times[n-1] == before {
				gone[i] = true
			}
			before = a / times[n-1]
		}
	}
	return gone
}

func TestPlan_IsTheReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var p Pattern
		var times []int64
		for n, at := 1+r.IntN(5), int64(0); n > 0; n-- {
			at += 60 * (1 + r.Int64N(300))
			times = append(times, at)
			p.times = append(p.times, span{text: fmt.Sprint(at), seconds: at})
		}
		var ages []int64
		for range r.IntN(60) {
			ages = append(ages, r.Int64N(times[len(times)-1]*5/4+1))
		}
		slices.SortFunc(ages, func(a, b int64) int { return int(b - a) })
		ages = slices.Compact(ages)
		var all []Snapshot
		for i, a := range ages {
			all = append(all, Snapshot{ID: fmt.Sprint(i), Created: now.Add(-time.Duration(a) * time.Second)})
		}
		want := reference(times, ages)
		for i, d := range Plan(all, p, now) {
			if d.Remove != want[i] {
				t.Fatalf("%v of %v: age %d: %+v", times, ages, ages[i], d)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for _, good := range []string{"2h", "0h", "4h:1d:2w:2y", "30m:2h:1d", "90m:2h", "1d:1w:4w:1y", "007m", "999999999y"} {
		if p, err := Parse(good); err != nil || p.String() != good {
			t.Errorf("%q: %v, %v", good, p, err)
		}
	}
	for bad, why := range map[string]string{
		"": "number with a unit", "h": "number with a unit", "2": "number with a unit", "2s": "number with a unit", "2H": "number with a unit",
		"60m:plop:3000m": "number with a unit", "2h:": "number with a unit", ":2h": "number with a unit", "-2h": "number with a unit",
		"2h:2h": `use "2h"`, "2h:120m": "longer than", "1d:4h": "longer than", "2h:4h:4h": "longer than", "0h:1d": "may be 0",
		"2h;4h": "number with a unit", "١h": "number with a unit", "9999999999y": "number with a unit", strings.Repeat("1h:", 100) + "1h": "more than",
		"1.5h": "number with a unit", " 2h": "number with a unit",
	} {
		if _, err := Parse(bad); !errors.Is(err, ErrPattern) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"4h:1d:2w:2y", "2h", "2h:2h", "0h:1d", "999999999y"} {
		f.Add(s)
	}
	all := []Snapshot{{ID: "a", Created: now.Add(-time.Hour)}, {ID: "b", Created: now.Add(-1e6 * time.Hour)}, {ID: "c", Created: now.Add(time.Hour)}}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrPattern) || len(err.Error()) > 600 {
				t.Fatal(err)
			}
			return
		}
		if p.String() != s {
			t.Fatalf("%q became %q", s, p)
		}
		if d := Plan(all, p, now); d[2].Remove {
			t.Fatal("the future was removed")
		}
	})
}
