package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/archive"
	"fractal-lazy/hive"

	"github.com/google/uuid"
)

// export returns the file of a snapshot.
func (x *machine) export(name, text string) []byte {
	x.t.Helper()
	var b bytes.Buffer
	must(x.t, x.Export(ctx(x.t), name, text, func(Exported) io.Writer { return &b }))
	return b.Bytes()
}

func (x *machine) imports(name string, file []byte) Imported {
	x.t.Helper()
	i, err := x.Import(ctx(x.t), name, bytes.NewReader(file), nil)
	must(x.t, err)
	return i
}

// exported is a volume with two generations on machine a, both exported.
func exported(t *testing.T, w *world) (a *machine, one, two []byte) {
	t.Helper()
	a = w.machine("a")
	a.create("db", "compression=none")
	path := a.mount("db", "1")
	write(t, filepath.Join(path, "file"), "first")
	shell(t, `mkdir "$1/d"; dd if=/dev/urandom of="$1/d/big" bs=64k count=20 2>&1; cp "$1/d/big" "$1/d/twin"`, path)
	a.flush("db")
	write(t, filepath.Join(path, "file"), "second")
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	return a, a.export("db", "1"), a.export("db", "")
}

func TestImport_BringsTheVolumeToAnotherHiveAndStore(t *testing.T) {
	w := newWorld(t)
	a, one, two := exported(t, w)
	if !bytes.Equal(two, a.export("db", "2")) {
		t.Error("one snapshot makes two files")
	}
	key := a.key("db")
	if bytes.Contains(two, []byte(key)) || bytes.Contains(two, []byte("second")) {
		t.Error("the file shows what is secret")
	}
	other := newWorld(t)
	b := other.machine("b")
	b.create("db", "privkey="+key)
	// The Hive lacks generation 1, so this is a new manifest.
	if i := b.imports("db", two); i.Generation != 2 || !i.Made || !i.Newest || i.Known || i.Blocks == 0 {
		t.Errorf("%+v", i)
	}
	if i := b.imports("db", one); i.Generation != 1 || i.Made || i.Newest || i.Known { // below it
		t.Errorf("%+v", i)
	}
	if i := b.imports("db", one); !i.Known || i.Newest {
		t.Errorf("again: %+v", i)
	}
	if wr := b.writer("db"); wr != nil {
		t.Errorf("the volume is held by %s", wr)
	}
	path := b.mount("db", "1")
	wantFile(t, filepath.Join(path, "file"), "second")
	shell(t, `cmp "$1/d/big" "$1/d/twin"`, path)
	write(t, filepath.Join(path, "more"), "x")
	if s := b.flush("db"); s.Generation != 3 {
		t.Errorf("%+v", s)
	}
	b.unmount("db", "1")
	b.released("db")
	if _, err := b.Restore(ctx(t), "db", "1"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(b.mount("db", "1"), "file"), "first")
}

func TestImport_PostsTheOldManifestsInTheirOrder(t *testing.T) {
	a, one, two := exported(t, newWorld(t))
	key := a.key("db")
	b := newWorld(t).machine("b")
	b.create("db", "privkey="+key)
	for n, file := range [][]byte{one, two} {
		if i := b.imports("db", file); i.Generation != uint64(n+1) || i.Made || !i.Newest {
			t.Errorf("%+v", i)
		}
	}
	wantFile(t, filepath.Join(b.mount("db", "1"), "file"), "second")
}

