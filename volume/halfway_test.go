package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/store/faulty"
)

// unwritable keeps the file at path from being written, as a full disk does, until the returned function is called: what is written first has a folder's name.
func unwritable(t *testing.T, path string) (lift func()) {
	t.Helper()
	must(t, os.Mkdir(path+".tmp", 0o700))
	return func() { must(t, os.Remove(path+".tmp")) }
}

func (x *machine) vol(name string) *vol {
	x.t.Helper()
	v, err := x.lookup(name)
	must(x.t, err)
	return v
}

// Docker takes a Mount that failed for none, and never ends it: it must not count.
func TestMount_ThatCannotWriteItsIDCountsNoUser(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	lift := unwritable(t, a.vol("db").idsFile())
	if path, err := a.Mount(ctx(t), "db", "1"); err == nil || path != "" {
		t.Fatalf("%q, %v", path, err)
	}
	lift()
	if i := a.info("db"); len(i.Mounts) != 0 {
		t.Fatalf("%+v", i.Mounts)
	}
	wantFile(t, filepath.Join(a.mount("db", "2"), "f"), "3")
	a.unmount("db", "2")
	a.released("db")
}

func TestUnmount_OfAVolumeWhoseFilesCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	v := a.vol("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "last")
	ids, rec := unwritable(t, v.idsFile()), unwritable(t, v.recordFile())
	// The final snapshot cannot be noted, and the caller is told. But the mount is gone, and nothing stands in the way of the next one.
	if err := a.Unmount(ctx(t), "db", "1"); err == nil || !strings.Contains(err.Error(), "final snapshot") {
		t.Fatalf("%v", err)
	}
	if i := a.info("db"); i.Mountpoint != "" {
		t.Fatalf("%+v", i)
	}
	ids()
	rec()
	wantFile(t, filepath.Join(a.mount("db", "2"), "f"), "last")
	a.unmount("db", "2")
	a.released("db")
	wantFile(t, filepath.Join(a.elsewhere("db"), "f"), "last")
}

// Who was told that a restore failed must not find it done by the next mount.
func TestRestore_ThatCouldNotBeNotedIsNotFinishedLater(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	v := a.vol("db")
	i, err := a.resolve(ctx(t), v, "1")
	must(t, err)
	lift := unwritable(t, v.recordFile())
	if err := a.restoreData(ctx(t), v, i); err == nil {
		t.Fatal("it was noted")
	}
	lift()
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "3")
	a.unmount("db", "1")
	a.released("db")
	a.restore("db", "1")
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "1")
}

func TestMount_OfAViewThatCouldNotBeNotedIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	all, err := a.LocalSnapshots("db")
	must(t, err)
	a.create("view", "privkey="+a.key("db"), "snapshot="+all[0].ID)
	lift := unwritable(t, a.vol("view").recordFile())
	if _, err := a.Mount(ctx(t), "view", "1"); err == nil {
		t.Fatal("it was noted")
	}
	lift()
	wantFile(t, filepath.Join(a.mount("view", "1"), "f"), "3")
}

func TestRemoveSnapshot_ThatCouldNotBeNotedStaysListed(t *testing.T) {
	w := newWorld(t)
	a := twoGenerations(t, w)
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "two")
	all, err := a.LocalSnapshots("db")
	must(t, err)
	at := slices.IndexFunc(all, func(i SnapshotInfo) bool { return i.Note == kindOld })
	if at < 0 {
		t.Fatalf("%+v", all)
	}
	old := all[at].Local
	lift := unwritable(t, a.vol("db").recordFile())
	if err := a.removeLocal(ctx(t), a.vol("db"), old, false); err == nil {
		t.Fatal("it was noted")
	}
	lift()
	if again, err := a.LocalSnapshots("db"); err != nil || len(again) != len(all) {
		t.Fatalf("%+v, %v", again, err)
	}
	must(t, a.removeLocal(ctx(t), a.vol("db"), old, false))
	if a.vol("db").has(a.vol("db").snap(old)) {
		t.Fatal("it is still there")
	}
}

// What an earlier try left half-way is finished without a worker that would note its upload over it.
func TestMount_EndsTheUploadBeforeItFinishesARestore(t *testing.T) {
	w := newWorld(t)
	st := faulty.New(w.store)
	a := w.machine("a", func(_ *Options, d *Deps) { d.Store = st })
	three(t, a)
	v := a.vol("db")
	i, err := a.resolve(ctx(t), v, "1")
	must(t, err)
	write(t, filepath.Join(a.mount("db", "1"), "f"), "4")
	hang := st.Inject(faulty.Rule{Op: faulty.PutMany, Fault: faulty.Hang()})
	defer hang.Lift()
	a.unmount("db", "1")
	a.eventually("uploading", func() bool { return hang.Hits() > 0 })
	v.mu.Lock()
	up := v.work
	v.mu.Unlock()
	swap, err := a.makeNext(ctx(t), v, v, i)
	must(t, err)
	must(t, v.update(func(r *record) { r.Swap = swap }))
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "1")
	select {
	case <-up.done:
	default:
		t.Error("the upload of before goes on")
	}
	hang.Lift()
	a.unmount("db", "1")
	a.released("db")
	wantFile(t, filepath.Join(a.elsewhere("db"), "f"), "1")
}

