package volume

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"fractal-lazy/replica"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
)

func goldenWorking() *replica.Working {
	return &replica.Working{Subvolume: [16]byte{1, 2, 15: 255}, Files: []replica.Used{
		{Ino: 257}, {Ino: 1 << 40, Data: []wire.Range{{Off: 0, Len: usedWhole}, {Off: 1 << 30, Len: 3 * usedWhole}}},
	}}
}

func TestWorking_GoldenFileIsReadAndWritten(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "working-v1.json"))
	must(t, err)
	got, err := decodeWorking(golden)
	must(t, err)
	if want := goldenWorking(); !reflect.DeepEqual(got, want) {
		t.Errorf("reads %+v, want %+v", got, want)
	}
	b, err := encodeWorking(got)
	must(t, err)
	if !bytes.Equal(b, golden) {
		t.Errorf("writes %s", b)
	}
}

func TestWorking_RefusesWhatItCannotTrust(t *testing.T) {
	const id = `"subvolume":"0102000000000000000000000000000f"`
	for what, text := range map[string]string{
		"empty": "", "null": "null", "version": `{"version":2,` + id + `}`, "field": `{"version":1,` + id + `,"more":1}`,
		"subvolume": `{"version":1,"subvolume":"01"}`, "trailing": `{"version":1,` + id + `}{}`,
		"overlap":   `{"version":1,` + id + `,"files":[{"ino":1,"data":[[0,4096],[1,4096]]}]}`,
		"nothing":   `{"version":1,` + id + `,"files":[{"ino":1,"data":[[0,0]]}]}`,
		"overflow":  `{"version":1,` + id + `,"files":[{"ino":1,"data":[[0,18446744073709551615]]}]}`,
		"negative":  `{"version":1,` + id + `,"files":[{"ino":-1}]}`,
		"files":     `{"version":1,` + id + `,"files":[` + strings.Repeat(`{"ino":1},`, maxUsedFiles) + `{"ino":1}]}`,
		"parts":     `{"version":1,` + id + `,"files":[{"ino":1,"data":[` + strings.Repeat(`[0,1],`, maxUsedParts) + `[0,1]]}]}`,
		"of itself": `[]`,
	} {
		if w, err := decodeWorking([]byte(text)); err == nil {
			t.Errorf("%s: reads %+v", what, w)
		}
	}
}

func TestWorking_TooMuchIsCut(t *testing.T) {
	w := &replica.Working{}
	for i := range maxUsedFiles {
		u := replica.Used{Ino: 1<<50 + uint64(i)}
		for j := range maxUsedParts {
			u.Data = append(u.Data, wire.Range{Off: 1<<50 + uint64(j)<<20, Len: usedWhole})
		}
		w.Files = append(w.Files, u)
	}
	b, err := encodeWorking(w)
	must(t, err)
	got, err := decodeWorking(b)
	must(t, err)
	if len(b) > maxWorking || len(got.Files) == 0 || !reflect.DeepEqual(got.Files, w.Files[:len(got.Files)]) {
		t.Errorf("%d bytes, %d files", len(b), len(got.Files))
	}
}

func FuzzDecodeWorking(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "working-v1.json"))
	must(f, err)
	f.Add(golden)
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decodeWorking(b)
		if err != nil {
			return
		}
		again, err := encodeWorking(w)
		must(t, err)
		if got, err := decodeWorking(again); err != nil || !reflect.DeepEqual(got, w) && len(got.Files) == len(w.Files) {
			t.Fatalf("%+v comes back as %+v, %v", w, got, err)
		}
	})
}

