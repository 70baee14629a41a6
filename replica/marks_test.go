package replica

import (
	"bytes"
	"os"
	"testing"
	"time"

	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// lazyCopy is a second volume that shows the first one's snapshot through marks, as after a failover; files are made pending by hand.
func (w *world) pending(v *volume, name string, c *wire.Content, change func(*mark.File)) {
	w.t.Helper()
	if _, err := os.Lstat(v.at(name)); err != nil {
		v.write(name, nil)
		check(w.t, os.Truncate(v.at(name), int64(c.Size)))
	}
	m := &mark.File{State: mark.Pending, Content: *c, Valid: c.Size, Kept: true, Mtime: wire.Time{Sec: 1_500_000_000, Nsec: 5}}
	if change != nil {
		change(m)
	}
	check(w.t, mark.Set(v.at(name), m))
}

func TestPublish_UnfilledDirectoryKeepsItsReference(t *testing.T) {
	w, v, copy := newWorld(t), newVolume(t), newVolume(t)
	v.write("dir/a", noise(1, 300_000))
	v.write("dir/sub/b", noise(2, 10_000))
	v.write("other", []byte("x"))
	setMtime(t, v.at("dir"), time.Unix(1_400_000_000, 3))
	first := w.publish(v.snapshot(), Base{})
	dir := w.entries(first.Base.Root)["/dir"]

	check(t, os.Mkdir(copy.at("dir"), 0o755))
	check(t, mark.Set(copy.at("dir"), &mark.Dir{Ref: *dir.Dir, Mtime: dir.Mtime, Flags: wire.FlagImmutable}))
	base := first.Base
	base.Local = ""
	second := w.publish(copy.snapshot(), base)
	got := w.entries(second.Base.Root)
	if *got["/dir"].Dir != *dir.Dir || got["/dir"].Mtime != dir.Mtime || got["/dir"].Flags != wire.FlagImmutable || len(got["/dir"].Xattrs) != 0 {
		t.Errorf("unfilled directory: %+v", got["/dir"])
	}
	w.wantFile(second.Base.Root, "/dir/a", noise(1, 300_000))
	if second.Stats.BytesRead != 0 {
		t.Errorf("%d bytes were read", second.Stats.BytesRead)
	}
}

func TestPublish_UnfilledRootGivesTheSameTree(t *testing.T) {
	w, v, copy := newWorld(t), newVolume(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	top := w.entries(first.Base.Root)["/"]
	check(t, os.Chmod(copy.path, 0o755))
	check(t, mark.Set(copy.path, &mark.Dir{Ref: *top.Dir, Mtime: top.Mtime}))
	check(t, mark.Set(copy.path, &mark.Tree{Root: first.Base.Root}))
	base := first.Base
	base.Local = ""
	if second := w.publish(copy.snapshot(), base); !second.Unchanged {
		t.Errorf("root %s, was %s", second.Base.Root, first.Base.Root)
	}
}

func TestPublish_PendingAndCleanFilesAreTakenUnread(t *testing.T) {
	w, v, copy := newWorld(t), newVolume(t), newVolume(t)
	data := noise(1, 2<<20)
	v.write("file", data)
	first := w.publish(v.snapshot(), Base{})
	c := w.entries(first.Base.Root)["/file"].Content
	caps := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")

	w.pending(copy, "pending", c, func(m *mark.File) { m.Flags, m.Caps = wire.FlagAppend, caps })
	// Half fetched: what a fetch writes is no change.
	w.pending(copy, "half", c, nil)
	copy.writeAt("half", data[:1<<20], 0)
	// Clean, and clean with a later change.
	for _, name := range []string{"clean", "changed"} {
		copy.write(name, data)
		m := &mark.File{State: mark.Clean, Content: *c}
		check(t, mark.Set(copy.at(name), m))
		var st unix.Stat_t
		check(t, unix.Stat(copy.at(name), &st))
		m.Done = wire.Time{Sec: st.Ctim.Sec + 1} // later than setting it again
		check(t, mark.Set(copy.at(name), m))
	}
	m, err := mark.GetFile(copy.at("changed"))
	check(t, err)
	m.Done = wire.Time{Sec: 1}
	check(t, mark.Set(copy.at("changed"), m))
	copy.writeAt("changed", []byte("new"), 0)

	r, err := w.publisher().Publish(t.Context(), w.job(copy.snapshot(), Base{}))
	// A first generation is there already; what matters here is the tree, so go on behind it.
	wantError(t, err, ErrBehind)
	base := first.Base
	base.Local = ""
	r = w.publish(copy.snapshot(), base)
	got := w.entries(r.Base.Root)
	for _, name := range []string{"pending", "half", "clean"} {
		w.wantFile(r.Base.Root, "/"+name, data)
		if !bytes.Equal(wire.EncodeContent(got["/"+name].Content), wire.EncodeContent(c)) {
			t.Errorf("%s has another content", name)
		}
	}
	e := got["/pending"]
	if e.Mtime != (wire.Time{Sec: 1_500_000_000, Nsec: 5}) || e.Flags != wire.FlagAppend ||
		len(e.Xattrs) != 1 || e.Xattrs[0].Name != capsName || !bytes.Equal(e.Xattrs[0].Value, caps) {
		t.Errorf("attributes of a pending file: %+v", e.Attr)
	}
	w.wantFile(r.Base.Root, "/changed", append([]byte("new"), data[3:]...))
	if r.Stats.BytesRead != 2<<20 {
		t.Errorf("%d bytes were read, want those of the changed file", r.Stats.BytesRead)
	}
	if r.Stats.Bytes > 300<<10 {
		t.Errorf("a change of three bytes put %d", r.Stats.Bytes)
	}
}

func TestPublish_PartlyLocalFileIsMerged(t *testing.T) {
	const chunk = wire.DefChunk
	data := noise(7, 10*chunk+5000)
	changed := func(m *mark.File) { m.Kept = false }
	punch := func(v *volume, name string, off, n int64) {
		f, err := os.OpenFile(v.at(name), os.O_WRONLY, 0)
		check(t, err)
		check(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n))
		check(t, f.Close())
	}
	tests := []struct {
		name   string
		mark   func(*mark.File)
		change func(v *volume, name string)
		want   func(b []byte) []byte
		unread bool // all but the changed windows keep their references
	}{
		{name: "sectors written", mark: changed, unread: true,
			change: func(v *volume, name string) {
				v.writeAt(name, noise(8, 2*wire.Sector), 3*chunk+5*wire.Sector)
			},
			want: func(b []byte) []byte {
				copy(b[3*chunk+5*wire.Sector:], noise(8, 2*wire.Sector))
				return b
			}},
		{name: "some fetched, some written", mark: changed,
			change: func(v *volume, name string) {
				v.writeAt(name, data[:2*chunk+wire.Sector], 0)
				v.writeAt(name, noise(9, wire.Sector), 4*chunk)
			},
			want: func(b []byte) []byte { copy(b[4*chunk:], noise(9, wire.Sector)); return b }},
		{name: "zeros listed", unread: true,
			mark: func(m *mark.File) {
				m.Kept, m.Zero = false, []wire.Range{{Off: 2*chunk + 8192, Len: 3 * chunk}, {Off: 9 * chunk, Len: wire.Sector}}
			},
			want: func(b []byte) []byte {
				clear(b[2*chunk+8192 : 5*chunk+8192])
				clear(b[9*chunk : 9*chunk+wire.Sector])
				return b
			}},
		{name: "written into listed zeros",
			mark: func(m *mark.File) { m.Kept, m.Zero = false, []wire.Range{{Off: 0, Len: 4 * chunk}} },
			change: func(v *volume, name string) {
				v.writeAt(name, noise(11, wire.Sector), 2*chunk)
				punch(v, name, chunk, chunk)
			},
			want: func(b []byte) []byte {
				clear(b[:4*chunk])
				copy(b[2*chunk:], noise(11, wire.Sector))
				return b
			}},
		{name: "truncated", mark: changed,
			change: func(v *volume, name string) { check(t, os.Truncate(v.at(name), 5*chunk+100)) },
			want:   func(b []byte) []byte { return b[:5*chunk+100] }},
		{name: "truncated and extended",
			mark: func(m *mark.File) { m.Kept, m.Valid = false, 5*chunk+wire.Sector },
			change: func(v *volume, name string) {
				check(t, os.Truncate(v.at(name), 5*chunk+wire.Sector))
				check(t, os.Truncate(v.at(name), 7*chunk+1))
			},
			want: func(b []byte) []byte { clear(b[5*chunk+wire.Sector:]); return b[:7*chunk+1] }},
		{name: "appended", mark: changed,
			change: func(v *volume, name string) {
				last := int64(len(data)) &^ (wire.Sector - 1)
				v.writeAt(name, data[last:], last) // the block with the old end is fetched first
				v.writeAt(name, noise(12, 2*chunk), int64(len(data)))
			},
			want: func(b []byte) []byte { return append(b, noise(12, 2*chunk)...) }},
		{name: "nothing valid", mark: func(m *mark.File) { m.Kept, m.Valid = false, 0 },
			want: func(b []byte) []byte { return make([]byte, len(b)) }},
		{name: "changed attributes only", mark: changed, unread: true,
			want: func(b []byte) []byte { return b }},
	}
	w, origin := newWorld(t), newVolume(t)
	origin.write("file", data)
	first := w.publish(origin.snapshot(), Base{})
	c := w.entries(first.Base.Root)["/file"].Content
	base := first.Base
	base.Local = ""
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			v := newVolume(t)
			w.pending(v, "file", c, tt.mark)
			if tt.change != nil {
				tt.change(v, "file")
			}
			w.now = w.now.Add(time.Minute)
			r := w.publish(v.snapshot(), base)
			base = r.Base
			base.Local = ""
			w.wantFile(r.Base.Root, "/file", tt.want(bytes.Clone(data)))
			if tt.unread && r.Stats.BytesRead > 4*chunk {
				t.Errorf("%d bytes were read", r.Stats.BytesRead)
			}
			if e := w.entries(r.Base.Root)["/file"]; e.Mtime == (wire.Time{Sec: 1_500_000_000, Nsec: 5}) {
				t.Error("a changed file has the modification time of its mark")
			}
		})
	}
	w.t = t
}