// A clone that is being made takes content from its origin already.
func TestRemove_OfTheOriginOfACloneThatIsBeingMade(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "prefetch=none")
	wantFile(t, filepath.Join(b.mount("db", "1"), "f"), "3")
	b.unmount("db", "1")
	b.released("db")
	n, _, err := b.cloneData(ctx(t), b.vol("db"), "", "copy")
	must(t, err)
	if err := b.Remove(ctx(t), "db", true); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	if _, err := b.Clone(ctx(t), "db", "", "copy"); !errors.Is(err, ErrExists) {
		t.Fatalf("%v", err)
	}
	write(t, filepath.Join(b.mount("db", "1"), "f"), "4")
	b.flush("db")
	if _, err := b.RemoveSnapshot(ctx(t), "db", "3", false); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	must(t, b.enrolClone(n))
	b.made(n)
	dir := b.mount("copy", "1")
	wantFile(t, filepath.Join(dir, "f"), "3")
	shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
}

// Between the record of a clone and the last rename nobody mounts it, and no worker takes it for a volume without data.
func TestClone_BelongsToNobodyElseWhileItIsMade(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	n, _, err := a.cloneData(ctx(t), a.vol("db"), "", "copy")
	must(t, err)
	a.loadMu.Lock()
	must(t, a.keepKey(&n.rec, n.key))
	must(t, a.enrol(n))
	a.loadMu.Unlock()
	if p := decide(a.situation(n, a.now())); p.any() {
		t.Errorf("the worker is to begin: %s", p.why)
	}
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := n.enter(short, stepMount); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	must(t, a.finishSwap(n))
	a.made(n)
	a.poke()
	a.released("copy")
	wantFile(t, filepath.Join(a.elsewhere("copy"), "f"), "3")
}

// An upload that ends after the Hive was asked makes its answer no rollback.
func TestAsk_AnswerIsHeldAgainstTheRecordOfBefore(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	v := a.vol("db")
	dir := a.mount("db", "1")
	answer := a.ask(ctx(t), v, true)
	write(t, filepath.Join(dir, "f"), "4")
	a.flush("db")
	if d := decideData(v.record(), a.id(), true, true, answer.latest); !errors.Is(d.err, ErrRollback) {
		t.Fatalf("the test shows nothing: %+v", d)
	}
	if d := decideData(answer.rec, a.id(), true, true, answer.latest); d.do != dataKeep {
		t.Fatalf("%+v", d)
	}
}

func TestFindSnapshot_ANumberMeansNoBeginning(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	all := []SnapshotInfo{
		{Generation: 1, Hash: "12345678" + strings.Repeat("ab", 60), ID: "98765432-0000-4000-8000-000000000000", Created: at, Remote: true},
		{Generation: 2, Hash: strings.Repeat("cd", 64), ID: "abcd0000-0000-4000-8000-000000000000", Created: at.Add(time.Hour), Remote: true},
	}
	for text, want := range map[string]uint64{
		"1": 1, "2": 2, "12345678": 1, "98765432": 1, "12345678a": 1, "abcd": 2, "cdcd": 2, "1234": 0, "1234567": 0, "9876": 0, "3": 0, "cd": 0,
	} {
		i, err := findSnapshot(all, text)
		if want != 0 && err != nil || want == 0 && !errors.Is(err, ErrNoSnapshot) || i.Generation != want {
			t.Errorf("%q: generation %d, %v; want %d", text, i.Generation, err, want)
		}
	}
}

// The order of the steps is that of the comment: what is in the way of a record leaves data where it was.
func TestReplaceData_ThatCouldNotBeNotedLeavesTheData(t *testing.T) {
	w := newWorld(t)
	a := twoGenerations(t, w)
	v := a.vol("db")
	latest, err := w.hive.Latest(ctx(t), v.pub)
	must(t, err)
	lift := unwritable(t, v.recordFile())
	if err := a.replaceData(ctx(t), v, latest, kindOld); err == nil {
		t.Fatal("it was noted")
	}
	lift()
	if ok, err := backing.IsSubvolume(v.data()); !ok || v.record().Swap != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "two")
}

func TestRemove_LeavesNothingOfTheFolder(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	v := a.vol("db")
	must(t, writeFile(v.workingFile(), []byte("{}\n")))
	must(t, a.Remove(ctx(t), "db", false))
	if v.has(v.dir) {
		t.Error(shell(t, `ls "$1"`, v.dir))
	}
}

// What a snapshot is shown, restored or cloned from can still be taken instead of being fetched.
func TestSnapshotOf_LeavesASnapshotASource(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	id := a.vol("db").record().Base.Local
	check := func(after string) {
		t.Helper()
		must(t, backing.SyncFS(a.root))
		gen, err := backing.Generation(a.vol("db").snap(id))
		if s := a.vol("db").record().snapshot(id); err != nil || s == nil || s.Gen != gen {
			t.Errorf("after %s: %+v, generation %d, %v", after, s, gen, err)
		}
	}
	check("nothing")
	a.create("view", "privkey="+a.key("db"), "snapshot="+id)
	wantFile(t, filepath.Join(a.mount("view", "1"), "f"), "3")
	check("a view")
	a.clone("db", "3", "copy")
	check("a clone")
}

func TestPurge_StopsWhereAnotherMachineTakesTheVolumeMeanwhile(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	v := a.vol("db")
	remote, err := a.purgeable(ctx(t), v, PurgeOptions{})
	must(t, err)
	i, err := a.resolve(ctx(t), v, "1")
	must(t, err)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	b.mount("db", "1")
	d := PurgeDecision{Snapshot: i, Where: WhereNetwork}
	if err := a.purgeOne(ctx(t), v, &d, &remote); !errors.Is(err, ErrHeld) || len(a.generations("db")) != 3 {
		t.Errorf("%v, %v", err, a.generations("db"))
	}
}
