package volume

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// full is a record with every field set.
func full() *record {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	id := func(c string) string { return strings.ReplaceAll("xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx", "x", c) }
	base := &baseRecord{Generation: 7, Hash: strings.Repeat("ab", 64), Root: "bafyreietqq7dmwt27kkpers6lywj76hjzh65quxhfmjp6pmar33smhvzx4",
		SizeTotal: 4096, ChunkSize: 256 << 10, Local: id("1"), Created: at, Machine: id("a"), Size: 128}
	next := *base
	next.Generation, next.Local = 8, ""
	return &record{
		Version: 1, Name: "db", Key: "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o=", Made: true, Created: at,
		Options: kv("interval=60s", "size=20GiB"), Known: true, Writer: true, Release: true,
		Seen: &mark{Generation: 8, Hash: strings.Repeat("cd", 64)}, Base: base, SavedGen: 100,
		Snapshots: []snapRecord{{ID: id("1"), Kind: kindBase, Created: at, Gen: 100}, {ID: id("2"), Kind: kindPending, Created: at, Gen: 101},
			{ID: id("3"), Kind: kindOld, Created: at, Gen: 90}, {ID: id("4"), Kind: kindDivergent, Created: at, Gen: 95}},
		Fence:      &fenceRecord{By: id("b"), Since: at, Snapshot: id("4")},
		Swap:       &swapRecord{Keep: id("5"), Kind: kindOld, Base: &next, Totals: &totals{BytesTotal: 5, BytesRemote: 5, FilesTotal: 1, FilesRemote: 1}},
		Replicated: &at, Totals: totals{Complete: true, BytesTotal: 4, BytesRemote: 3, FilesTotal: 2, FilesRemote: 1},
	}
}

// A golden file changes only with the version: old volumes must stay readable.
func TestRecord_GoldenFile(t *testing.T) {
	want := full()
	b, err := want.encode()
	must(t, err)
	path := filepath.Join("testdata", "volume-v1.json")
	if *updateGolden {
		must(t, os.WriteFile(path, b, 0o644))
	}
	golden, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(b, golden) {
		t.Errorf("encodes to\n%s", b)
	}
	got, key, err := decodeRecord(golden)
	must(t, err)
	if !reflect.DeepEqual(got, want) || key.Reveal() != want.Key {
		t.Errorf("decodes to %+v", got)
	}
}

func TestRecord_RefusesWhatItCannotTrust(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "volume-v1.json"))
	must(t, err)
	text := string(golden)
	for what, b := range map[string]string{
		"empty": "", "null": "null", "cut": text[:len(text)/2], "trailing": text + "{}",
		"version":             strings.Replace(text, `"version": 1`, `"version": 9`, 1),
		"other version":       strings.Replace(text, `"version": 1`, `"version": 2`, 1),
		"unknown field":       strings.Replace(text, `"known"`, `"unknown"`, 1),
		"name":                strings.Replace(text, `"name": "db"`, `"name": "../db"`, 1),
		"key":                 strings.Replace(text, `"key": "CHmZ`, `"key": "CHm`, 1),
		"option":              strings.Replace(text, "60s", "1ms", 1),
		"path in an id":       strings.Replace(text, `"id": "22222222-2222-4222-8222-222222222222"`, `"id": "../../../../etc"`, 1),
		"kind":                strings.Replace(text, `"kind": "pending"`, `"kind": "other"`, 1),
		"base":                strings.Replace(text, "bafyrei", "bafyrej!", 1),
		"local":               strings.Replace(text, `"local": "11111111`, `"local": "/1111111`, 1),
		"a root at no remote": strings.Replace(text, `"saved_gen": 100,`, `"saved_gen": 100, "remote_unpin": [{"remote": "", "root": "bafyreietqq7dmwt27kkpers6lywj76hjzh65quxhfmjp6pmar33smhvzx4"}],`, 1),
		"no root at a remote": strings.Replace(text, `"saved_gen": 100,`, `"saved_gen": 100, "remote_unpin": [{"remote": "nas", "root": "x"}],`, 1),
		"long":                text + strings.Repeat(" ", maxRecord),
	} {
		_, _, err := decodeRecord([]byte(b))
		if !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", what, err)
		} else if strings.Contains(err.Error(), "CHmZ") {
			t.Errorf("%s: the key is in the error", what)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "volume-v1.json"))
	must(f, err)
	f.Add(golden)
	f.Add([]byte(`{"version":1}`))
	sealed, err := os.ReadFile(filepath.Join("testdata", "volume-v2.json"))
	must(f, err)
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, key, err := decodeRecord(b)
		if err != nil {
			return
		}
		if key.IsZero() != (r.SealedKey != "") || checkName(r.Name) != nil {
			t.Fatalf("%+v", r)
		}
		again, err := r.encode()
		must(t, err)
		if _, _, err := decodeRecord(again); err != nil {
			t.Fatalf("does not read what it wrote: %v", err)
		}
	})
}

func TestOpen_LeavesDamagedVolumesAlone(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("good")
	a.create("bad")
	file := a.vols["bad"].recordFile()
	a.vanish()
	must(t, os.WriteFile(file, []byte("{"), 0o600))
	a = w.machine("a")
	if l := a.List(); len(l) != 1 || l[0].Name != "good" {
		t.Fatalf("%+v", l)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "{" {
		t.Fatalf("%q %v", b, err)
	}
	if !strings.Contains(*a.log.text.Load(), "damaged volume.json") {
		t.Fatal("nothing in the log")
	}
}
