package volume

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
