package volume

import (
	"os"
	"path/filepath"
	"testing"

	"fractal-lazy/backing"
)

// What cannot be noted ends an upload with an error, and the next one goes through.
func TestFlush_WhereTheRecordCannotBeWrittenIsAnErrorAndThenGoesOn(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	path := a.mount("db", "1")
	write(t, filepath.Join(path, "f"), "4")
	v := a.vol("db")
	must(t, v.enter(ctx(t), stepSnapshot)) // the worker stands still
	id, err := a.takeSnapshot(ctx(t), v, kindPending)
	must(t, err)
	lift := unwritable(t, v.recordFile())
	v.leave()
	if err := a.publish(ctx(t), v, *v.record().snapshot(id)); err == nil {
		t.Error("published, and nothing is noted")
	}
	lift()
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	wantFile(t, filepath.Join(a.elsewhere("db"), "f"), "4")
}

// A volume is not left out because something that a crash left cannot be thrown away.
func TestOpen_WithARubbishThatStaysHasAllVolumes(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	v := a.vol("db")
	must(t, backing.Snapshot(v.data(), v.snap(newSnapshotID()), true)) // which no record names
	must(t, backing.CreateSubvolume(v.next()))
	a.vanish()
	dir := a.trash()
	immutable := func(flags uint32) {
		trash, err := os.Open(dir)
		must(t, err)
		defer trash.Close()
		must(t, backing.SetFlags(int(trash.Fd()), flags))
	}
	immutable(0x10) // FS_IMMUTABLE_FL: nothing can be made in it
	lift := func() { immutable(0) }
	t.Cleanup(lift)
	a = w.machine("a")
	path := a.mount("db", "1")
	wantFile(t, filepath.Join(path, "f"), "3")
	a.unmount("db", "1")
	a.released("db")
	a.vanish()
	lift()
	a = w.machine("a")
	v = a.vol("db")
	if list, err := os.ReadDir(v.snaps()); err != nil || len(list) != len(v.record().Snapshots) || v.has(v.next()) {
		t.Errorf("%v, %+v, %v", list, v.record().Snapshots, err)
	}
}
