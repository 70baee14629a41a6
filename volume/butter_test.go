package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fractal-lazy/schedule"
)

// butterDir lays a folder out as Buttervolume does, with the commands that it runs itself, on the file system of the pool: a volume "db" with
// three snapshots and a later present state, one of the snapshots sent to a host.
func butterDir(t *testing.T, w *world) string {
	t.Helper()
	dir := filepath.Join(w.dir, "buttervolume")
	shell(t, `mkdir -p "$1/volumes" "$1/snapshots" "$1/config" && cd "$1" && btrfs -q subvolume create volumes/db
		seq 1 100000 >volumes/db/same
		i=0; for at in 2024-01-31T12:00:00.123456 2024-02-29T00:00:00.000001 2025-12-31T23:59:59.999999; do
			i=$((i+1)); echo $i >volumes/db/f; btrfs -q subvolume snapshot -r volumes/db snapshots/db@$at
		done
		btrfs -q subvolume snapshot -r snapshots/db@$at snapshots/db@$at@nas.example.org
		btrfs -q subvolume snapshot -r volumes/db snapshots/db@before-the-upgrade
		btrfs -q subvolume snapshot -r volumes/db snapshots/gone@2024-01-31T12:00:00.123456
		echo now >volumes/db/f`, dir)
	return dir
}

// anyRemote takes every name, and reaches none.
type anyRemote struct{}

func (anyRemote) Check(string) error { return nil }

func (anyRemote) Open(context.Context, string) (*Remote, error) { return nil, errors.New("no network") }

func (x *machine) importButter(o ButterOptions) ButterResult {
	x.t.Helper()
	r, err := x.ImportButtervolume(ctx(x.t), o)
	must(x.t, err)
	return r
}

func butterNote(v ButterVolume, text string) bool {
	return slices.ContainsFunc(v.Notes, func(n string) bool { return strings.Contains(n, text) })
}

func TestImportButtervolume_ItsSnapshotsAreGenerationsAtTheirTimesOnAnotherMachine(t *testing.T) {
	w := newWorld(t)
	dir := butterDir(t, w)
	a := w.machine("a")
	o := ButterOptions{From: dir, DryRun: true}
	r := a.importButter(o)
	if len(r.Volumes) != 2 || r.Volumes[0].Status != ButterWould || r.Volumes[0].Snapshots != 3 || !butterNote(r.Volumes[0], "before-the-upgrade is left out") ||
		r.Volumes[1].Status != ButterLeftOut || !butterNote(r.Volumes[1], "buttervolume restore gone") {
		t.Fatalf("%+v", r)
	}
	if len(a.List()) != 0 {
		t.Fatal("a dry run made a volume")
	}
	o.DryRun = false
	if r = a.importButter(o); r.Volumes[0].Status != ButterImported || r.Failed != 0 {
		t.Fatalf("%+v", r)
	}
	a.released("db")
	wantFile(t, filepath.Join(dir, "volumes", "db", "f"), "now\n")

	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	all, err := b.Snapshots(ctx(t), "db")
	must(t, err)
	var times []string
	for i, s := range all {
		if s.Generation != uint64(i+1) || !s.Remote {
			t.Errorf("%d: %+v", i, s)
		}
		times = append(times, s.Created.UTC().Format(time.RFC3339))
	}
	if len(times) != 4 || !slices.Equal(times[:3], []string{"2024-01-31T12:00:00Z", "2024-02-29T00:00:00Z", "2025-12-31T23:59:59Z"}) {
		t.Fatal(times)
	}
	// What did not change is not uploaded again.
	for _, s := range all[1:] {
		if s.Size > all[0].Size/4 {
			t.Errorf("generation %d added %d bytes, the first one %d", s.Generation, s.Size, all[0].Size)
		}
	}
	path := b.mount("db", "1")
	wantFile(t, filepath.Join(path, "f"), "now\n")
	b.unmount("db", "1")
	b.released("db")
	_, err = b.Restore(ctx(t), "db", "2024-03-01 00:00")
	must(t, err)
	path = b.mount("db", "1")
	wantFile(t, filepath.Join(path, "f"), "2\n")
	shell(t, `seq 1 100000 | cmp - "$1/same"`, path)
	b.unmount("db", "1")
}

