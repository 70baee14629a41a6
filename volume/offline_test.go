package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/hive"
)

func TestMount_WithoutTheHiveWhereThisMachineWasTheWriter(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	a.flush("db")
	a.vanish()
	w.down.Store(true)

	a = w.machine("a")
	dir = a.mount("db", "1")
	wantFile(t, filepath.Join(dir, "f"), "one")
	i := a.info("db")
	if i.State != StateOffline || i.OfflineWhy == "" {
		t.Fatalf("%+v", i)
	}
	write(t, filepath.Join(dir, "f"), "two")
	s, err := a.Snapshot(ctx(t), "db", false, nil)
	must(t, err)
	if s.Remote || s.Local == "" {
		t.Fatalf("%+v", s)
	}
	a.eventually("upload fails", func() bool { return a.info("db").UploadError != "" })
	w.down.Store(false)
	a.eventually("published", func() bool {
		i := a.info("db")
		return i.Generation == 2 && i.State == StateComplete && i.UploadError == ""
	})
}

func TestMount_OfflineLoserIsFencedWhenTheHiveIsBack(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	a.flush("db")
	a.vanish()
	b := w.machine("b")
	b.create("db", "privkey="+a.key2("db"), "takeover=always")
	write(t, filepath.Join(b.mount("db", "1"), "f"), "by b")
	b.flush("db")
	b.unmount("db", "1")
	b.released("db") // the writer is null again: only the manifest tells
	w.down.Store(true)

	a = w.machine("a")
	dir = a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "astray")
	w.down.Store(false)
	if _, err := a.Flush(ctx(t), "db", nil); !errors.Is(err, ErrFenced) {
		t.Fatalf("%v", err)
	}
	a.unmount("db", "1")
	wantFile(t, filepath.Join(a.mount("db", "2"), "f"), "by b")
	i := a.info("db")
	if len(i.Divergent) != 1 {
		t.Fatalf("%+v", i)
	}
	wantFile(t, filepath.Join(i.Divergent[0], "f"), "astray")
}

func TestMount_WithoutTheHiveIsRefusedWhereAnotherMachineMayHaveIt(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.unmount("db", "1")
	a.released("db")
	w.down.Store(true)
	if _, err := a.Mount(ctx(t), "db", "1"); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "another machine") {
		t.Fatalf("%v", err)
	}
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	if _, err := b.Mount(ctx(t), "db", "1"); !errors.Is(err, ErrNotReady) {
		t.Fatalf("%v", err)
	}
	w.down.Store(false)
	wantFile(t, filepath.Join(b.mount("db", "1"), "f"), "one")
}

func TestMount_NewVolumeNeedsNoHive(t *testing.T) {
	w := newWorld(t)
	w.down.Store(true)
	a := w.machine("a", func(o *Options, d *Deps) { d.Hive, d.Store = nil, nil })
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "local")
	a.unmount("db", "1")
	a.eventually("says what is missing", func() bool {
		i := a.info("db")
		return i.State == StateUploading && strings.Contains(i.UploadError, "--hive")
	})
	if err := a.Remove(ctx(t), "db", false); !errors.Is(err, ErrNotSaved) {
		t.Fatalf("%v", err)
	}
	a.vanish()
	w.down.Store(false)

	// The next run has a Hive: what waited is published by itself.
	a = w.machine("a")
	a.released("db")
	if i := a.info("db"); i.Generation != 1 {
		t.Fatalf("%+v", i)
	}
}

func TestUnmount_ReleasesOnlyAfterTheUpload(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "last words")
	w.down.Store(true)
	start := time.Now()
	a.unmount("db", "1")
	if took := time.Since(start); took > 5*time.Second {
		t.Fatalf("unmount waited for the network: %s", took)
	}
	if s := a.info("db").State; s != StateUploading {
		t.Fatalf("state %s", s)
	}
	w.down.Store(false)
	if got := a.writer("db"); got == nil || *got != a.id() {
		t.Fatalf("given back before its upload: %v", got)
	}
	// A Mount meanwhile cancels the giving back.
	a.mount("db", "2")
	a.eventually("published", func() bool { return a.info("db").Generation == 2 })
	if got := a.writer("db"); got == nil || *got != a.id() {
		t.Fatalf("a mounted volume was given back: %v", got)
	}
	a.unmount("db", "2")
	a.released("db")
	if got := a.writer("db"); got != nil {
		t.Fatalf("writer %v", got)
	}
}

