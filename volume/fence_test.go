package volume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
)

func TestMount_HeldVolumeNamesTheHolder(t *testing.T) {
	w := newWorld(t)
	a, b := w.machine("a"), w.machine("b")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "a")
	a.flush("db")
	b.create("db", "privkey="+a.key("db"))
	_, err := b.Mount(ctx(t), "db", "1")
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), a.id().String()) || !strings.Contains(err.Error(), "takeover=always") {
		t.Fatalf("%v", err)
	}
	if got := a.writer("db"); got == nil || *got != a.id() {
		t.Fatalf("writer %v", got)
	}
}

func TestMount_TakesAVolumeThatTheHivePassedOn(t *testing.T) {
	w := newWorld(t)
	a, b := w.machine("a"), w.machine("b")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "a")
	a.flush("db")
	b.create("db", "privkey="+a.key("db"))
	v, err := b.lookup("db")
	must(t, err)
	id := b.id()
	must(t, w.hive.SetWriter(ctx(t), v.pub, &id))
	wantFile(t, filepath.Join(b.mount("db", "1"), "f"), "a")
}

// The whole story of a machine that dies with the volume in its hands, and comes back.
func TestTakeover_LoserKeepsWhatItDidNotPublish(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "published")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "never published")
	a.vanish()

	b := w.machine("b")
	b.create("db", "privkey="+a.key2("db"), "takeover=always")
	dir = b.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "published")
	write(t, filepath.Join(dir, "f"), "by b")
	if s := b.flush("db"); s.Generation != 2 {
		t.Fatalf("%+v", s)
	}

	// A comes back, and finds out by itself.
	a = w.machine("a")
	a.eventually("fenced", func() bool { return a.info("db").State == StateFenced })
	a.eventually("kept", func() bool { return len(a.info("db").Divergent) == 1 })
	i := a.info("db")
	if !i.Fenced || i.FencedBy != b.id().String() {
		t.Fatalf("%+v", i)
	}
	wantFile(t, filepath.Join(i.Divergent[0], "f"), "never published")
	if got := b.writer("db"); got == nil || *got != b.id() {
		t.Fatalf("writer %v", got)
	}
	if _, err := a.Mount(ctx(t), "db", "1"); !errors.Is(err, ErrHeld) {
		t.Fatalf("%v", err)
	}
	if err := a.WaitReleased(ctx(t), "db"); !errors.Is(err, ErrFenced) {
		t.Fatalf("%v", err)
	}
	b.unmount("db", "1")
	b.released("db")

	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "by b")
	i = a.info("db")
	if i.Fenced || len(i.Divergent) != 1 || i.Generation != 2 {
		t.Fatalf("%+v", i)
	}
	wantFile(t, filepath.Join(i.Divergent[0], "f"), "never published")
	a.unmount("db", "1")
	a.released("db")
	if err := a.Remove(ctx(t), "db", false); !errors.Is(err, ErrNotSaved) {
		t.Fatalf("%v", err)
	}
	must(t, a.Remove(ctx(t), "db", true))
}

func TestTakeover_MountedLoserIsFencedAtItsNextCheck(t *testing.T) {
	w := newWorld(t)
	a, b := w.machine("a"), w.machine("b")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "published")
	a.flush("db")
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	bdir := b.mount("db", "1")

	// Without a change the loser learns it by the check alone.
	v, err := a.lookup("db")
	must(t, err)
	v.mutate(func() { v.lastAsk = time.Time{} })
	a.poke()
	a.eventually("fenced", func() bool { return a.info("db").Fenced })
	if n := len(a.info("db").Divergent); n != 0 {
		t.Fatalf("%d divergent snapshots of nothing", n)
	}

	// What runs goes on, and what it writes is kept, but not published.
	write(t, filepath.Join(dir, "f"), "too late")
	if _, err := a.Flush(ctx(t), "db", nil); !errors.Is(err, ErrFenced) {
		t.Fatalf("%v", err)
	}
	write(t, filepath.Join(dir, "f"), "later still")
	a.unmount("db", "1")
	i := a.info("db")
	if i.State != StateFenced || len(i.Divergent) != 1 {
		t.Fatalf("%+v", i)
	}
	wantFile(t, filepath.Join(i.Divergent[0], "f"), "later still")
	wantFile(t, filepath.Join(bdir, "f"), "published")
	if l, err := w.hive.All(ctx(t), v.pub); err != nil || len(l) != 1 {
		t.Fatalf("%d manifests, %v", len(l), err)
	}

	// B ends without having written: A's own data is the newest there is.
	b.unmount("db", "1")
	b.released("db")
	wantFile(t, filepath.Join(a.mount("db", "2"), "f"), "later still")
	if s := a.flush("db"); s.Generation != 2 || a.info("db").Fenced {
		t.Fatalf("%+v %+v", s, a.info("db"))
	}
}

