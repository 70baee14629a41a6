package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// three makes a volume of three generations, f holding their number, and unmounts it. sub has something that never changes.
func three(t *testing.T, x *machine) {
	t.Helper()
	x.create("db")
	dir := x.mount("db", "1")
	shell(t, `mkdir "$1/sub"; seq 1 100000 > "$1/sub/same"`, dir)
	for _, text := range []string{"1", "2", "3"} {
		write(t, filepath.Join(dir, "f"), text)
		x.flush("db")
	}
	x.unmount("db", "1")
	x.released("db")
}

func (x *machine) restore(name, text string) RestoreResult {
	x.t.Helper()
	r, err := x.Restore(ctx(x.t), name, text)
	must(x.t, err)
	return r
}

func TestRestore_OldGenerationIsPublishedAsANewOneByReference(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	before, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	r := a.restore("db", "1")
	if r.From.Generation != 1 || r.Kept.Generation != 3 {
		t.Fatalf("%+v", r)
	}
	a.released("db")
	all, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	last := all[len(all)-1]
	if last.Generation != 4 || last.Root != before[0].Root || last.Size > 4096 {
		t.Fatalf("%+v", last)
	}
	// Another machine gets the old content; so does this one.
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	for _, x := range []*machine{b, a} {
		dir := x.mount("db", "1")
		wantFile(t, filepath.Join(dir, "f"), "1")
		shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
		x.unmount("db", "1")
		x.released("db")
	}
	// And back, by the hash's beginning.
	a.restore("db", before[2].Hash[:20])
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "3")
}

func TestRestore_KeepsTheStateThatWasNeverPublished(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	w.down.Store(true)
	// The Hive is gone, and this machine is not the writer any more: it must not guess.
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, ErrNotReady) {
		t.Fatalf("%v", err)
	}
	w.down.Store(false)
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "unpublished")
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	w.down.Store(true)
	a.unmount("db", "1")
	w.down.Store(false)
	r := a.restore("db", "2")
	if r.Kept.Local == "" || r.Kept.ID == "" {
		t.Fatalf("%+v", r.Kept)
	}
	a.released("db")
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "2")
	a.unmount("db", "1")
	a.released("db")
	all, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	if n := all[len(all)-1].Generation; n != 5 {
		t.Fatalf("generation %d: the kept state was not published", n)
	}
	// It was published under the id that was printed, and comes back by it.
	a.restore("db", r.Kept.ID)
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "unpublished")
}

func TestRestore_FromALocalSnapshotNeedsNoBlockStore(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	all, err := a.LocalSnapshots("db")
	must(t, err)
	if len(all) != 1 || all[0].Where != WhereBoth || all[0].Generation != 3 {
		t.Fatalf("%+v", all)
	}
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "later")
	a.unmount("db", "1")
	a.restore("db", all[0].Local[:8])
	a.released("db")
	dir = a.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "3")
	shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
	if i := a.info("db"); i.BytesRemote != 0 {
		t.Fatalf("%+v", i)
	}
}

func TestRestore_OfAHalfFetchedVolumeAndOfItsRestoredState(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "prefetch=none")
	dir := b.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "3")
	write(t, filepath.Join(dir, "g"), "of b")
	b.unmount("db", "1")
	b.restore("db", "1")
	b.released("db")
	b.restore("db", "4") // what b had before
	b.released("db")
	dir = b.mount("db", "1")
	wantFile(t, filepath.Join(dir, "g"), "of b")
	wantFile(t, filepath.Join(dir, "f"), "3")
	b.unmount("db", "1")
	b.restore("db", "2")
	b.restore("db", "1") // at once, before the other was published
	b.released("db")
	dir = a.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "1")
	shell(t, `seq 1 100000 | cmp - "$1/sub/same"; ! test -e "$1/g"`, dir)
}

func TestRestore_UnknownSnapshotsAndTimesChangeNothing(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	before := a.info("db")
	for _, text := range []string{"", "4", "99", "1999-01-01", "nonsense", "zzzz", "2000-01-01 00:00", "ffffffffffff", string(make([]byte, 5000))} {
		if _, err := a.Restore(ctx(t), "db", text); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if i := a.info("db"); i.Generation != before.Generation || i.State != before.State {
		t.Fatalf("%+v", i)
	}
	// A block store without the root: nothing is lost, and the volume mounts as before.
	all, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	root, err := cid.Decode(all[0].Root)
	must(t, err)
	w.store.Remove(root)
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("%v", err)
	}
	a.released("db")
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "3")
}