func TestOpen_ResumesAnUploadThatWasPending(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "x")
	a.flush("db")
	w.down.Store(true)
	a.unmount("db", "1")
	a.vanish()
	w.down.Store(false)
	a = w.machine("a")
	a.released("db")
	if got := a.writer("db"); got != nil {
		t.Fatalf("writer %v", got)
	}
}

func TestMount_RefusesAHiveThatWasSetBack(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "2")
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	v, err := a.lookup("db")
	must(t, err)
	all, err := w.hive.All(ctx(t), v.pub)
	must(t, err)
	must(t, w.hive.Delete(ctx(t), v.pub))
	check := func(what string) {
		t.Helper()
		if _, err := a.Mount(ctx(t), "db", "1"); !errors.Is(err, ErrRollback) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("unknown")
	must(t, w.hive.Create(ctx(t), v.pub))
	check("no manifest")
	_, err = w.hive.Post(ctx(t), v.pub, all[0].Sign(v.key))
	must(t, err)
	must(t, w.hive.SetWriter(ctx(t), v.pub, nil))
	check("older")
	fork := *all[1]
	fork.Creation++
	_, err = w.hive.Post(ctx(t), v.pub, fork.Sign(v.key))
	must(t, err)
	must(t, w.hive.SetWriter(ctx(t), v.pub, nil))
	check("fork")
	if got := a.writer("db"); got != nil {
		t.Fatalf("a refused mount took the writer: %v", got)
	}
	// A machine that saw none of it cannot know better.
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	b.mount("db", "1")
	b.unmount("db", "1")
	b.released("db")
}

func TestMount_BlockStoreWithoutTheRootSaysSoAndLetsGo(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "x")
	a.unmount("db", "1")
	a.released("db")
	b := w.machine("b", func(o *Options, d *Deps) { d.Store = nil })
	b.create("db", "privkey="+a.key("db"))
	if _, err := b.Mount(ctx(t), "db", "1"); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "--ipfs") {
		t.Fatalf("%v", err)
	}
	b.eventually("given back", func() bool { return b.writer("db") == nil })
	b.vanish()
	b = w.machine("b")
	wantFile(t, filepath.Join(b.mount("db", "1"), "f"), "x")
}

func TestOpen_WorksAsSoonAsThePoolIsThere(t *testing.T) {
	dir := t.TempDir() // on no BTRFS
	w := newWorld(t)
	a := w.machine("a", func(o *Options, d *Deps) { o.Root = dir })
	err := a.Create(ctx(t), "db", nil)
	if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "pool create") {
		t.Fatalf("%v", err)
	}
	if l := a.List(); len(l) != 0 {
		t.Fatalf("%+v", l)
	}
	h := a.Health(ctx(t))
	if h.OK || h.Checks[0].OK {
		t.Fatalf("%+v", h)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Fatalf("something was written beside the pool: %v %v", list, err)
	}
	w.bindPool(t, dir)
	a.create("db")
	if h := a.Health(ctx(t)); !h.OK {
		t.Fatalf("%+v", h)
	}
}

func TestManager_DeniedTokenIsNoReasonToMountElsewhere(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	a.mount("db", "1")
	a.flush("db")
	other, err := hive.NewClient(w.url, "00000000-0000-4000-8000-000000000001", nil)
	must(t, err)
	b := w.machine("b", func(o *Options, d *Deps) { d.Hive = other })
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	if _, err := b.Mount(ctx(t), "db", "1"); !errors.Is(err, hive.ErrDenied) {
		t.Fatalf("%v", err)
	}
}
