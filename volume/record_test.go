package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"fractal-lazy/hive"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
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

// largest is the record that takes most room: each list is full, each field as long as it may be.
func largest(t *testing.T) *record {
	t.Helper()
	r := full()
	most, at := uint64(math.MaxUint64), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.FixedZone("", -(23*60+59)*60))
	// A CID of an unusual hash, as long as may be.
	digest, err := multihash.Encode(bytes.Repeat([]byte{0xff}, 72), 0xb240)
	must(t, err)
	root := cid.NewCidV1(0x3fff, digest).String()
	if len(root) > maxRoot || len(root) < maxRoot-4 {
		t.Fatalf("a CID of %d bytes is not the longest", len(root))
	}
	r.Name = strings.Repeat("n", maxName)
	r.SealedKey, r.Key, r.Version = sealedText(t, testKey, testPassphrase), "", sealedVersion
	r.Options = map[string]string{}
	for _, o := range options {
		_, value, _ := strings.Cut(o.example, "=")
		r.Options[o.name] = value + strings.Repeat(" ", 6*(maxValue-len(value))) // what JSON escapes takes six bytes; here it is only the length that counts
	}
	base := *r.Base
	base.Generation, base.SizeTotal, base.ChunkSize, base.Size, base.Root, base.Created = most, most, math.MaxUint32, most, root, at
	from := &originRecord{Root: root, Local: base.Local}
	r.Seen.Generation, r.SavedGen, r.Base, r.From, r.Source = most, most, &base, from, strings.Repeat("ab", 32)
	r.Snapshots, r.Unpin = nil, nil
	for range maxSnapshots {
		r.Snapshots = append(r.Snapshots, snapRecord{ID: base.Local, Kind: kindDivergent, Created: at, Gen: most, From: from, Published: &base})
		r.Unpin = append(r.Unpin, root)
	}
	for range maxRemoteUnpin {
		r.RemoteUnpin = append(r.RemoteUnpin, rootAt{strings.Repeat("<", maxRemoteName), root})
	}
	all := totals{BytesTotal: most, BytesRemote: most, FilesTotal: most, FilesRemote: most}
	r.Swap = &swapRecord{Keep: base.Local, Kind: kindDivergent, Base: &base, Totals: &all, From: from}
	r.Follow, r.Fence, r.Replicated, r.Created, r.Totals = &followRecord{Synced: &at}, &fenceRecord{By: base.Local, Since: at, Snapshot: base.Local}, &at, at, all
	r.Imported = &importRecord{UUID: base.Local, Transid: most}
	return r
}

// A record that could become too long could not be written any more, just where there is most to lose. Each field of it is full.
func TestRecord_LargestThereCanBeIsWritten(t *testing.T) {
	r := largest(t)
	for v, path := reflect.ValueOf(*r), 0; path < v.NumField(); path++ {
		if f := v.Type().Field(path); v.Field(path).IsZero() && f.Name != "Key" {
			t.Errorf("%s is not in the reckoning", f.Name)
		}
	}
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	if over := len(b) - maxRecord*3/4; over > 0 {
		t.Errorf("the largest record has %d bytes, %d more than three quarters of the bound", len(b), over)
	}
	r.Options = full().Options // those of above are as long as they may be, and mean nothing
	b, err = r.encode()
	must(t, err)
	if got, _, err := decodeRecord(b); err != nil || len(got.Snapshots) != maxSnapshots {
		t.Errorf("it cannot be read: %v", err)
	}
	t.Logf("%d bytes", len(b))
}

// What could not be read again is not written: the volume would be left out.
func TestRecord_WhatCannotBeReadIsNotWritten(t *testing.T) {
	for what, change := range map[string]func(r *record){
		"one snapshot too many": func(r *record) { r.Snapshots = largest(t).Snapshots; r.Snapshots = append(r.Snapshots, r.Snapshots[0]) },
		"one unpin too many":    func(r *record) { r.Unpin = largest(t).Unpin; r.Unpin = append(r.Unpin, r.Unpin[0]) },
		"a long CID": func(r *record) {
			d, err := multihash.Encode(make([]byte, 100), 0xb240)
			must(t, err)
			r.Base.Root = cid.NewCidV1(cid.Raw, d).String()
		},
	} {
		r := full()
		change(r)
		if _, err := r.encode(); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A volume with as many local snapshots as there may be takes no further one, neither of its own nor of what a newer generation replaces, and says what to do.
func TestMount_NewerGenerationBesideTheMostSnapshots(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "first")
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	write(t, filepath.Join(b.mount("db", "1"), "f"), "second")
	b.flush("db")
	b.unmount("db", "1")
	b.released("db")

	v, err := a.lookup("db")
	must(t, err)
	var added []string
	must(t, v.update(func(r *record) {
		for len(r.Snapshots) < maxSnapshots {
			s := snapRecord{ID: newSnapshotID(), Kind: kindDivergent, Created: time.Now()}
			added, r.Snapshots = append(added, s.ID), append(r.Snapshots, s)
		}
	}))
	_, err = a.Mount(ctx(t), "db", "1")
	if err == nil || !strings.Contains(err.Error(), "4096 local snapshots are kept already") || !strings.Contains(err.Error(), "purge --local db") {
		t.Fatalf("%v", err)
	}
	must(t, v.update(func(r *record) { r.drop(added[0]) }))
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "second")
	if file, err := os.ReadFile(v.recordFile()); err != nil {
		t.Error(err)
	} else if _, _, err := decodeRecord(file); err != nil {
		t.Errorf("the volume would be left out: %v", err)
	}
	a.unmount("db", "1")
}

// A manifest from a time that JSON cannot say is one of a clock that went wrong, and no reason not to mount.
func TestBaseOf_TimeOfAClockThatWentWrong(t *testing.T) {
	m := &hive.Manifest{Generation: 1, Creation: math.MaxUint64, Data: "ipfs://" + full().Base.Root}
	b, err := baseOf(m, 0)
	must(t, err)
	r := full()
	r.Base = b
	if _, err := r.encode(); err != nil {
		t.Errorf("the record cannot be written: %v", err)
	}
	if _, err := json.Marshal(mergeSnapshots([]*hive.Manifest{m}, full())); err != nil {
		t.Errorf("the snapshots cannot be listed: %v", err)
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
