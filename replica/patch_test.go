package replica

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// byChanges publishes what v is now by the changes since base, and holds it against a listing of everything.
func (w *world) byChanges(v *volume, base Base) Result {
	w.t.Helper()
	w.now = w.now.Add(time.Minute)
	path := v.snapshot()
	whole := w.publishWhole(path, base)
	r := w.publish(path, base)
	if r.Way != WayChanges || r.Base.Root != whole.Base.Root {
		w.t.Fatalf("way %q, root %s, with every directory listed %s", r.Way, r.Base.Root, whole.Base.Root)
	}
	return r
}

func TestPublish_ChangesOfHalfFetchedFilesAndDirectories(t *testing.T) {
	const chunk = wire.DefChunk
	w, origin := newWorld(t), newVolume(t)
	data := noise(7, 6*chunk+5000)
	for _, name := range []string{"dir/a", "dir/b", "dir/c", "dir/sub/deep", "p", "q", "r"} {
		origin.write(name, data)
	}
	first := w.publish(origin.snapshot(), Base{})
	got := w.entries(first.Base.Root)
	c := got["/p"].Content

	// Another machine: nothing of dir is there, p and q are empty.
	v := newVolume(t)
	check(t, os.Mkdir(v.at("dir"), 0o755))
	check(t, mark.Set(v.at("dir"), &mark.Dir{Ref: *got["/dir"].Dir, Mtime: got["/dir"].Mtime}))
	for _, name := range []string{"p", "q", "r"} {
		w.pending(v, name, c, nil)
	}
	base := first.Base
	base.Local = ""
	base = w.publish(v.snapshot(), base).Base
	if e := w.entries(base.Root); len(e) != 10 {
		t.Fatalf("%d names", len(e))
	}

	// dir is filled, and c deleted at once; a window of p is fetched: nothing of it is read or sent.
	check(t, os.Mkdir(v.at("dir/sub"), 0o755))
	check(t, mark.Set(v.at("dir/sub"), &mark.Dir{Ref: *got["/dir/sub"].Dir, Mtime: got["/dir/sub"].Mtime}))
	w.pending(v, "dir/a", got["/dir/a"].Content, nil)
	w.pending(v, "dir/b", got["/dir/b"].Content, nil)
	check(t, mark.Remove(v.at("dir"), mark.DirName))
	v.writeAt("p", data[chunk:2*chunk], chunk)
	r := w.byChanges(v, base)
	now := w.entries(r.Base.Root)
	if _, ok := now["/dir/c"]; ok || len(now) != 9 {
		t.Errorf("dir/c is there: %v; %d names", ok, len(now))
	}
	if r.Stats.BytesRead != 0 {
		t.Errorf("%d bytes were read", r.Stats.BytesRead)
	}
	for _, name := range []string{"/dir/a", "/dir/b", "/dir/sub/deep", "/p", "/q"} {
		w.wantFile(r.Base.Root, name, data)
	}

	// Zeros that no extent tells of; a smaller counted size; a write; each with its mark, as package lazy does.
	set := func(name string, change func(*mark.File)) {
		m := &mark.File{State: mark.Pending, Content: *c, Valid: c.Size}
		change(m)
		check(t, mark.Set(v.at(name), m))
	}
	set("q", func(m *mark.File) { m.Zero = []wire.Range{{Off: chunk, Len: 2 * chunk}} })
	v.writeAt("p", noise(1, wire.Sector), 3*chunk)
	set("p", func(*mark.File) {})
	set("r", func(m *mark.File) { m.Valid = chunk })
	check(t, os.Truncate(v.at("r"), chunk))
	check(t, os.Truncate(v.at("r"), 2*chunk))
	r = w.byChanges(v, r.Base)
	q := bytes.Clone(data)
	clear(q[chunk : 3*chunk])
	p := bytes.Clone(data)
	copy(p[3*chunk:], noise(1, wire.Sector))
	w.wantFile(r.Base.Root, "/q", q)
	w.wantFile(r.Base.Root, "/p", p)
	w.wantFile(r.Base.Root, "/r", append(bytes.Clone(data[:chunk]), make([]byte, chunk)...))

	// The marks stay as they are and more is written: the windows beside it keep their references.
	v.writeAt("p", noise(2, wire.Sector), 5*chunk)
	r = w.byChanges(v, r.Base)
	copy(p[5*chunk:], noise(2, wire.Sector))
	w.wantFile(r.Base.Root, "/p", p)
	if r.Stats.BytesRead > chunk {
		t.Errorf("%d bytes were read for a sector", r.Stats.BytesRead)
	}

	// What was missing of q becomes a hole that counts, while its mark goes: no extent changes there.
	clear(q[4*chunk:])
	v.writeAt("q", q[:chunk], 0)
	v.writeAt("q", q[3*chunk:4*chunk], 3*chunk)
	check(t, mark.Remove(v.at("q"), mark.FileName))
	check(t, os.Rename(v.at("q"), v.at("dir/q")))
	r = w.byChanges(v, r.Base)
	w.wantFile(r.Base.Root, "/dir/q", q)

	// Complete now: unchanged windows are taken by what the kernel says.
	v.writeAt("dir/q", []byte("x"), 0)
	r = w.byChanges(v, r.Base)
	q[0] = 'x'
	w.wantFile(r.Base.Root, "/dir/q", q)
	if r.Stats.BytesRead > chunk {
		t.Errorf("%d bytes were read for one", r.Stats.BytesRead)
	}
}

