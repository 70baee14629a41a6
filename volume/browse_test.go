package volume

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestBrowse_RemoteAndLocalSnapshotsAndItsEnd(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	a.mount("db", "1") // in use, all the while
	local, err := a.LocalSnapshots("db")
	must(t, err)
	for text, want := range map[string]string{"1": "1", "2": "2", local[0].Local[:8]: "3"} {
		view, i, err := a.Browse(ctx(t), "db", text)
		must(t, err)
		if again, _, err := a.Browse(ctx(t), "db", text); err != nil || again != view {
			t.Fatalf("%s, %v", again, err)
		}
		dir := a.mount(view, BrowseID)
		wantFile(t, filepath.Join(dir, "f"), want)
		shell(t, `seq 1 100000 | cmp - "$1/sub/same"; ! touch "$1/new" 2>/dev/null`, dir)
		a.mount(view, "another")
		if err := a.EndBrowse(ctx(t), "db", text); !errors.Is(err, ErrInUse) {
			t.Fatalf("%+v: %v", i, err)
		}
		a.unmount(view, "another")
		must(t, a.EndBrowse(ctx(t), "db", text))
		if _, err := a.Get(view); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
	}
	if _, _, err := a.Browse(ctx(t), "db", "17"); !errors.Is(err, ErrNoSnapshot) {
		t.Fatal(err)
	}
	if err := a.EndBrowse(ctx(t), "db", "1"); !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
}

// A snapshot that was chosen where it is here, and that an upload did away with before it was mounted, is shown from the network: else who looks into it would meet a view
// that can never be mounted, again and again.
func TestBrowse_ASnapshotThatGoesFromHereBeforeItIsMounted(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	s := a.flush("db")
	view, i, err := a.Browse(ctx(t), "db", "1")
	must(t, err)
	write(t, filepath.Join(dir, "f"), "two")
	a.flush("db")
	v, err := a.lookup("db")
	must(t, err)
	if i.Local == "" || i.Generation != s.Generation || v.record().snapshot(i.Local) != nil {
		t.Fatalf("it was not here, or still is: %+v", i)
	}
	wantFile(t, filepath.Join(a.mount(view, BrowseID), "f"), "one")
	must(t, a.EndBrowse(ctx(t), "db", "1"))
}
