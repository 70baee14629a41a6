package volume

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"fractal-lazy/hive"
)

func TestSettings_GoodValues(t *testing.T) {
	for _, c := range []struct{ in, name, want string }{
		{"interval=5s", "interval", "5s"}, {"interval=0", "interval", "off"}, {"interval=off", "interval", "off"}, {"interval=1h", "interval", "1h0m0s"},
		{"chunk-size=64KiB", "chunk-size", "64 KiB"}, {"chunk-size=524288", "chunk-size", "512 KiB"},
		{"compression=none", "compression", "none"}, {"compression=better", "compression", "better"},
		{"patches=off", "patches", "off"}, {"patches=on", "patches", "on"},
		{"nocow=true", "nocow", "true"}, {"nocow=false", "nocow", "false"},
		{"size=20GiB", "size", "21474836480"}, {"size=20GB", "size", "20000000000"}, {"size=0", "size", "0"},
		{"snapshot=12", "snapshot", "12"}, {"snapshot=2026-01-31 12:00", "snapshot", "2026-01-31 12:00"},
		{"snapshot=" + strings.Repeat("ab", 64), "snapshot", strings.Repeat("ab", 64)},
		{"prefetch=metadata", "prefetch", "metadata"}, {"prefetch=1MiB", "prefetch", "1048576"},
		{"fetch-timeout=0", "fetch-timeout", "0s"}, {"fetch-timeout=30s", "fetch-timeout", "30s"},
		{"takeover=always", "takeover", "always"}, {"takeover=released", "takeover", "released"},
		{"mount=direct", "mount", "direct"}, {"mount=fuse", "mount", "fuse"},
	} {
		s, err := parseSettings(kv(c.in), time.Minute)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := s.effective()[c.name]; got != c.want {
			t.Errorf("%s: effective %q", c.in, got)
		}
	}
	s, err := parseSettings(nil, time.Minute)
	must(t, err)
	want := kv("interval=1m0s", "chunk-size=256 KiB", "compression=default", "patches=on", "nocow=false", "size=0", "prefetch=all", "fetch-timeout=0s", "takeover=released", "mount=fuse")
	if got := s.effective(); !maps.Equal(got, want) {
		t.Errorf("defaults: %v", got)
	}
}

func TestSettings_BadValuesNameTheGoodOnes(t *testing.T) {
	for _, in := range []string{
		"interval=1s", "interval=-5s", "interval=soon", "interval=", "interval=9999999h", "chunk-size=100KiB", "chunk-size=1MiB", "chunk-size=x",
		"compression=", "compression=gzip", "nocow=yes", "patches=true", "patches=", "size=-1", "size=1KiB", "size=many", "size=2EiB", "snapshot=", "snapshot=0",
		"snapshot=yesterday", "prefetch=some", "prefetch=", "fetch-timeout=-1s", "fetch-timeout=x", "takeover=never", "takeover=", "mount=bind", "mount=",
		"unknown=1", "=", "Interval=60s", "size=" + strings.Repeat("9", 300),
	} {
		_, err := parseSettings(kv(in), time.Minute)
		if !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), "example: -o ") || len(err.Error()) > 700 {
			t.Errorf("%s: %v", in, err)
		}
	}
	_, err := parseSettings(kv("colour=red"), time.Minute)
	for _, o := range options {
		if !strings.Contains(err.Error(), o.name) {
			t.Errorf("%v does not name %s", err, o.name)
		}
	}
	for _, o := range options {
		if _, err := parseSettings(kv(o.example), time.Minute); err != nil {
			t.Errorf("the example of %s: %v", o.name, err)
		}
	}
}

func TestSettings_KeyInTheWrongPlaceIsNotRepeated(t *testing.T) {
	const key = "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o="
	for _, opts := range []map[string]string{{"takeover": key}, {key: "x"}} {
		if _, err := parseSettings(opts, time.Minute); err == nil || strings.Contains(err.Error(), key[:20]) {
			t.Errorf("error %v", err)
		}
	}
}

func TestSelector_PicksTheNewestAtOrBefore(t *testing.T) {
	all := []*hive.Manifest{{Generation: 1, Creation: 1_700_000_000}, {Generation: 2, Creation: 1_700_000_100}, {Generation: 5, Creation: 1_700_000_200}}
	for in, want := range map[string]uint64{
		"1": 1, "5": 5, "3": 0, "1700000000": 1, "1700000199": 2, "1800000000": 5, "1699999999": 0,
		"2023-11-14T22:15:00Z": 2, "2023-11-14 22:13": 0, "2023-11-14 22:13:20": 1, "2023-11-14T23:15:00+01:00": 2,
		all[1].Hash().String(): 2, strings.Repeat("0", 128): 0,
	} {
		sel, err := parseSelector(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		got := uint64(0)
		if m := sel.pick(all); m != nil {
			got = m.Generation
		}
		if got != want {
			t.Errorf("%s: generation %d, want %d", in, got, want)
		}
	}
}
