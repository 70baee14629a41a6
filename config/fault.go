package config

import (
	"fmt"
	"strings"
)

// Fault is one wrong setting.
type Fault struct {
	Setting string
	Source  string
	Err     error // never shows a secret's value
}

// Error names the setting, its source, and an example.
func (f Fault) Error() string {
	example := ""
	for _, s := range Settings() {
		if s.Name == f.Setting {
			example = fmt.Sprintf(" (for example --%s %s, or %s=%s)", s.Name, s.Example, s.Env, s.Example)
		}
	}
	from := ""
	if f.Source != "" && f.Source != "default" {
		from = ", from " + f.Source + ","
	}
	return fmt.Sprintf("setting %s%s %v%s", f.Setting, from, f.Err, example)
}

func (f Fault) Unwrap() error { return f.Err }

// FromFlag tells whether the value was typed on the command line: then the program should stop and say so.
func (f Fault) FromFlag() bool { return strings.HasPrefix(f.Source, "flag ") }

// Faults are all that is wrong, in the order of Settings.
type Faults []Fault

func (fs Faults) Error() string {
	parts := make([]string, len(fs))
	for i, f := range fs {
		parts[i] = f.Error()
	}
	return strings.Join(parts, "; ")
}

// FromFlag tells whether any of them was typed on the command line.
func (fs Faults) FromFlag() bool {
	for _, f := range fs {
		if f.FromFlag() {
			return true
		}
	}
	return false
}
