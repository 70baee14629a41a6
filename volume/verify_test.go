package volume

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/store"
)

// What verify finds missing, the next snapshot sends again, although nothing of it changed since the one before.
func TestVerify_WhatIsMissingIsMendedByTheNextSnapshot(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a")
	x.create("v", "compression=none")
	path := x.mount("v", "id")
	shell(t, `head -c 300000 /dev/zero | tr '\0' x > "$1"; mkdir "$2"; echo small > "$2/small"`, filepath.Join(path, "large"), filepath.Join(path, "dir"))
	x.flush("v")
	verify := func() Verification {
		t.Helper()
		v, err := x.Verify(ctx(t), "v", VerifyOptions{}, nil)
		must(t, err)
		return v
	}
	if v := verify(); !v.OK || !v.Pinned || v.Files != 2 {
		t.Fatalf("%+v", v)
	}
	removed := 0
	for _, c := range w.store.CIDs() {
		if c.Prefix().Codec == store.Raw {
			w.store.Remove(c)
			removed++
		}
	}
	v := verify()
	paths := ""
	for _, d := range v.Damage {
		paths += d.Kind + " " + d.Path + ";"
	}
	if v.OK || removed == 0 || !strings.Contains(paths, "missing /large;") || !strings.Contains(paths, "missing /dir/small;") || len(v.Damage) != 2 {
		t.Fatalf("%d blocks removed: %s", removed, paths)
	}
	write(t, filepath.Join(path, "dir", "other"), "something new")
	x.flush("v")
	if v := verify(); !v.OK || v.Files != 3 || v.Snapshot.Generation != 2 {
		t.Errorf("after the next snapshot: %+v", v)
	}
}

func TestVerify_SaysWhatIsNotPinnedAndNotThere(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a")
	x.create("v")
	if _, err := x.Verify(ctx(t), "v", VerifyOptions{}, nil); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("nothing published: %v", err)
	}
	write(t, filepath.Join(x.mount("v", "id"), "f"), "x")
	s := x.flush("v")
	for _, c := range w.store.CIDs() {
		must(t, w.store.Unpin(ctx(t), c))
	}
	if v, err := x.Verify(ctx(t), "v", VerifyOptions{Sample: 0.5}, nil); err != nil || v.OK || v.Pinned || len(v.Damage) != 0 {
		t.Errorf("not pinned: %+v, %v", v, err)
	}
	for o, want := range map[VerifyOptions]error{
		{Snapshot: "2"}: ErrNoSnapshot, {Snapshot: "soon"}: ErrOption, {Sample: -1}: ErrOption, {Sample: 1.5}: ErrOption, {Snapshot: s.Hash}: nil,
	} {
		if _, err := x.Verify(ctx(t), "v", o, nil); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	// Without the Hive the newest that is known here is read; another one cannot be found.
	w.down.Store(true)
	if v, err := x.Verify(ctx(t), "v", VerifyOptions{}, nil); err != nil || v.Snapshot.Generation != 1 {
		t.Errorf("without the Hive: %+v, %v", v, err)
	}
	if _, err := x.Verify(ctx(t), "v", VerifyOptions{Snapshot: "1"}, nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("without the Hive, generation 1: %v", err)
	}
	w.down.Store(false)
}