func TestPublish_OnlyUploadFindsTheTakeover(t *testing.T) {
	w := newWorld(t)
	a, b := w.machine("a"), w.machine("b")
	a.create("db")
	dir := a.mount("db", "1")
	a.flush("db")
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	b.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "too late")
	a.unmount("db", "1")
	a.eventually("fenced", func() bool { return a.info("db").Fenced && len(a.info("db").Divergent) == 1 })
	wantFile(t, filepath.Join(a.info("db").Divergent[0], "f"), "too late")
	if got := b.writer("db"); got == nil || *got != b.id() {
		t.Fatalf("the loser gave away what is not its own: %v", got)
	}
}

// What waited for its upload when the volume was restored is in nothing that came after.
func TestTakeover_LoserKeepsWhatItHadPutAsideByARestore(t *testing.T) {
	for what, rest := range map[string]struct {
		after   string // written after the restore; empty: nothing
		remount bool   // the loser learns of it by mounting, not by publishing
	}{
		"nothing was written": {"", false},
		"written since":       {"after the restore", false},
		"mounted again":       {"after the restore", true},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			st := faulty.New(w.store)
			a := w.machine("a", func(_ *Options, d *Deps) { d.Store = st })
			three(t, a)
			full := st.Inject(faulty.Rule{Op: faulty.PutMany, Fault: faulty.Fail(store.ErrUnavailable)})
			write(t, filepath.Join(a.mount("db", "1"), "f"), "before the restore")
			a.unmount("db", "1")
			a.eventually("a snapshot waits", func() bool { return a.info("db").Unpublished > 0 })
			a.restore("db", "1")
			if rest.after != "" {
				write(t, filepath.Join(a.mount("db", "1"), "f"), rest.after)
				a.unmount("db", "1")
			}
			key := a.key("db")
			if rest.remount {
				a.vanish()
			}

			b := w.machine("b")
			b.create("db", "privkey="+key, "takeover=always")
			write(t, filepath.Join(b.mount("db", "1"), "f"), "by b")
			b.flush("db")
			b.unmount("db", "1")
			b.released("db")

			full.Lift()
			if rest.remount {
				a = w.machine("a")
				wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "by b")
			} else {
				a.eventually("fenced", func() bool { return a.info("db").State == StateFenced })
			}
			kept := func() (all []string) {
				found, err := filepath.Glob(filepath.Join(a.vol("db").snaps(), "*", "f"))
				must(t, err)
				for _, f := range found {
					b, err := os.ReadFile(f)
					must(t, err)
					all = append(all, string(b))
				}
				return all
			}
			a.eventually("all that was not published is kept", func() bool {
				all := kept()
				return slices.Contains(all, "before the restore") && (rest.after == "" || slices.Contains(all, rest.after))
			})
			a.eventually("nothing waits any more", func() bool { return a.vol("db").record().count(kindPending) == 0 })
			if !rest.remount {
				wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "by b")
			}
			if all := kept(); !slices.Contains(all, "before the restore") {
				t.Errorf("after the next mount there is only %q", all)
			}
		})
	}
}
