package volume

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMount_IdsAreASet(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	if again := a.mount("db", "1"); again != dir {
		t.Fatalf("%s, then %s", dir, again)
	}
	a.mount("db", "2")
	a.unmount("db", "nobody")
	a.unmount("db", "2")
	if i := a.info("db"); len(i.Mounts) != 1 || i.Mounts[0] != "1" || i.Mountpoint != dir {
		t.Fatalf("%+v", i)
	}
	v, err := a.lookup("db")
	must(t, err)
	if ids := v.readIDs(); len(ids.IDs) != 1 || ids.Boot != bootID() {
		t.Fatalf("%+v", ids)
	}
	if err := a.Remove(ctx(t), "db", true); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	a.unmount("db", "1")
	a.unmount("db", "1")
	if i := a.info("db"); i.Mountpoint != "" || len(i.Mounts) != 0 {
		t.Fatalf("%+v", i)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("mount point stays: %v", err)
	}
}

func TestMount_ManyAtOnceShareOneMount(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	c := ctx(t)
	for round := range 5 {
		var wg sync.WaitGroup
		for i := range 8 {
			id := string(rune('a' + i))
			wg.Go(func() {
				path, err := a.Mount(c, "db", id)
				if err == nil {
					err = os.WriteFile(filepath.Join(a.root, "seen-"+id), []byte(path), 0o600)
				}
				if err == nil {
					err = a.Unmount(c, "db", id)
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
	a.released("db")
	if i := a.info("db"); i.Mountpoint != "" || i.State != StateUnmounted {
		t.Fatalf("%+v", i)
	}
}

func TestMount_AbandonedOneGoesOnAndIsTakenDownLater(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	v, err := a.lookup("db")
	must(t, err)
	must(t, v.enter(ctx(t), stepSnapshot)) // something holds the mount up
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Mount(short, "db", "1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	a.answer = 50 * time.Millisecond
	if _, err := a.Mount(ctx(t), "db", "1"); !errors.Is(err, ErrBusy) {
		t.Fatalf("%v", err)
	}
	if s := a.info("db").State; s != StatePreparing {
		t.Fatalf("state %s", s)
	}
	v.leave()
	a.eventually("mounted", func() bool { return a.info("db").Mountpoint != "" })
	v.mutate(func() { v.since = v.since.Add(-linger) })
	a.poke()
	a.eventually("taken down", func() bool { return a.info("db").Mountpoint == "" })
	a.released("db")
}

func TestUnmount_OfAMountInUseEndsWithItsUser(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.busy = 200 * time.Millisecond
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "x")
	user := exec.Command("sh", "-c", "exec 3<f; echo; read x")
	user.Dir = dir
	stdin, err := user.StdinPipe()
	must(t, err)
	out, err := user.StdoutPipe()
	must(t, err)
	must(t, user.Start())
	_, err = out.Read(make([]byte, 1))
	must(t, err)

	// Where the kernel's control files are mounted the user is cut off, else it is waited for.
	err = a.Unmount(ctx(t), "db", "1")
	if err != nil && !errors.Is(err, ErrInUse) {
		t.Fatal(err)
	}
	shell(t, `if grep -q " $1 " /proc/mounts; then exit 1; fi`, dir)
	if err != nil {
		if _, err := a.Mount(ctx(t), "db", "2"); !errors.Is(err, ErrBusy) {
			t.Fatalf("%v", err)
		}
	}
	stdin.Close()
	user.Wait()
	v, err := a.lookup("db")
	must(t, err)
	v.mutate(func() { v.since = v.since.Add(-linger) })
	a.poke()
	a.eventually("taken down", func() bool { return a.info("db").Mountpoint == "" })
	a.released("db")
	wantFile(t, filepath.Join(a.mount("db", "3"), "f"), "x")
}

func TestMount_ForeignNamesAndIdsAreRefused(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	for _, name := range []string{"", "../../evil", "/abs", "-x", ".x", "a b", strings.Repeat("x", 201), "a\n"} {
		if err := a.Create(ctx(t), name, nil); !errors.Is(err, ErrName) {
			t.Fatalf("%q: %v", name, err)
		}
		if _, err := a.Get(name); !errors.Is(err, ErrName) {
			t.Fatalf("%q: %v", name, err)
		}
	}
	a.create("db")
	for _, id := range []string{"", strings.Repeat("x", 257)} {
		if _, err := a.Mount(ctx(t), "db", id); err == nil {
			t.Fatalf("id of %d bytes was taken", len(id))
		}
	}
	if _, err := a.Mount(ctx(t), "nobody", "1"); !errors.Is(err, ErrUnknown) {
		t.Fatalf("%v", err)
	}
}

func TestCreate_IsIdempotentAndKeepsNamesAndKeysApart(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "size=1GiB")
	a.create("db", "size=1GiB")
	a.create("db", "size=1GiB", "privkey="+a.key("db"))
	if err := a.Create(ctx(t), "db", kv("size=2GiB")); !errors.Is(err, ErrExists) {
		t.Fatalf("%v", err)
	}
	err := a.Create(ctx(t), "twin", kv("privkey="+a.key("db")))
	if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "volume db has this key") {
		t.Fatalf("%v", err)
	}
	if err := a.Create(ctx(t), "x", kv("privkey=nonsense-that-is-no-key")); !errors.Is(err, ErrOption) || strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("%v", err)
	}
	if i := a.info("db"); i.Options["size"] != "1073741824" || i.Options["privkey"] != "" {
		t.Fatalf("%+v", i)
	}
	if st, err := os.Stat(filepath.Join(a.root, "volumes", a.info("db").Pubkey, "volume.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st, err)
	}
	if strings.Contains(*a.log.text.Load(), a.key("db")) {
		t.Fatal("the key is in the log")
	}
}

func TestRemove_MovesEverythingToTheTrashAndForgets(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a", func(o *Options, _ *Deps) { o.Trash = time.Hour })
	a.create("db")
	key, pub := a.key("db"), a.info("db").Pubkey
	write(t, filepath.Join(a.mount("db", "1"), "f"), "x")
	a.unmount("db", "1")
	a.released("db")
	must(t, a.Remove(ctx(t), "db", false))
	if _, err := a.Get("db"); !errors.Is(err, ErrUnknown) {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(a.root, "volumes", pub)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	if l, _ := filepath.Glob(filepath.Join(a.root, "trash", "*", "data", "f")); len(l) != 1 {
		t.Fatalf("trash holds %v", l)
	}
	a.o.Trash = 0
	must(t, a.emptyTrash())
	if l, _ := filepath.Glob(filepath.Join(a.root, "trash", "*")); len(l) != 0 {
		t.Fatalf("trash holds %v", l)
	}
	// The Hive has it still.
	a.create("again", "privkey="+key)
	wantFile(t, filepath.Join(a.mount("again", "1"), "f"), "x")
}

func TestSize_LimitsTheVolume(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "size=4MiB", "nocow=true")
	dir := a.mount("db", "1")
	if got := shell(t, `df --block-size=1 --output=size "$1" | tail -n 1`, dir); strings.TrimSpace(got) != "4194304" {
		t.Fatalf("size %s", got)
	}
	if got := shell(t, `lsattr -d "$1"`, a.vols["db"].data()); !strings.Contains(strings.Fields(got)[0], "C") {
		t.Fatalf("flags %s", got)
	}
}

func TestInterval_SnapshotsWhatChanged(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "interval=5s")
	dir := a.mount("db", "1")
	v, err := a.lookup("db")
	must(t, err)
	due := func() {
		v.mutate(func() { v.lastSnap = v.lastSnap.Add(-5 * time.Second) })
		a.poke()
	}
	write(t, filepath.Join(dir, "f"), "1")
	due()
	a.eventually("generation 1", func() bool { return a.info("db").Generation == 1 })
	before := *a.info("db").LastReplicated
	due()
	a.eventually("known to be unchanged", func() bool { return a.info("db").LastReplicated.After(before) })
	if i := a.info("db"); i.Generation != 1 {
		t.Fatalf("%+v", i)
	}
	write(t, filepath.Join(dir, "f"), "2")
	due()
	a.eventually("generation 2", func() bool { return a.info("db").Generation == 2 })
	if n := len(v.record().Snapshots); n != 1 {
		t.Fatalf("%d local snapshots are kept", n)
	}
}

func TestView_ShowsAnOldSnapshotReadOnly(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	first := a.flush("db")
	write(t, filepath.Join(dir, "f"), "two")
	a.flush("db")
	a.create("v1", "privkey="+a.key("db"), "snapshot=1")
	a.create("v2", "privkey="+a.key("db"), "snapshot="+first.Hash)
	a.create("none", "privkey="+a.key("db"), "snapshot=99")
	if err := a.Create(ctx(t), "bad", kv("snapshot=1")); !errors.Is(err, ErrOption) {
		t.Fatalf("%v", err)
	}
	if _, err := a.Mount(ctx(t), "none", "1"); !errors.Is(err, ErrNoSnapshot) {
		t.Fatalf("%v", err)
	}
	for _, name := range []string{"v1", "v2"} {
		dir := a.mount(name, "1")
		wantFile(t, filepath.Join(dir, "f"), "one")
		shell(t, `if touch "$1/g" 2>/dev/null; then exit 1; fi`, dir)
		if i := a.info(name); i.State != StateSnapshot || i.Generation != 1 {
			t.Fatalf("%+v", i)
		}
	}
	a.unmount("v1", "1")
	a.vanish()
	w.down.Store(true) // what was shown once needs no Hive again
	a = w.machine("a")
	wantFile(t, filepath.Join(a.mount("v1", "1"), "f"), "one")
	if _, err := a.Snapshot(ctx(t), "v1", false, nil); !errors.Is(err, ErrOption) {
		t.Fatalf("%v", err)
	}
	a.unmount("v1", "1")
	must(t, a.Remove(ctx(t), "db", true))
	wantFile(t, filepath.Join(a.mount("v1", "1"), "f"), "one")
	a.unmount("v1", "1")
	must(t, a.Remove(ctx(t), "v1", false))
	must(t, a.Remove(ctx(t), "v2", false))
	must(t, a.Remove(ctx(t), "none", false))
	if l, _ := os.ReadDir(filepath.Join(a.root, "volumes")); len(l) != 0 {
		t.Fatalf("%v stays: %s", l, shell(t, `find "$1"`, a.volumes()))
	}
}

func TestOpen_OneDaemonOnly(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	second := w.machine("a")
	if err := second.Create(ctx(t), "x", nil); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "another daemon") {
		t.Fatalf("%v", err)
	}
}

func TestHealth_NamesEverything(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	h := a.Health(ctx(t))
	if !h.OK || len(h.Checks) != 9 {
		t.Fatalf("%+v", h)
	}
	w.down.Store(true)
	h = a.Health(ctx(t))
	for _, c := range h.Checks {
		if (c.Name == "hive") == c.OK {
			t.Fatalf("%+v", h)
		}
	}
}