func TestRecorder_PartsAreWholeWindowsAndBounded(t *testing.T) {
	r := newRecorder()
	r.opened(7)
	r.read(7, 3*usedWhole+1, 10)
	r.read(7, 2*usedWhole, usedWhole)
	r.read(7, 0, 1)
	want := []wire.Range{{Off: 0, Len: usedWhole}, {Off: 2 * usedWhole, Len: 2 * usedWhole}}
	if got := r.reads[7]; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for i := range uint64(maxUsedParts) {
		r.read(8, 2*i*usedWhole, 1)
	}
	if n := len(r.reads[8]); n != maxUsedParts {
		t.Errorf("%d parts", n)
	}
	r.read(8, 1<<40, 1)
	if got := r.reads[8]; len(got) != 1 || got[0].Off != 0 || got[0].Len != 1<<40+usedWhole {
		t.Errorf("too many parts are %v", got)
	}
	for i := range uint64(2 * maxUsedFiles) {
		r.opened(100 + i)
	}
	if len(r.order) != maxUsedFiles {
		t.Errorf("%d files", len(r.order))
	}
}

// trace returns the working set of the newest snapshot.
func (x *machine) trace(name string) []cid.Cid {
	x.t.Helper()
	v, err := x.lookup(name)
	must(x.t, err)
	root, err := cid.Decode(v.record().Base.Root)
	must(x.t, err)
	r := snapshot.NewReader(x.w.store, v.key.Sealer())
	top, err := r.Root(ctx(x.t), root)
	must(x.t, err)
	if !top.Trace.Defined() {
		return nil
	}
	tr, err := r.Trace(ctx(x.t), top.Trace)
	must(x.t, err)
	return tr.Blocks
}

func (x *machine) recorded(name string) *replica.Working {
	x.t.Helper()
	v, err := x.lookup(name)
	must(x.t, err)
	return v.working()
}

func TestWorking_WhatIsOpenedAfterAMountIsFetchedFirstElsewhere(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.record = 20 * time.Millisecond
	a.create("db")
	dir := a.mount("db", "1")
	shell(t, `mkdir "$1/used" "$1/other"; printf first > "$1/used/file"; printf x > "$1/other/file"; head -c 900000 /dev/urandom > "$1/other/large"`, dir)
	a.unmount("db", "1")
	a.released("db")

	dir = a.mount("db", "1")
	wantFile(t, dir+"/used/file", "first")
	a.eventually("the working set is kept", func() bool { w := a.recorded("db"); return w != nil && len(w.Files) == 1 })
	write(t, dir+"/other/file", "changed")
	a.flush("db")
	if n := len(a.trace("db")); n == 0 || n > 4 {
		t.Errorf("%d blocks of the working set, want those of two directories and a file", n)
	}
	key := a.key("db")
	a.unmount("db", "1")
	a.released("db")

	b := w.machine("b")
	b.record = 20 * time.Millisecond
	b.create("db", "privkey="+key)
	dir = b.mount("db", "1")
	wantFile(t, dir+"/used/file", "first")
	wantFile(t, dir+"/other/file", "changed")
	b.eventually("the working set of b", func() bool { return b.recorded("db") != nil })
}

func TestWorking_ASnapshotThatWaitsKeepsItsOwn(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.record = time.Hour
	a.create("db")
	dir := a.mount("db", "1")
	write(t, dir+"/f", "1")
	a.flush("db")
	w.down.Store(true)
	write(t, dir+"/f", "2")
	_, err := a.Snapshot(ctx(t), "db", false, nil)
	must(t, err)
	v, err := a.lookup("db")
	must(t, err)
	if kept, err := a.keepWorking(ctx(t), v, goldenWorking()); kept || err != nil || a.recorded("db") != nil {
		t.Errorf("kept %v, %v, while a snapshot waits for its upload", kept, err)
	}
	w.down.Store(false)
	a.flush("db")
	if kept, err := a.keepWorking(ctx(t), v, goldenWorking()); !kept || err != nil || !reflect.DeepEqual(a.recorded("db"), goldenWorking()) {
		t.Errorf("not kept: %v", err)
	}
	must(t, os.WriteFile(v.workingFile(), []byte("damaged"), 0o600))
	if got := a.recorded("db"); got != nil {
		t.Errorf("a damaged one: %+v", got)
	}
	write(t, dir+"/f", "3")
	a.flush("db")
}
