package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"github.com/ipfs/go-cid"
)

// aged makes a volume db of n generations, an hour apart, f holding their number, unmounted; the clock of the machine stands an hour after the last.
func aged(t *testing.T, w *world, n int, change ...func(*Options, *Deps)) *machine {
	t.Helper()
	var now atomic.Int64 // Unix seconds
	now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	clock := func() time.Time { return time.Unix(now.Load(), 0) }
	w.now.Store(&clock)
	x := w.machine("a", append(change, func(_ *Options, d *Deps) { d.Now = clock })...)
	x.create("db")
	dir := x.mount("db", "1")
	for g := 1; g <= n; g++ {
		write(t, filepath.Join(dir, "f"), fmt.Sprint(g))
		shell(t, `seq $2 $(( $2 + 20000 )) > "$1/own-$2"`, dir, fmt.Sprint(g*100000))
		if g > 1 {
			shell(t, `rm "$1/own-$2"`, dir, fmt.Sprint((g-1)*100000))
		}
		x.flush("db")
		now.Add(3600)
	}
	x.unmount("db", "1")
	x.released("db")
	return x
}

// kept is the generations that are left.
func (x *machine) generations(name string) (left []uint64) {
	x.t.Helper()
	all, err := x.Snapshots(ctx(x.t), name)
	must(x.t, err)
	for _, i := range all {
		if i.Remote {
			left = append(left, i.Generation)
		}
	}
	return left
}

func TestPurge_RemovesWhatThePatternDoesNotKeepAndNothingThatIsReached(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 6)
	dry, err := a.Purge(ctx(t), "db", "2h", PurgeOptions{DryRun: true})
	must(t, err)
	if dry.Removed != 4 || len(dry.Decisions) != 7 || len(a.generations("db")) != 6 {
		t.Fatalf("%+v", dry)
	}
	res, err := a.Purge(ctx(t), "db", "2h", PurgeOptions{})
	must(t, err)
	if res.Removed != 4 || fmt.Sprint(a.generations("db")) != "[5 6]" {
		t.Fatalf("%v: %+v", a.generations("db"), res)
	}
	for i, d := range res.Decisions {
		if d.Reason != dry.Decisions[i].Reason || d.Remove != dry.Decisions[i].Remove || d.Reason == "" {
			t.Errorf("%+v, in the dry run %+v", d, dry.Decisions[i])
		}
	}
	blocks, _ := w.store.Size()
	if n := w.store.GC(); n == 0 {
		t.Fatalf("nothing of %d blocks was given up", blocks)
	}
	for _, g := range []string{"5", "6"} {
		a.create("v"+g, "privkey="+a.key("db"), "snapshot="+g)
		dir := a.mount("v"+g, "1")
		wantFile(t, filepath.Join(dir, "f"), g)
		shell(t, `seq $2 $(( $2 + 20000 )) | cmp - "$1/own-$2"`, dir, g+"00000")
	}
}

func TestPurge_KeepsWhatIsStillTaken(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 6)
	a.create("view", "privkey="+a.key("db"), "snapshot=2", "prefetch=none")
	dir := a.mount("view", "1")
	a.clone("db", "3", "copy")
	a.restore("db", "1")
	a.released("db") // generation 7 is generation 1
	if got := fmt.Sprint(a.generations("db")); got != "[1 2 3 4 5 6 7]" {
		t.Fatal(got)
	}
	res, err := a.Purge(ctx(t), "db", "0h", PurgeOptions{})
	must(t, err)
	if got := fmt.Sprint(a.generations("db")); got != "[1 2 3 7]" {
		t.Fatalf("%s: %+v", got, res)
	}
	w.store.GC()
	shell(t, `seq 200000 220000 | cmp - "$1/own-200000"`, dir)
	for name, own := range map[string]string{"copy": "300000", "db": "100000"} {
		dir := a.mount(name, "1")
		shell(t, `seq $2 $(( $2 + 20000 )) | cmp - "$1/own-$2"`, dir, own)
		must(t, a.Hydrate(ctx(t), name, true, nil))
		a.eventually("complete", func() bool { return a.info(name).State == StateComplete })
		a.unmount(name, "1")
		a.released(name)
	}
	a.unmount("view", "1")
	must(t, a.Remove(ctx(t), "view", true))
	// Now nothing takes anything from them. Generations 1 and 7 are one tree: its pin stays.
	_, err = a.Purge(ctx(t), "db", "0h", PurgeOptions{})
	must(t, err)
	if got := fmt.Sprint(a.generations("db")); got != "[7]" {
		t.Fatal(got)
	}
	w.store.GC()
	shell(t, `seq 100000 120000 | cmp - "$1/own-100000"`, a.elsewhere("db"))
}

func TestPurge_OfLocalSnapshotsFreesTheirSpaceAtOnce(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 2)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	write(t, filepath.Join(b.mount("db", "1"), "f"), "of b")
	b.unmount("db", "1")
	b.released("db")
	a.mount("db", "1") // what a had is an old local snapshot now
	all, err := a.LocalSnapshots("db")
	must(t, err)
	if len(all) != 2 || all[0].Note != kindOld {
		t.Fatalf("%+v", all)
	}
	old := all[0].Local
	v, err := a.lookup("db")
	must(t, err)
	if _, err := a.Purge(ctx(t), "db", "0h", PurgeOptions{Local: true}); err != nil {
		t.Fatal(err)
	}
	if v.has(v.snap(old)) || len(a.generations("db")) != 3 {
		t.Fatalf("%v, %v", v.has(v.snap(old)), a.generations("db"))
	}
	trash, err := backing.List(poolDir(t))
	must(t, err)
	for _, s := range trash {
		if strings.Contains(s.Path, old) {
			t.Errorf("%s is still there", s.Path)
		}
	}
}