func TestImportButtervolume_AgainImportsNothingTwiceAndTellsOfLaterChanges(t *testing.T) {
	w := newWorld(t)
	dir := butterDir(t, w)
	a := w.machine("a")
	o := ButterOptions{From: dir, Volumes: []string{"db=data"}}
	a.importButter(o)
	again := func(changed bool) {
		t.Helper()
		r := a.importButter(ButterOptions{From: dir})
		if v := r.Volumes[0]; v.Status != ButterAlready || v.As != "data" || butterNote(v, "was written to after") != changed {
			t.Errorf("changed %v: %+v", changed, v)
		}
		if n := len(a.List()); n != 1 {
			t.Errorf("%d volumes", n)
		}
	}
	again(false)
	a.vanish()
	a = w.machine("a")
	again(false)
	shell(t, `echo later >"$1/volumes/db/f"`, dir)
	again(true)
}

// What a crash leaves before the folder has its name is thrown away, and the next import makes the volume.
func TestImportButtervolume_AfterACrashInTheMiddle(t *testing.T) {
	w := newWorld(t)
	dir := butterDir(t, w)
	a := w.machine("a")
	a.importButter(ButterOptions{From: dir})
	v, err := a.lookup("db")
	must(t, err)
	home := v.dir
	a.vanish()
	must(t, os.Rename(home, home+importSuffix)) // as it was before step 3
	a = w.machine("a")
	if _, err := a.Get("db"); !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
	if exists(home + importSuffix) {
		t.Error("the half-made volume is still there")
	}
	if r := a.importButter(ButterOptions{From: dir}); r.Volumes[0].Status != ButterImported {
		t.Fatalf("%+v", r)
	}
	a.released("db")
	if i := a.info("db"); i.Generation != 4 {
		t.Errorf("%+v", i)
	}
}

func TestImportButtervolume_SaysWhatItCannotTakeOver(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "buttervolume")
	shell(t, `mkdir -p "$1/volumes" && cd "$1/volumes" && for v in _odd nested taken used; do btrfs -q subvolume create $v; done
		btrfs -q subvolume create nested/inner; mkdir -p "$1/container" && mount --bind used "$1/container"`, dir)
	defer shell(t, `umount "$1/container"`, dir)
	a := w.machine("a")
	a.create("taken")
	r := a.importButter(ButterOptions{From: dir})
	want := map[string]struct{ status, note string }{
		"_odd":   {ButterFailed, "'_odd=NEW'"},
		"nested": {ButterFailed, "holds 1 subvolumes"},
		"taken":  {ButterFailed, "taken=NEW"},
		"used":   {ButterImported, "a container uses the original"},
	}
	if r.Failed != 3 || len(r.Volumes) != len(want) {
		t.Fatalf("%+v", r)
	}
	for _, v := range r.Volumes {
		if x := want[v.Name]; v.Status != x.status || !butterNote(v, x.note) {
			t.Errorf("%+v", v)
		}
	}
	if r := a.importButter(ButterOptions{From: dir, Volumes: []string{"_odd=odd"}}); r.Volumes[0].Status != ButterImported || len(r.Volumes[0].Notes) != 0 {
		t.Errorf("%+v", r)
	}
	for _, o := range []ButterOptions{
		{From: t.TempDir()}, {From: "relative"}, {From: dir, Zone: "Mars/Crater"}, {From: dir, Volumes: []string{"used", "used=x"}},
		{From: dir, Schedule: filepath.Join(dir, "none.csv")},
	} {
		if _, err := a.ImportButtervolume(ctx(t), o); !errors.Is(err, ErrOption) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	// Another file system: refused, with what to do.
	other := t.TempDir()
	must(t, os.Mkdir(filepath.Join(other, "volumes"), 0o755))
	if _, err := a.ImportButtervolume(ctx(t), ButterOptions{From: other}); !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), "btrfs send") {
		t.Error(err)
	}
}

func TestImportButtervolume_KeepsNoCOW(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "buttervolume")
	shell(t, `mkdir -p "$1/volumes" && cd "$1/volumes" && btrfs -q subvolume create vm && chattr +C vm && btrfs -q subvolume create zip && chattr +c zip`, dir)
	a := w.machine("a")
	a.importButter(ButterOptions{From: dir})
	for name, flag := range map[string]uint32{"vm": flagNoCOW, "zip": 4 /* FS_COMPR_FL */} {
		v, err := a.lookup(name)
		must(t, err)
		flags, err := rootFlags(v.data())
		must(t, err)
		if flags&flag == 0 {
			t.Errorf("%s: flags %#x", name, flags)
		}
	}
	if o := a.info("vm").Options["nocow"]; o != "true" {
		t.Errorf("nocow=%s", o)
	}
}