func TestPublish_PartlyLocalFileOfAnotherChunkSize(t *testing.T) {
	w, v, copy := newWorld(t), newVolume(t), newVolume(t)
	data := noise(3, 3<<20+17)
	v.write("file", data)
	j := w.job(v.snapshot(), Base{})
	j.ChunkSize = wire.MinChunk
	first, err := w.publisher().Publish(t.Context(), j)
	check(t, err)
	w.pending(copy, "file", w.entries(first.Base.Root)["/file"].Content, func(m *mark.File) { m.Kept = false })
	copy.writeAt("file", data[:wire.Sector], 0)
	base := first.Base
	base.Local = ""
	j = w.job(copy.snapshot(), base)
	j.ChunkSize = wire.MaxChunk
	r, err := w.publisher().Publish(t.Context(), j)
	check(t, err)
	w.wantFile(r.Base.Root, "/file", data)
	if c := w.entries(r.Base.Root)["/file"].Content; c.ChunkSize != wire.MaxChunk {
		t.Errorf("chunk size is %d", c.ChunkSize)
	}
}

func TestPublish_LinkMarksCountNamesThatAreNotFilled(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("shown", []byte("one"))
	check(t, os.Mkdir(v.at(hiddenDir), 0o700))
	check(t, os.Link(v.at("shown"), v.at(hiddenDir+"/00000000000004d2")))
	check(t, mark.Set(v.at("shown"), &mark.Link{ID: 1234, Pending: 2, Hidden: true}))
	v.write("alone", []byte("two"))
	check(t, os.Link(v.at("alone"), v.at(hiddenDir+"/00000000000004d3")))
	check(t, mark.Set(v.at("alone"), &mark.Link{ID: 1235, Hidden: true}))
	r := w.publish(v.snapshot(), Base{})
	got := w.entries(r.Base.Root)
	if e := got["/shown"]; e.Link != 1234 || e.Nlink != 3 {
		t.Errorf("link %d, %d names", e.Link, e.Nlink)
	}
	if e := got["/alone"]; e.Link != 0 || e.Nlink != 1 {
		t.Errorf("link %d, %d names", e.Link, e.Nlink)
	}
}

func TestPublish_DamagedMarkFails(t *testing.T) {
	for _, name := range []string{mark.FileName, mark.LinkName, mark.Prefix + "later"} {
		w, v := newWorld(t), newVolume(t)
		v.write("file", []byte("x"))
		check(t, unix.Setxattr(v.at("file"), name, []byte("nonsense"), 0))
		_, err := w.publisher().Publish(t.Context(), w.job(v.snapshot(), Base{}))
		wantError(t, err, mark.ErrFormat)
	}
}