func TestPurge_RefusesWhatItCannotDecide(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 3)
	for _, bad := range []string{"", "2h:2h", "1d:4h", "plop"} {
		if _, err := a.Purge(ctx(t), "db", bad, PurgeOptions{}); !errors.Is(err, ErrOption) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := a.Purge(ctx(t), "no", "2h", PurgeOptions{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	w.down.Store(true)
	if _, err := a.Purge(ctx(t), "db", "0h", PurgeOptions{}); !errors.Is(err, ErrNotReady) {
		t.Errorf("%v", err)
	}
	w.down.Store(false)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	b.mount("db", "1")
	if _, err := a.Purge(ctx(t), "db", "0h", PurgeOptions{}); !errors.Is(err, ErrHeld) {
		t.Errorf("%v", err)
	}
	if got := len(a.generations("db")); got != 3 {
		t.Fatalf("%d are left", got)
	}
}

// A store that refuses: the error counts, nothing is lost, and the next purge gives up what this one could not.
func TestPurge_GoesOnWhereTheStoreRefused(t *testing.T) {
	w := newWorld(t)
	st := faulty.New(w.store)
	a := aged(t, w, 3, func(_ *Options, d *Deps) { d.Store = st })
	all, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	refuse := st.Inject(faulty.Rule{Op: faulty.Unpin, Fault: faulty.Fail(store.ErrUnavailable)})
	res, err := a.Purge(ctx(t), "db", "0h", PurgeOptions{})
	if err == nil || res.Failed != 2 || !strings.Contains(err.Error(), "2 of 2") {
		t.Fatalf("%v, %+v", err, res)
	}
	refuse.Lift()
	pinned := func() (n int) {
		for _, i := range all {
			c, err := cid.Decode(i.Root)
			must(t, err)
			ok, err := w.store.Pinned(context.Background(), c)
			must(t, err)
			if ok {
				n++
			}
		}
		return n
	}
	if pinned() != 3 {
		t.Fatal("something was unpinned")
	}
	a.vanish()
	a = w.machine("a", func(_ *Options, d *Deps) { d.Now = *w.now.Load() })
	_, err = a.Purge(ctx(t), "db", "0h", PurgeOptions{})
	must(t, err)
	if pinned() != 1 {
		t.Fatalf("%d pins are left", pinned())
	}
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "3")
}

func TestRemoveSnapshot(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 3)
	if _, err := a.RemoveSnapshot(ctx(t), "db", "3", true); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	if _, err := a.RemoveSnapshot(ctx(t), "db", "9", true); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("%v", err)
	}
	_, err := a.RemoveSnapshot(ctx(t), "db", "2", false)
	must(t, err)
	if got := fmt.Sprint(a.generations("db")); got != "[1 3]" {
		t.Fatal(got)
	}
}

// The original Hive keeps its manifests: the blocks go all the same, and the volume goes on.
func TestPurge_WhereTheHiveCannotRemoveManifests(t *testing.T) {
	w := newWorld(t)
	w.plain.Store(true)
	a := aged(t, w, 4)
	res, err := a.Purge(ctx(t), "db", "2h", PurgeOptions{Remote: true})
	must(t, err)
	if res.Removed != 2 || !strings.Contains(res.Decisions[0].Reason, "stays listed") || len(a.generations("db")) != 4 {
		t.Fatalf("%v: %+v", a.generations("db"), res)
	}
	if w.store.GC() == 0 {
		t.Fatal("nothing was given up")
	}
	// What is gone is not removed once more, and the next purge says so.
	res, err = a.Purge(ctx(t), "db", "2h", PurgeOptions{Remote: true})
	must(t, err)
	if res.Removed != 0 || res.Decisions[0].Remove || !strings.Contains(res.Decisions[0].Reason, "given up already") {
		t.Fatalf("%+v", res)
	}
	if _, err := a.RemoveSnapshot(ctx(t), "db", "1", false); !errors.Is(err, ErrNoSnapshot) || !strings.Contains(err.Error(), "given up already") {
		t.Fatalf("%v", err)
	}
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "it was purged") {
		t.Fatalf("%v", err)
	}
	a.released("db")
	dir := a.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "4")
	write(t, filepath.Join(dir, "f"), "5")
	a.flush("db")
	wantFile(t, filepath.Join(a.elsewhere("db"), "f"), "5")
}

// A purge of many takes a while. What is published meanwhile may be the tree of one that it removes, and keeps its pin.
func TestPurge_TreeThatIsPublishedAnewMeanwhileStays(t *testing.T) {
	w := newWorld(t)
	a := aged(t, w, 3)
	v, err := a.lookup("db")
	must(t, err)
	before, err := a.purgeable(ctx(t), v, PurgeOptions{})
	must(t, err)
	a.restore("db", "1")
	a.released("db") // generation 4 is generation 1
	dir := a.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "1")
	must(t, a.Hydrate(ctx(t), "db", true, nil)) // so that nothing here is taken from it any more
	write(t, filepath.Join(dir, "f"), "5")
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	all, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	one := slices.IndexFunc(all, func(i SnapshotInfo) bool { return i.Generation == 1 })
	must(t, a.purgeOne(ctx(t), v, &PurgeDecision{Snapshot: all[one], Where: WhereNetwork}, &before))
	if got := fmt.Sprint(a.generations("db")); got != "[2 3 4 5]" {
		t.Fatal(got)
	}
	root, err := cid.Decode(all[one].Root)
	must(t, err)
	if is, err := w.store.Pinned(ctx(t), root); err != nil || !is {
		t.Fatalf("the tree of generation 4 is not pinned any more: %v", err)
	}
}