func TestImport_BadFileIsRefusedAndNothingBecomesKnown(t *testing.T) {
	a, _, file := exported(t, newWorld(t))
	key := a.key("db")
	w := newWorld(t)
	b := w.machine("b")
	b.create("db", "privkey="+key)
	b.create("stranger")
	flip := bytes.Clone(file)
	flip[len(flip)/2] ^= 1
	blocks := sections(t, file)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	missing := join(append(append([][]byte{}, blocks[:len(blocks)/2]...), blocks[len(blocks)/2+1:]...)...)
	for what, x := range map[string]struct {
		file []byte
		is   error
	}{
		"empty": {nil, archive.ErrCut}, "no CAR": {[]byte(strings.Repeat("no CAR ", 1000)), archive.ErrFormat},
		"cut within a block": {file[:len(file)-7], archive.ErrCut}, "cut between blocks": {join(blocks[:len(blocks)-1]...), archive.ErrCut},
		"cut behind the head": {join(blocks[:2]...), archive.ErrCut}, "cut in the header": {file[:20], archive.ErrFormat},
		"flipped": {flip, archive.ErrDamaged}, "missing": {missing, archive.ErrDamaged}, "more": {join(file, blocks[3]), archive.ErrDamaged},
	} {
		if _, err := b.Import(ctx(t), "db", bytes.NewReader(x.file), nil); !errors.Is(err, x.is) || !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := b.Import(ctx(t), "stranger", bytes.NewReader(file), nil); !errors.Is(err, ErrOption) || !errors.Is(err, archive.ErrKey) {
		t.Errorf("wrong key: %v", err)
	}
	broken := errors.New("the disk is broken")
	if _, err := b.Import(ctx(t), "db", io.MultiReader(bytes.NewReader(file[:len(file)/2]), failing{broken}), nil); !errors.Is(err, broken) || errors.Is(err, ErrArchive) {
		t.Errorf("a reader that fails: %v", err)
	}
	v, err := b.lookup("db")
	must(t, err)
	if _, err := w.hive.Volume(ctx(t), v.pub); !errors.Is(err, hive.ErrNotFound) {
		t.Errorf("the Hive knows the volume: %v", err)
	}
	root, err := archive.NewReader(bytes.NewReader(file), v.pub)
	must(t, err)
	if pinned, err := w.store.Pinned(ctx(t), root.Root); pinned || err != nil {
		t.Errorf("pinned: %v, %v", pinned, err)
	}
	b.imports("db", file)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// sections cuts a CAR into its header and its blocks.
func sections(t *testing.T, file []byte) (out [][]byte) {
	t.Helper()
	for len(file) > 0 {
		n, s := 0, 0
		for {
			c := file[n]
			s |= int(c&0x7f) << (7 * n)
			n++
			if c < 0x80 {
				break
			}
		}
		out, file = append(out, file[:n+s]), file[n+s:]
	}
	return out
}

func TestDecideImport_NothingNewerIsRolledBack(t *testing.T) {
	me, other := uuid.New(), uuid.New()
	m1 := &hive.Manifest{Generation: 1, Creation: 10, Machine: other, Size: 9, SizeTotal: 9}
	m2 := &hive.Manifest{Generation: 2, Creation: 20, Machine: other, Parent: &hive.Parent{Hash: m1.Hash()}}
	m3 := &hive.Manifest{Generation: 3, Creation: 30, Machine: other, Parent: &hive.Parent{Hash: m2.Hash()}}
	fork2 := &hive.Manifest{Generation: 2, Creation: 21, Machine: me}
	late1 := &hive.Manifest{Generation: 1, Creation: 25, Machine: me}
	seen := func(m *hive.Manifest) *record { return &record{Seen: &mark{m.Generation, m.Hash().String()}} }
	type all = []*hive.Manifest
	for what, x := range map[string]struct {
		r          *record
		data, used bool
		all        all
		writer     *uuid.UUID
		do         importWay
		gen        uint64
		newest     bool
		err        error
	}{
		"an empty Hive":                     {do: importFresh, gen: 2, newest: true},
		"its parent is there":               {all: all{m1}, do: importAsIs, gen: 2, newest: true},
		"it is there":                       {all: all{m1, m2}, do: importKnown, gen: 2, newest: true},
		"it is there, held":                 {all: all{m1, m2}, writer: &other, do: importKnown, gen: 2, newest: true},
		"it is there, and newer":            {all: all{m1, m2, m3}, do: importKnown, gen: 2},
		"newer ones, with its parent":       {all: all{m1, m3}, do: importAsIs, gen: 2},
		"newer ones, without":               {all: all{m3}, do: importAsIs, gen: 2},
		"newer ones, and its number":        {all: all{m1, fork2, m3}, err: ErrRollback},
		"another one of its number":         {all: all{fork2}, err: ErrRollback},
		"one that was made later":           {all: all{late1}, err: ErrRollback},
		"another machine":                   {all: all{m1}, writer: &other, err: ErrHeld},
		"mounted here":                      {all: all{m1}, writer: &me, used: true, err: ErrInUse},
		"mounted here, and newer":           {all: all{m1, m3}, writer: &me, used: true, do: importFresh, gen: 2},
		"not published":                     {r: &record{Snapshots: []snapRecord{{Kind: kindPending}}}, err: ErrInUse},
		"newer seen, whose data is here":    {r: seen(m3), data: true, err: ErrRollback},
		"newer seen and lost":               {r: seen(m3), do: importFresh, gen: 4, newest: true},
		"it was seen, and the Hive is lost": {r: seen(m2), data: true, do: importFresh, gen: 3, newest: true},
		"older seen":                        {r: seen(m1), data: true, all: all{m1}, do: importAsIs, gen: 2, newest: true},
	} {
		if x.r == nil {
			x.r = &record{}
		}
		d := decideImport(x.r, me, x.data, x.used, m2, x.all, x.writer)
		if d.do != x.do || d.generation != x.gen || d.newest != x.newest || !errors.Is(d.err, x.err) || (x.err == nil) != (d.err == nil) {
			t.Errorf("%s: %+v", what, d)
		}
	}
}

// An offline copy is for the day on which the snapshot is gone.
func TestImport_BringsBackWhatWasPurgedOnTheSameHive(t *testing.T) {
	w := newWorld(t)
	a, one, two := exported(t, w)
	write(t, filepath.Join(a.mount("db", "1"), "file"), "third")
	a.flush("db")
	for _, generation := range []string{"1", "2"} {
		_, err := a.RemoveSnapshot(ctx(t), "db", generation, true)
		must(t, err)
	}
	w.store.GC()
	if i := a.imports("db", two); i.Known || i.Made || i.Newest { // while the volume is in use; its parent is gone
		t.Errorf("%+v", i)
	}
	a.unmount("db", "1")
	a.released("db")
	if i := a.imports("db", one); i.Known || i.Made || i.Newest {
		t.Errorf("%+v", i)
	}
	if got := fmt.Sprint(a.generations("db")); got != "[1 2 3]" {
		t.Fatal(got)
	}
	if wr := a.writer("db"); wr != nil {
		t.Errorf("held by %s", wr)
	}
	a.restore("db", "2")
	dir := a.mount("db", "1")
	wantFile(t, filepath.Join(dir, "file"), "second")
	shell(t, `cmp "$1/d/big" "$1/d/twin"`, dir)
}

// What is not taken is not pinned either.
func TestImport_RefusedByTheHiveIsNotPinned(t *testing.T) {
	w := newWorld(t)
	a, one, _ := exported(t, w)
	_, err := a.RemoveSnapshot(ctx(t), "db", "1", true)
	must(t, err)
	v := a.vol("db")
	r, err := archive.NewReader(bytes.NewReader(one), v.pub)
	must(t, err)
	// As a Hive does that has removed another manifest of that number.
	mf := *r.Manifest
	mf.Path += "x"
	var other bytes.Buffer
	_, err = archive.Write(ctx(t), &other, w.store, v.pub, mf.Sign(v.key))
	must(t, err)
	if _, err := a.Import(ctx(t), "db", &other, nil); !errors.Is(err, ErrRollback) || !strings.Contains(err.Error(), "purged") {
		t.Errorf("%v", err)
	}
	if pinned, err := w.store.Pinned(ctx(t), r.Root); pinned || err != nil {
		t.Errorf("pinned: %v, %v", pinned, err)
	}
	if wr := a.writer("db"); wr != nil {
		t.Errorf("held by %s", wr)
	}
}