func TestImportButtervolume_Schedule(t *testing.T) {
	w := newWorld(t)
	dir := butterDir(t, w)
	a := w.machine("a", func(_ *Options, d *Deps) { d.Remotes = anyRemote{} })
	must(t, os.WriteFile(filepath.Join(dir, "config", "schedule.csv"), []byte("db,snapshot,60,True\r\ndb,purge:2h:2h,1440,False\r\n"+
		"db,replicate:nas.example.org,30,True\r\ndb,\"synchronize:a,b\",60,True\r\nother,snapshot,5,True\r\n"), 0o644))
	r := a.importButter(ButterOptions{From: dir, Volumes: []string{"db=data"}})
	status := func(r ButterResult) (out []string) {
		for _, j := range r.Jobs {
			out = append(out, j.Status)
		}
		return out
	}
	if got := status(r); !slices.Equal(got, []string{ButterImported, ButterImported, ButterImported, ButterLeftOut, ButterLeftOut}) {
		t.Fatalf("%+v", r.Jobs)
	}
	jobs, _, err := a.Jobs("data")
	must(t, err)
	got := map[string]string{}
	for _, j := range jobs {
		got[j.Action] = fmt.Sprint(j.Timer, j.Paused)
	}
	for action, want := range map[string]string{"snapshot": "60false", "purge:2h": "1440true", "replicate:ssh://root@nas.example.org": "30false"} {
		if got[action] != want {
			t.Errorf("%s: %q", action, got[action])
		}
	}
	must(t, a.SetJob("data", "purge:2h", timerResume)) // it stays as the user wants it now
	a.importButter(ButterOptions{From: dir})
	jobs, _, err = a.Jobs("data")
	must(t, err)
	if slices.ContainsFunc(jobs, func(j schedule.Listed) bool { return j.Paused }) || len(jobs) != 3 {
		t.Errorf("%+v", jobs)
	}
}

func TestParseButterSnap(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	must(t, err)
	s, ok := parseButterSnap("a.b-c@2026-07-31T12:00:00.123456@nas", paris)
	if !ok || s.volume != "a.b-c" || s.host != "nas" || !s.at.Equal(time.Date(2026, 7, 31, 10, 0, 0, 123456000, time.UTC)) {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{"", "db", "db@", "db@now", "@", "db@2026-13-01T00:00:00.000000", "db@1969-01-01T00:00:00.000000"} {
		if s, ok := parseButterSnap(bad, time.UTC); ok {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

func TestParseButterJobs(t *testing.T) {
	for _, bad := range []string{"db\n", "db,snapshot\n", "a,b,c,d,e\n", "\"open"} {
		if j, err := parseButterJobs(bad, false); err == nil {
			t.Errorf("%q: %+v", bad, j)
		}
	}
	jobs, err := parseButterJobs("db,snapshot,60,True\ndb,purge:1d,60,False\ndb,nonsense,1,True\n", true)
	must(t, err)
	if len(jobs) != 3 || !jobs[0].Paused || !jobs[1].Paused || jobs[2].As != "" || jobs[2].Note == "" {
		t.Errorf("%+v", jobs)
	}
}

// What was read of a schedule never breaks the import, and each job says what it is here.
func FuzzParseButterJobs(f *testing.F) {
	for _, s := range []string{"db,snapshot,60,True\ndb,purge:1d:1y,60,False\n", "db,purge:2h:2h,120,True\n", "db,replicate:nas.example.org,1,True\n",
		"db,synchronize:a,b,1\n", "\"a\"\"b\",snapshot,0\n", "db,snapshot\n", "\"open", "\xff,\x00,1,True\r\n"} {
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, paused bool) {
		jobs, err := parseButterJobs(text, paused)
		if err != nil {
			return
		}
		for _, j := range jobs {
			if j.As == "" && j.Note == "" {
				t.Errorf("left out, and nobody is told why: %+v", j)
			}
			if paused && !j.Paused {
				t.Errorf("all are held, and this one runs: %+v", j)
			}
		}
	})
}
