package volume

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/lazy"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"

	"github.com/dustin/go-humanize"
)

// Bounds of option values.
const (
	minInterval = 5 * time.Second
	maxInterval = 366 * 24 * time.Hour
	minSize     = 1 << 20
	maxSize     = 1 << 60
	maxValue    = 256 // bytes in the text of a value
)

// settings are the options of one volume, understood.
type settings struct {
	interval     time.Duration // 0: only at unmount and on demand
	chunkSize    uint32
	compression  snapshot.Compression
	noPatches    bool // what changed of a file is published in whole chunks
	noCOW        bool
	size         uint64 // 0: no limit
	view         *selector
	prefetch     lazy.Prefetch
	fetchTimeout time.Duration // 0: wait
	takeover     bool          // whoever holds the volume
	direct       bool          // bind the plain subvolume where nothing is left to fetch
}

// option describes one key of `-o`. set parses a value into s; the error says
// what is wrong with it and needs no prefix.
type option struct {
	name    string
	values  string // what it takes
	example string
	set     func(s *settings, value string) error
	show    func(s *settings) string // the effective value; "" leaves it out
}

var options = []option{
	{"interval", "a time between snapshots of 5s or more, or off", "interval=60s", setInterval,
		func(s *settings) string {
			if s.interval == 0 {
				return "off"
			}
			return s.interval.String()
		}},
	{"chunk-size", "64KiB, 128KiB, 256KiB or 512KiB", "chunk-size=256KiB", setChunkSize,
		func(s *settings) string { return humanize.IBytes(uint64(s.chunkSize)) }},
	{"compression", "none, fastest, default or better", "compression=fastest", setCompression,
		func(s *settings) string { return string(s.compression) }},
	{"patches", "on or off", "patches=off", setPatches,
		func(s *settings) string {
			if s.noPatches {
				return "off"
			}
			return "on"
		}},
	{"nocow", "true or false", "nocow=true", setNoCOW, func(s *settings) string { return strconv.FormatBool(s.noCOW) }},
	{"size", "a limit in bytes of 1MiB or more with a unit, or 0 for none", "size=20GiB", setSize,
		func(s *settings) string { return strconv.FormatUint(s.size, 10) }},
	{"snapshot", "a generation, a manifest's hash, the id of a local snapshot, or a time (RFC3339, 'YYYY-MM-DD HH:MM[:SS]', or Unix seconds)",
		"snapshot=2026-01-31T12:00:00Z", setSnapshot,
		func(s *settings) string {
			if s.view == nil {
				return ""
			}
			return s.view.text
		}},
	{"prefetch", "all, metadata, none, or a number of bytes with a unit", "prefetch=all", setPrefetch,
		func(s *settings) string { return string(s.prefetch) }},
	{"fetch-timeout", "a time after which a read of remote data fails, or 0 to wait", "fetch-timeout=30s", setFetchTimeout,
		func(s *settings) string { return s.fetchTimeout.String() }},
	{"takeover", "released or always", "takeover=always", setTakeover,
		func(s *settings) string {
			if s.takeover {
				return "always"
			}
			return "released"
		}},
	{"mount", "fuse, or direct for the plain BTRFS once everything is here", "mount=direct", setMount,
		func(s *settings) string {
			if s.direct {
				return mountDirect
			}
			return mountFUSE
		}},
}

// parseSettings reads options, in which no key may be. Errors are ErrOption.
func parseSettings(opts map[string]string, interval time.Duration) (settings, error) {
	s := settings{interval: interval, chunkSize: 256 << 10, compression: "default", prefetch: "all"}
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		i := slices.IndexFunc(options, func(o option) bool { return o.name == name })
		if i < 0 {
			return s, fmt.Errorf("%w: %q is not one of %s; example: -o %s", ErrOption, clip(name), optionNames(), options[0].example)
		}
		o, value := &options[i], opts[name]
		err := fmt.Errorf("it is longer than %d bytes", maxValue)
		if len(value) <= maxValue {
			err = o.set(&s, value)
		}
		if err != nil {
			return s, fmt.Errorf("%w: %s=%q: %w; it takes %s; example: -o %s", ErrOption, name, clip(value), err, o.values, o.example)
		}
	}
	return s, nil
}

// effective is what Info shows: every option, defaults included.
func (s *settings) effective() map[string]string {
	out := map[string]string{}
	for _, o := range options {
		if v := o.show(s); v != "" {
			out[o.name] = v
		}
	}
	return out
}

func optionNames() string {
	names := slices.Clone(keyOptions)
	for _, o := range options {
		names = append(names, o.name)
	}
	return strings.Join(names, ", ")
}

