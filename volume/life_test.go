package volume

import (
	"path/filepath"
	"testing"
)

func TestVolume_FollowsItsKeyToAnotherMachine(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	if s := a.info("db").State; s != StateNew {
		t.Fatalf("state %s", s)
	}
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "hello"), "world")
	shell(t, `mkdir "$1/sub"`, dir)
	write(t, filepath.Join(dir, "sub", "deep"), "data")
	if s := a.flush("db"); s.Generation != 1 || !s.Remote || s.Unchanged {
		t.Fatalf("%+v", s)
	}
	if s := a.flush("db"); s.Generation != 1 || !s.Unchanged {
		t.Fatalf("%+v", s)
	}
	a.unmount("db", "1")
	a.released("db")
	if got := a.writer("db"); got != nil {
		t.Fatalf("writer %s", got)
	}
	if s := a.info("db").State; s != StateUnmounted {
		t.Fatalf("state %s", s)
	}

	b := w.machine("b")
	b.create("other-name", "privkey="+a.key("db"))
	dir = b.mount("other-name", "1")
	wantFile(t, filepath.Join(dir, "hello"), "world")
	wantFile(t, filepath.Join(dir, "sub", "deep"), "data")
	write(t, filepath.Join(dir, "hello"), "from b")
	must(t, b.Hydrate(ctx(t), "other-name", true, nil))
	b.eventually("complete", func() bool { return b.info("other-name").State == StateComplete })
	i := b.info("other-name")
	if i.BytesRemote != 0 || i.FilesTotal != 2 || i.BytesTotal == 0 || i.Generation != 1 || i.LastReplicated == nil {
		t.Fatalf("%+v", i)
	}
	b.unmount("other-name", "1")
	b.released("other-name")

	// A gets what B wrote, and keeps its own state, which is generation 1, as a local snapshot.
	dir = a.mount("db", "2")
	wantFile(t, filepath.Join(dir, "hello"), "from b")
	i = a.info("db")
	if i.Generation != 2 || len(i.Divergent) != 0 || i.Fenced {
		t.Fatalf("%+v", i)
	}
	list, err := a.Snapshots(ctx(t), "db")
	must(t, err)
	if len(list) != 2 || list[0].Generation != 1 || list[0].Where != WhereBoth || list[0].Note != kindOld || list[1].Generation != 2 || list[1].Where != WhereNetwork {
		t.Fatalf("%+v", list)
	}
}