func TestPublish_HiddenNamesAndNestedSubvolumesByChanges(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("shown", []byte("one"))
	v.write("dir/file", []byte("two"))
	base := w.publish(v.snapshot(), Base{}).Base
	check(t, os.Mkdir(v.at(hiddenDir), 0o700))
	check(t, os.Link(v.at("shown"), v.at(hiddenDir+"/00000000000004d2")))
	check(t, mark.Set(v.at("shown"), &mark.Link{ID: 1234, Pending: 2, Hidden: true}))
	check(t, backing.CreateSubvolume(v.at("dir/nested")))
	t.Cleanup(func() {
		if ok, _ := backing.IsSubvolume(v.at("dir/nested")); ok {
			check(t, backing.DeleteSubvolume(v.at("dir/nested")))
		}
	})
	check(t, os.Remove(v.at("dir/file")))
	r := w.byChanges(v, base)
	now := w.entries(r.Base.Root)
	if e := now["/shown"]; len(now) != 3 || e.Link != 1234 || e.Nlink != 3 {
		t.Errorf("%d names, link %d of %d", len(now), e.Link, e.Nlink)
	}
	// The shown name goes and comes back from the hidden one.
	check(t, os.Remove(v.at("shown")))
	r = w.byChanges(v, r.Base)
	check(t, os.Link(v.at(hiddenDir+"/00000000000004d2"), v.at("dir/back")))
	r = w.byChanges(v, r.Base)
	w.wantFile(r.Base.Root, "/dir/back", []byte("one"))
	// A file in the place of the subvolume.
	check(t, backing.DeleteSubvolume(v.at("dir/nested")))
	v.write("dir/nested", []byte("file"))
	r = w.byChanges(v, r.Base)
	w.wantFile(r.Base.Root, "/dir/nested", []byte("file"))
}

func TestPublish_InodeFlagsAreInTheChanges(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("file", []byte("one"))
	v.write("dir/new", nil)
	base := w.publish(v.snapshot(), Base{}).Base
	setFlags(t, v.at("file"), wire.FlagImmutable)
	setFlags(t, v.at("dir"), wire.FlagNoCOW)
	t.Cleanup(func() { setFlags(t, v.at("file"), 0) })
	now := w.entries(w.byChanges(v, base).Base.Root)
	if now["/file"].Flags != wire.FlagImmutable || now["/dir"].Flags != wire.FlagNoCOW {
		t.Errorf("flags %x, %x", now["/file"].Flags, now["/dir"].Flags)
	}
}

func TestPublish_WalksWhereChangesCannotBeKnown(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	for i := range 300 {
		v.write(fmt.Sprintf("new-%d", i), []byte("x"))
	}
	s := v.snapshot()
	p := w.publisher()
	p.maxChanges = 100
	r, err := p.Publish(t.Context(), w.job(s, first.Base))
	check(t, err)
	if r.Way != WayWalk {
		t.Errorf("too many changes: the way was %q", r.Way)
	}
	w.wantTree(r, s)

	// The volume was set back: the same inode numbers, another subvolume. Equal numbers mean nothing there.
	other := filepath.Join(v.dir, "restored")
	check(t, backing.Snapshot(first.Base.Local, other, false))
	check(t, os.WriteFile(other+"/different", []byte("not new-0"), 0o600))
	check(t, backing.SyncFS(other))
	s = filepath.Join(v.dir, "of-restored")
	check(t, backing.Snapshot(other, s, true))
	r = w.publish(s, r.Base)
	if r.Way != WayWalk {
		t.Errorf("of another subvolume: the way was %q", r.Way)
	}
	w.wantTree(r, s)

	check(t, backing.DeleteSubvolume(r.Base.Local))
	s = filepath.Join(v.dir, "again")
	check(t, backing.Snapshot(other, s, true))
	if r = w.publish(s, r.Base); r.Way != WayWalk {
		t.Errorf("without the base's snapshot: %+v", r)
	}
}

func TestPublish_AnotherChunkSizeByChanges(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	j := w.job(v.snapshot(), first.Base)
	j.ChunkSize = wire.MinChunk
	r, err := w.publisher().Publish(t.Context(), j)
	check(t, err)
	if r.Way != WayChanges || r.Unchanged || r.Stats.Blocks > 2 {
		t.Errorf("%+v", r)
	}
	v.writeAt("big", []byte("x"), 1<<20)
	j = w.job(v.snapshot(), r.Base)
	r, err = w.publisher().Publish(t.Context(), j)
	check(t, err)
	if c := w.entries(r.Base.Root)["/big"].Content; c.ChunkSize != wire.MinChunk {
		t.Errorf("chunk size is %d", c.ChunkSize)
	}
	w.wantTree(r, j.Snapshot)
}

func TestPublish_RenamedDirectoriesAreNotReadAgain(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	for i := range 2000 {
		v.write(fmt.Sprintf("a/b/c%d/file-%d", i%10, i), noise(uint64(i), 3000))
	}
	base := w.publish(v.snapshot(), Base{}).Base
	check(t, os.Rename(v.at("a/b"), v.at("moved")))
	check(t, os.Rename(v.at("moved/c3"), v.at("a/c3")))
	check(t, unix.Renameat2(unix.AT_FDCWD, v.at("moved/c1"), unix.AT_FDCWD, v.at("moved/c2"), unix.RENAME_EXCHANGE))
	check(t, os.Rename(v.at("moved/c1/file-2"), v.at("a/c3/x")))
	r := w.byChanges(v, base)
	if r.Stats.BytesRead != 0 || r.Stats.Dirs > 6 || r.Stats.Bytes > 64<<10 {
		t.Errorf("%+v", r.Stats)
	}
	w.wantTree(r, v.path)
}
