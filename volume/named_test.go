package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"golang.org/x/sys/unix"
)

// What is removed was named: a time is the second of one snapshot, and does not mean the last one before it, as it does where something is only looked at.
func TestRemoveSnapshot_ATimeIsThatOfTheSnapshot(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 3) // at 00:00, 01:00 and 02:00
	for _, text := range []string{"2026-01-01 01:30", "2026-01-01T01:00:01Z", "2027-01-01 00:00"} {
		if _, err := a.RemoveSnapshot(ctx(t), "db", text, true); !errors.Is(err, ErrNoSnapshot) || !strings.Contains(err.Error(), "none was made in that second") ||
			!strings.Contains(err.Error(), "fractal-lazy rm db ") {
			t.Errorf("%s: %v", text, err)
		}
	}
	i, err := a.RemoveSnapshot(ctx(t), "db", "2026-01-01 01:00", false)
	must(t, err)
	if got := a.generations("db"); i.Generation != 2 || len(got) != 2 {
		t.Errorf("%+v, %v are left", i, got)
	}
}

// Without the Hive nobody knows what a time means: the snapshots that are here may be older than what is meant.
func TestFind_ATimeWithoutTheHiveMeansNothing(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 3)
	all, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	w.down.Store(true)
	for what, err := range map[string]error{
		"rm":      func() error { _, err := a.RemoveSnapshot(ctx(t), "db", "2026-01-01 02:00", true); return err }(),
		"restore": func() error { _, err := a.Restore(ctx(t), "db", "2026-01-01 02:30"); return err }(),
	} {
		if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "by its id") {
			t.Errorf("%s: %v", what, err)
		}
	}
	v, err := a.lookup("db")
	must(t, err)
	if i, err := a.resolve(ctx(t), v, v.record().Base.Local); err != nil || i.Hash != all[2].Hash {
		t.Errorf("the one that is here, by its id: %+v, %v", i, err)
	}
}

// What is on its way to the Hive when a volume is replicated that is not mounted is published first, and brought along.
func TestReplicate_BringsWhatWaitsOfAnUnmountedVolume(t *testing.T) {
	w, far := newWorld(t), newWorld(t)
	a := w.machine("a", w.withRemote(remoteOf(far, far.store)))
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "two")
	w.down.Store(true)
	a.unmount("db", "1")
	v, err := a.lookup("db")
	must(t, err)
	a.eventually("the upload failed a few times", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.retry.tries >= 3
	})
	w.down.Store(false)
	r, err := a.Replicate(ctx(t), "db", "", "nas", nil)
	must(t, err)
	if r.Generation != 2 {
		t.Fatalf("%+v", r)
	}
}

// Who removes a volume is told where something of it would stay pinned for ever, and may say that it does not matter.
func TestRemove_WhatCannotBeUnpinnedNow(t *testing.T) {
	w := newWorld(t)
	st := faulty.New(w.store)
	a := w.machine("a", func(_ *Options, d *Deps) { d.Store = st })
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	v, err := a.lookup("db")
	must(t, err)
	root := w.pinned("a root")
	refuse := st.Inject(faulty.Rule{Op: faulty.Unpin, Fault: faulty.Fail(store.ErrUnavailable)})
	must(t, v.update(func(r *record) { r.unpinLater(here(root.String())) }))
	v.mutate(func() { v.unpinAt = time.Now().Add(time.Hour) }) // not by the worker
	if err := a.Remove(ctx(t), "db", false); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "would stay pinned") {
		t.Fatalf("%v", err)
	}
	if i := a.info("db"); i.Generation != 1 || len(v.record().Unpin) != 1 {
		t.Fatalf("%+v", i)
	}
	refuse.Lift()
	must(t, a.Remove(ctx(t), "db", false))
	if is, err := w.store.Pinned(ctx(t), root); is || err != nil {
		t.Errorf("it is still pinned: %v", err)
	}
	refuse = st.Inject(faulty.Rule{Op: faulty.Unpin, Fault: faulty.Fail(store.ErrUnavailable)})
	a.create("other")
	v, err = a.lookup("other")
	must(t, err)
	must(t, v.update(func(r *record) { r.unpinLater(here(root.String())) }))
	must(t, a.Remove(ctx(t), "other", true))
}

// An error of a restore says what the volume holds.
func TestRestore_ErrorSaysWhatTheVolumeHolds(t *testing.T) {
	w := newWorld(t)
	st := faulty.New(w.store)
	a := aged(t, w, 3, func(_ *Options, d *Deps) { d.Store = st })
	// Nothing can be thrown away: the restore stops when all is ready for it.
	seal := func(on bool) {
		f, err := os.Open(a.trash())
		must(t, err)
		defer f.Close()
		flags := uint32(0)
		if on {
			flags = unix.STATX_ATTR_IMMUTABLE
		}
		must(t, backing.SetFlags(int(f.Fd()), flags))
	}
	seal(true)
	t.Cleanup(func() { seal(false) })
	_, err := a.Restore(ctx(t), "db", "1")
	if err == nil || !strings.Contains(err.Error(), "it is begun, and the next mount") {
		t.Errorf("%v", err)
	}
	seal(false)
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "1")
	a.unmount("db", "1")
	a.released("db")

	refuse := st.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrUnavailable)})
	if _, err := a.Restore(ctx(t), "db", "2"); err == nil || !strings.Contains(err.Error(), "the volume is as it was") {
		t.Errorf("%v", err)
	}
	refuse.Lift()
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "1")
	a.unmount("db", "1")
	a.released("db")
}