// What restoreData leaves at each of its steps is finished, or undone, at the next Open.
func TestOpen_FinishesARestoreThatWasInterrupted(t *testing.T) {
	for _, stop := range []string{"before the record", "before the trash", "between the renames", "before the last record"} {
		t.Run(stop, func(t *testing.T) {
			w := newWorld(t)
			a := w.machine("a")
			three(t, a)
			v, err := a.lookup("db")
			must(t, err)
			i, err := a.resolve(ctx(t), v, "1")
			must(t, err)
			swap, err := a.makeNext(ctx(t), v, v, i)
			must(t, err)
			if stop != "before the record" {
				must(t, v.update(func(r *record) { r.Swap = swap }))
			}
			switch stop {
			case "between the renames":
				must(t, a.toTrash(v.data()))
			case "before the last record":
				must(t, a.toTrash(v.data()))
				must(t, os.Rename(v.next(), v.data()))
			}
			must(t, backing.SyncFS(v.dir))
			a.vanish()
			a = w.machine("a")
			want := "1"
			if stop == "before the record" {
				want = "3"
			}
			wantFile(t, filepath.Join(a.mount("db", "1"), "f"), want)
			a.unmount("db", "1")
			a.released("db")
			if a.vols["db"].has(a.vols["db"].next()) {
				t.Fatal("data.new stays")
			}
			b := w.machine("b")
			b.create("db", "privkey="+a.key("db"))
			wantFile(t, filepath.Join(b.mount("db", "1"), "f"), want)
		})
	}
}

func TestRestore_WithoutTheHiveToWhatIsHere(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "later")
	w.down.Store(true)
	a.unmount("db", "1")
	all, err := a.LocalSnapshots("db")
	must(t, err)
	r := a.restore("db", all[0].ID) // generation 3, published last
	if r.Kept.Local == "" {
		t.Fatalf("%+v", r)
	}
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, ErrNotReady) {
		t.Fatalf("what is remote: %v", err)
	}
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "3")
	a.unmount("db", "1")
	w.down.Store(false)
	a.flush("db")
	a.released("db")
	// The state that was kept became generation 4, the restored one 5.
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	wantFile(t, filepath.Join(b.mount("db", "1"), "f"), "3")
	b.create("before", "privkey="+a.key("db"), "snapshot=4")
	wantFile(t, filepath.Join(b.mount("before", "1"), "f"), "later")
}

func TestRestore_OfChangesThatWereNeverPublished(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	write(t, filepath.Join(a.mount("db", "1"), "f"), "divergent")
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	write(t, filepath.Join(b.mount("db", "1"), "f"), "of b")
	b.flush("db")
	a.unmount("db", "1")
	b.unmount("db", "1")
	b.released("db")
	if _, err := a.Flush(ctx(t), "db", nil); err == nil && a.info("db").State != StateFenced {
		t.Fatal("not fenced")
	}
	a.eventually("fenced", func() bool { return a.info("db").Fenced })
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, ErrFenced) {
		t.Fatalf("%v", err)
	}
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "of b")
	a.unmount("db", "1")
	a.released("db")
	all, err := a.LocalSnapshots("db")
	must(t, err)
	id := ""
	for _, i := range all {
		if i.Note == kindDivergent {
			id = i.ID
		}
	}
	if _, err := a.Purge(ctx(t), "db", "0h", PurgeOptions{Local: true}); err != nil {
		t.Fatal(err)
	}
	a.restore("db", id)
	a.released("db")
	b.create("again", "privkey="+a.key("db"), "snapshot=5")
	wantFile(t, filepath.Join(b.mount("again", "1"), "f"), "divergent")
	if _, err := a.RemoveSnapshot(ctx(t), "db", id, false); !errors.Is(err, ErrNotSaved) {
		t.Fatalf("%v", err)
	}
	_, err = a.RemoveSnapshot(ctx(t), "db", id, true)
	must(t, err)
	if n := len(a.info("db").Divergent); n != 0 {
		t.Fatalf("%d are left", n)
	}
}