// clip makes what a user gave fit for a message. What is a key, given in the wrong place, is not repeated.
func clip(s string) string {
	if _, err := seal.ParsePrivkey(s); err == nil || seal.IsSealedKey(s) {
		return "(a key)"
	}
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

func setInterval(s *settings, v string) error {
	if v == "0" || v == "off" {
		s.interval = 0
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("not a duration")
	}
	if d != 0 && (d < minInterval || d > maxInterval) {
		return fmt.Errorf("out of range")
	}
	s.interval = d
	return nil
}

func setChunkSize(s *settings, v string) error {
	n, err := humanize.ParseBytes(v)
	if err != nil {
		return fmt.Errorf("not a size")
	}
	switch n {
	case 64 << 10, 128 << 10, 256 << 10, 512 << 10:
		s.chunkSize = uint32(n)
		return nil
	}
	return fmt.Errorf("not one of the sizes that it takes")
}

func setCompression(s *settings, v string) error {
	c, err := snapshot.ParseCompression(v)
	if err != nil || v == "" {
		return fmt.Errorf("not a level")
	}
	s.compression = c
	return nil
}

func setPatches(s *settings, v string) error {
	switch v {
	case "on", "off":
		s.noPatches = v == "off"
		return nil
	}
	return fmt.Errorf("neither of them")
}

func setNoCOW(s *settings, v string) error {
	switch v {
	case "true", "false":
		s.noCOW = v == "true"
		return nil
	}
	return fmt.Errorf("not a truth value")
}

func setSize(s *settings, v string) error {
	n, err := humanize.ParseBytes(v)
	if err != nil {
		return fmt.Errorf("not a size")
	}
	if n != 0 && (n < minSize || n > maxSize) {
		return fmt.Errorf("out of range")
	}
	s.size = n
	return nil
}

func setSnapshot(s *settings, v string) (err error) {
	s.view, err = parseSelector(v)
	return err
}

func setPrefetch(s *settings, v string) error {
	switch v {
	case "all", "metadata", "none":
		s.prefetch = lazy.Prefetch(v)
		return nil
	}
	n, err := humanize.ParseBytes(v)
	if err != nil || n > maxSize {
		return fmt.Errorf("not a size")
	}
	s.prefetch = lazy.Prefetch(strconv.FormatUint(n, 10))
	return nil
}

func setFetchTimeout(s *settings, v string) error {
	if v == "0" {
		v = "0s"
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > maxInterval {
		return fmt.Errorf("not a duration")
	}
	s.fetchTimeout = d
	return nil
}

func setTakeover(s *settings, v string) error {
	switch v {
	case "released", "always":
		s.takeover = v == "always"
		return nil
	}
	return fmt.Errorf("not a rule")
}

func setMount(s *settings, v string) error {
	switch v {
	case mountFUSE, mountDirect:
		s.direct = v == mountDirect
		return nil
	}
	return fmt.Errorf("not a way to mount")
}

// selector names one snapshot of a volume: exactly one of local, hash, generation and before is set.
type selector struct {
	text       string
	local      string // uuid of a local snapshot
	hash       *hive.Hash
	generation uint64
	before     time.Time // the newest made at or before this
}

// minUnix tells Unix seconds from generations: no volume reaches the generation of a day in 2001.
const minUnix = 1_000_000_000

var timeForms = []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"}

// parseSelector reads the value of snapshot=. Times without a zone are UTC.
func parseSelector(v string) (*selector, error) {
	sel := &selector{text: v}
	if isUUID(v) {
		sel.local = v
		return sel, nil
	}
	if h, err := hive.ParseHash(v); err == nil {
		sel.hash = &h
		return sel, nil
	}
	if n, err := strconv.ParseUint(v, 10, 63); err == nil {
		switch {
		case n == 0:
			return nil, fmt.Errorf("generations begin at 1")
		case n >= minUnix:
			sel.before = time.Unix(int64(n), 0).UTC()
		default:
			sel.generation = n
		}
		return sel, nil
	}
	for _, form := range timeForms {
		if t, err := time.Parse(form, v); err == nil {
			sel.before = t.UTC()
			return sel, nil
		}
	}
	return nil, fmt.Errorf("neither a generation, a hash nor a time")
}

// pick returns the manifest that is meant, of all, which ascend by generation; nil where there is none.
func (sel *selector) pick(all []*hive.Manifest) *hive.Manifest {
	var found *hive.Manifest
	for _, m := range all {
		switch {
		case sel.local != "":
		case sel.hash != nil:
			if m.Hash() == *sel.hash {
				return m
			}
		case sel.generation != 0:
			if m.Generation == sel.generation {
				return m
			}
		case m.Creation <= uint64(max(sel.before.Unix(), 0)):
			found = m
		}
	}
	return found
}
