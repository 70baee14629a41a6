package volume

import (
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
)

// twoGenerations leaves A with generation 1, at rest, and the Hive with generation 2, by B.
func twoGenerations(t *testing.T, w *world) (a *machine) {
	t.Helper()
	a = w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.unmount("db", "1")
	a.released("db")
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	write(t, filepath.Join(b.mount("db", "1"), "f"), "two")
	b.unmount("db", "1")
	b.released("db")
	b.vanish()
	return a
}

// What replaceData leaves at each of its steps is finished, or undone, at the next Open.
func TestOpen_FinishesAReplacementThatWasInterrupted(t *testing.T) {
	for _, stop := range []string{"before the record", "before the renames", "between the renames", "before the last record"} {
		t.Run(stop, func(t *testing.T) {
			w := newWorld(t)
			a := twoGenerations(t, w)
			v, err := a.lookup("db")
			must(t, err)
			latest, err := w.hive.Latest(ctx(t), v.pub)
			must(t, err)
			old := v.record()
			must(t, a.replaceData(ctx(t), v, latest, kindOld))
			// Set the clock back to the step.
			kept := v.record().Snapshots[0].ID
			swap := &swapRecord{Keep: kept, Kind: kindOld, Base: v.record().Base}
			rewind := func(toNext, toData bool) {
				must(t, os.Rename(v.data(), v.next()))
				if toData {
					must(t, backing.SetReadonly(v.snap(kept), false))
					must(t, os.Rename(v.snap(kept), v.data()))
				}
			}
			switch stop {
			case "before the record":
				rewind(true, true)
				swap = nil
			case "before the renames":
				rewind(true, true)
			case "between the renames":
				rewind(true, false)
			}
			must(t, v.update(func(r *record) {
				*r = *old
				r.Snapshots = nil
				if old.Base != nil {
					b := *old.Base
					b.Local = ""
					r.Base = &b
				}
				r.Swap = swap
			}))
			a.vanish()
			a = w.machine("a")
			want := uint64(2)
			if swap == nil {
				want = 1
			}
			if i := a.info("db"); i.Generation != want {
				t.Fatalf("%+v", i)
			}
			if a.vols["db"].has(a.vols["db"].next()) {
				t.Fatal("data.new stays")
			}
			wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "two")
		})
	}
}

func TestOpen_ThrowsAwayWhatNoRecordNames(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.unmount("db", "1")
	a.released("db")
	v, err := a.lookup("db")
	must(t, err)
	orphan := v.snap(newSnapshotID())
	must(t, backing.Snapshot(v.data(), orphan, true))
	base := v.record().Base.Local
	must(t, backing.DeleteSubvolume(v.snap(base)))
	must(t, writeFile(v.idsFile(), []byte(`{"version":1,"boot":"another","ids":["x"]}`)))
	a.vanish()
	a = w.machine("a")
	a.info("db")
	if _, err := os.Lstat(orphan); !os.IsNotExist(err) {
		t.Fatalf("%v", err)
	}
	r := a.vols["db"].record()
	if len(r.Snapshots) != 0 || r.Base.Local != "" || len(a.info("db").Mounts) != 0 {
		t.Fatalf("%+v", r)
	}
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "g"), "two")
	if s := a.flush("db"); s.Generation != 2 {
		t.Fatalf("%+v", s)
	}
}

// A process that is killed leaves its FUSE mount dead; here its connection is
// left by a Manager that is gone without unmounting.
func TestOpen_PublishesWhatAKilledDaemonLeft(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "not published")
	a.vanish()
	a = w.machine("a")
	a.released("db")
	if i := a.info("db"); i.Generation != 2 || i.State != StateUnmounted {
		t.Fatalf("%+v", i)
	}
	if got := a.writer("db"); got != nil {
		t.Fatalf("writer %v", got)
	}
}

// An upload that the Hive took, and of which nobody here knows, goes on as if nothing had been.
func TestMount_MeetsItsOwnUploadThatWasNotRecorded(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "two")
	v, err := a.lookup("db")
	must(t, err)
	before := v.record()
	a.flush("db")
	after := v.record()
	pending := after.Snapshots[len(after.Snapshots)-1]
	pending.Kind = kindPending
	must(t, v.update(func(r *record) {
		*r = *before
		b := *before.Base
		b.Local = ""
		r.Base = &b
		r.Snapshots = []snapRecord{pending}
	}))
	w.down.Store(true)
	a.vanish()
	w.down.Store(false)
	a = w.machine("a")
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "two")
	a.eventually("recorded", func() bool { i := a.info("db"); return i.Generation == 2 && i.Unpublished == 0 && !i.Fenced })
	if l, err := w.hive.All(ctx(t), v.pub); err != nil || len(l) != 2 {
		t.Fatalf("%d manifests, %v", len(l), err)
	}
}
