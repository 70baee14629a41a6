package schedule

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
)

func golden(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/schedule-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDecode_Golden: a released file stays readable for ever.
func TestDecode_Golden(t *testing.T) {
	table, err := Decode(golden(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Jobs) != 3 || !table.Paused || table.Jobs[1].Arg() != "4h:1d:2w:2y" || table.Jobs[1].Verb() != "purge" ||
		table.Jobs[2].Failed != 2 || table.Jobs[0].Ran.IsZero() {
		t.Errorf("%+v", table)
	}
	b, err := table.Encode()
	if err != nil || !bytes.Equal(b, golden(t)) {
		t.Errorf("%v; written again it is\n%s", err, b)
	}
}

func TestDecode_RefusesWhatItDidNotWrite(t *testing.T) {
	g := string(golden(t))
	for name, s := range map[string]string{
		"empty":            "",
		"another version":  strings.Replace(g, `"version": 1`, `"version": 2`, 1),
		"an unknown field": strings.Replace(g, `"paused": true,`, `"paused": true, "new": 1,`, 1),
		"bytes behind":     g + "{}",
		"out of order":     strings.Replace(g, `"volume": "db"`, `"volume": "zz"`, 1),
		"a path":           strings.Replace(g, `"volume": "db"`, `"volume": "../db"`, 1),
		"no timer":         strings.Replace(g, `"timer": "60"`, `"timer": "often"`, 1),
		"too long":         strings.Repeat(" ", MaxTable+1),
	} {
		if _, err := Decode([]byte(s)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(golden(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := Decode(b)
		if err != nil {
			return
		}
		b, err = table.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}
