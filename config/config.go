package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"time"

	"github.com/rs/zerolog"
)

// Defaults.
const (
	DefaultRoot     = "/var/lib/fractal"
	DefaultSocket   = "/run/docker/plugins/fractal-lazy.sock"
	DefaultInterval = 60 * time.Second
	DefaultHold     = 60 * time.Second
)

// Config is what the driver runs with. Load makes one; the zero Config is not valid.
type Config struct {
	Root   string // absolute
	Socket string // absolute, short enough for a unix socket
	Mounts string // absolute, or empty: ROOT/mnt
	// MountsShared: Mounts has to be on a shared mount, since containers are in another mount name space than the driver.
	MountsShared bool
	Hive         string // http or https URL without a slash at the end; empty: none
	IPFS         string // the same
	Gateway      string // the same; empty: IPFS
	Token        Token
	Metrics      string // host:port; empty: none
	// MetricsOpen: Metrics may be an address that other machines reach.
	MetricsOpen bool
	Interval    time.Duration // at least MinInterval; negative: none
	// PassphraseFile has the passphrase that seals the keys on the disk: absolute, or empty. Load does not read it.
	PassphraseFile string
	SealKeys       bool          // false: the passphrase opens what is sealed, and nothing is sealed any more
	Upload         uint64        // bytes a second of all uploads; 0: no limit
	Download       uint64        // bytes a second of all background fetching; 0: no limit
	Hold           time.Duration // at least MinInterval
	LogLevel       zerolog.Level
	LogFormat      string // auto, json, text

	// File is the file that was read; empty where there was none.
	File string
	// Warnings are said once at start: they keep nothing from working.
	Warnings []string

	source map[string]string // setting -> where its value came from
}

// Token is a bearer token. Nothing but Reveal shows it: neither String nor a log nor JSON.
type Token struct{ reveal string }

// Reveal returns the token itself, for the header of a request only.
func (t Token) Reveal() string { return t.reveal }

// IsZero tells whether there is none.
func (t Token) IsZero() bool { return t.reveal == "" }

// String says whether there is a token.
func (t Token) String() string {
	if t.IsZero() {
		return ""
	}
	return "(set)"
}

// Format is String for every verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// MarshalText is String.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Validate returns Faults for what no single setting can tell.
func (c Config) Validate() error {
	var faults Faults
	fault := func(name, why string) {
		faults = append(faults, Fault{Setting: name, Source: c.Source(name), Err: errors.New(why)})
	}
	if c.Hive != "" && c.Token.IsZero() {
		fault("token", "is missing: a Hive asks for one")
	}
	if c.Gateway != "" && c.IPFS == "" {
		fault("ipfs", "is missing: a gateway can only be read from")
	}
	if c.Mounts == c.Root && c.Root != "" {
		fault("mounts", "is the state folder itself: mount points would stand among its files")
	}
	if within(c.Mounts, filepath.Join(c.Root, "volumes")) {
		fault("mounts", "lies where the volumes are kept")
	}
	if len(faults) == 0 {
		return nil
	}
	return faults
}

func within(path, dir string) bool {
	if path == "" {
		return false
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !filepath.IsAbs(rel) && (len(rel) < 3 || rel[:3] != "../")
}

// Source says where a setting's value came from: "flag --hive", "environment FRACTAL_HIVE", "file /var/lib/fractal/config.json", or "default".
func (c Config) Source(name string) string {
	if s := c.source[name]; s != "" {
		return s
	}
	return "default"
}

// Shown is one setting as `status` shows it.
type Shown struct {
	Name   string `json:"name"`
	Value  string `json:"value"` // "(set)" for a secret
	Source string `json:"source"`
}

// Show lists the settings in force, sorted by name, with secrets hidden.
func (c Config) Show() []Shown {
	var all []Shown
	for _, s := range Settings() {
		v := s.get(&c)
		if s.Secret && v != "" {
			v = "(set)"
		}
		all = append(all, Shown{Name: s.Name, Value: v, Source: c.Source(s.Name)})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// MountsDir is the folder of the mount points.
func (c Config) MountsDir() string {
	if c.Mounts != "" {
		return c.Mounts
	}
	return filepath.Join(c.Root, "mnt")
}
