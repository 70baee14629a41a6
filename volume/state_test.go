package volume

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/config"
	"fractal-lazy/lazy"
	"fractal-lazy/seal"

	"golang.org/x/sys/unix"
)

// stateFolder is a folder of testdata as a daemon left it: on BTRFS, with subvolumes where git has plain folders, and with what git does not keep: the
// file beside-git has lines of a path, which is an empty folder, or of a path, an extended attribute and its value in base64.
//
// state-v1 was written by the program of commit bb8e631, and state-v2, with sealed keys, by that of d3721eb. They never change; a later form of the state
// gets a folder of its own beside them. Their keys were made for them and belong to nothing.
func stateFolder(t *testing.T, w *world, name string) string {
	t.Helper()
	root := filepath.Join(w.dir, "old")
	must(t, os.CopyFS(root, os.DirFS(filepath.Join("testdata", name))))
	beside, err := os.ReadFile(filepath.Join(root, "beside-git"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(string(beside)) {
		lines = append(lines, strings.Fields(line))
	}
	for _, f := range lines {
		if len(f) == 1 {
			must(t, os.MkdirAll(filepath.Join(root, f[0]), 0o700))
		}
	}
	for _, pattern := range []string{"data", filepath.Join("snapshots", "*")} {
		found, err := filepath.Glob(filepath.Join(root, "volumes", "*", pattern))
		must(t, err)
		for _, path := range found {
			plain := path + ".plain"
			must(t, os.Rename(path, plain))
			must(t, backing.CreateSubvolume(path))
			must(t, os.CopyFS(path, os.DirFS(plain)))
			must(t, os.RemoveAll(plain))
		}
	}
	for _, f := range lines {
		if len(f) == 3 {
			v, err := base64.StdEncoding.DecodeString(f[2])
			must(t, err)
			must(t, unix.Setxattr(filepath.Join(root, f[0]), f[1], v, 0))
		}
	}
	for _, pattern := range []string{"volumes/*/volume.json", "volumes/*/mounts.json", "schedule.json", "passphrase"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		must(t, err)
		for _, path := range found {
			must(t, os.Chmod(path, 0o600))
		}
	}
	return root
}

// What the release before wrote is read, shown as it was, and goes on.
func TestOpen_ReadsTheStateFolderOfVersion1(t *testing.T) {
	w := newWorld(t)
	w.down.Store(true) // nothing that it knows is at this Hive
	root := stateFolder(t, w, "state-v1")

	cfg, err := config.Load(config.Sources{Flags: map[string]string{"root": root}})
	must(t, err)
	if cfg.Hive != "https://hive.example.org" || cfg.Gateway != "https://gateway.example.org" || cfg.Token.IsZero() || cfg.Interval != 30*time.Second ||
		cfg.Metrics != "127.0.0.1:9477" || cfg.LogFormat != "json" {
		t.Errorf("settings %+v", cfg)
	}

	a := w.machine("old")
	if got := a.id().String(); got != "3efeea3d-3c5e-4d7f-8178-9eefef3c1cdd" {
		t.Errorf("machine %s", got)
	}
	var names []string
	for _, i := range a.List() {
		names = append(names, i.Name)
		if len(i.Mounts) > 0 || i.Mountpoint != "" {
			t.Errorf("%s is mounted: %+v", i.Name, i)
		}
	}
	if want := []string{"db", "fresh", "held", "lost", "yesterday"}; !slices.Equal(names, want) {
		t.Fatalf("volumes %v, want %v", names, want)
	}

	// Each key is the one that its file holds.
	found, err := filepath.Glob(filepath.Join("testdata", "state-v1", "volumes", "*", "volume.json"))
	must(t, err)
	for _, path := range found {
		b, err := os.ReadFile(path)
		must(t, err)
		var kept struct{ Name, Key string }
		must(t, json.Unmarshal(b, &kept))
		if a.key(kept.Name) != kept.Key || a.info(kept.Name).Pubkey != filepath.Base(filepath.Dir(path)) {
			t.Errorf("%s: another key", kept.Name)
		}
	}

	db := a.info("db")
	if db.State != StateUnmounted || db.Generation != 2 || db.LastReplicated == nil || db.BytesTotal != 15 {
		t.Errorf("db: %+v", db)
	}
	want := kv("interval=30s", "chunk-size=64 KiB", "compression=better", "nocow=false", "size=0", "prefetch=metadata", "fetch-timeout=30s", "takeover=released")
	for k, v := range want { // later programs may have more
		if db.Options[k] != v {
			t.Errorf("option %s of db: %q, want %q", k, db.Options[k], v)
		}
	}
	if i := a.info("fresh"); i.State != StateNew || i.Options["size"] != "21474836480" {
		t.Errorf("fresh: %+v", i)
	}
	if i := a.info("held"); i.State != StateUploading || i.Generation != 1 || i.Unpublished < 1 { // more, once the worker has looked
		t.Errorf("held: %+v", i)
	}
	lost := a.info("lost")
	if lost.State != StateFenced || lost.FencedBy != "16a82b26-ef3f-4400-b7af-fd8b1793deb0" || len(lost.Divergent) != 1 {
		t.Fatalf("lost: %+v", lost)
	}
	wantFile(t, filepath.Join(lost.Divergent[0], "f"), "diverged")
	if i := a.info("yesterday"); i.State != StateSnapshot || i.Options["snapshot"] != "1" || i.Pubkey != db.Pubkey {
		t.Errorf("yesterday: %+v", i)
	}

	// What this machine held goes on where it was, without the Hive.
	dir := a.mount("held", "1")
	wantFile(t, filepath.Join(dir, "f"), "pending")
	write(t, filepath.Join(dir, "g"), "new")
	a.unmount("held", "1")
	if i := a.info("held"); i.Unpublished < 1 {
		t.Errorf("held again: %+v", i)
	}

	// And what this program writes of it, it reads.
	a.vanish()
	a = w.machine("old")
	wantFile(t, filepath.Join(a.mount("held", "1"), "g"), "new")
	var st unix.Stat_t
	must(t, unix.Stat(a.vols["held"].recordFile(), &st))
	if st.Mode&0o777 != 0o600 {
		t.Errorf("volume.json has mode %o", st.Mode&0o777)
	}
}

// Keys are sealed, one volume was restored and is not fetched, one taken over from Buttervolume, one is a clone of it that still takes content from
// there, and one follows another machine.
func TestOpen_ReadsTheStateFolderOfVersion2(t *testing.T) {
	w := newWorld(t)
	w.down.Store(true)
	root := stateFolder(t, w, "state-v2")
	all := []string{"album", "db", "mail", "photos"}

	// Without the passphrase every volume is there, and locked; nothing is changed.
	a := w.machine("old")
	before := map[string][]byte{}
	for _, name := range all {
		if i := a.info(name); i.LockedWhy == "" {
			t.Errorf("%s is open without the passphrase: %+v", name, i)
		}
		before[name] = a.recordBytes(name)
	}
	a.vanish()

	a = w.machine("old", withPassphrase(filepath.Join(root, "passphrase")))
	var names []string
	for _, i := range a.List() {
		names = append(names, i.Name)
		if i.LockedWhy != "" || i.Mountpoint != "" {
			t.Errorf("%+v", i)
		}
	}
	if !slices.Equal(names, all) {
		t.Fatalf("volumes %v", names)
	}
	for _, name := range all {
		k, err := seal.ParsePrivkey(a.key(name))
		must(t, err)
		v := a.vols[name]
		if k.Public() != v.pub || filepath.Base(v.dir) != v.pub.String() {
			t.Errorf("%s: another key", name)
		}
		if !bytes.Contains(before[name], []byte(`"sealed_key"`)) || !bytes.Contains(a.recordBytes(name), []byte(`"sealed_key"`)) {
			t.Errorf("%s: its key is not sealed", name)
		}
	}

	if i := a.info("mail"); i.Synchronized == nil || i.Synchronized.UTC().Format(time.RFC3339Nano) != "2026-11-21T16:09:00.773839405Z" || i.Generation != 1 || i.Unpublished != 0 {
		t.Errorf("mail: %+v", i)
	}
	if r := a.vols["photos"].record(); r.Imported == nil || r.Imported.UUID != "b1bfa5c7-693b-1d41-abaa-dc74c65b769d" || r.Imported.Transid != 27 {
		t.Errorf("photos: %+v", r.Imported)
	}
	if v := a.importedFrom("b1bfa5c7-693b-1d41-abaa-dc74c65b769d"); v == nil || v.name != "photos" {
		t.Error("the volume of Buttervolume would be taken over again")
	}
	if i := a.info("db"); i.Generation != 3 || i.Newest != 3 || i.BytesRemote != 3 || i.FilesRemote != 1 || i.Options["interval"] != "1h0m0s" {
		t.Errorf("db: %+v", i)
	}
	jobs, _, err := a.Jobs("")
	must(t, err)
	var said []string
	for _, j := range jobs {
		said = append(said, fmt.Sprint(j.Volume, " ", j.Action, " ", j.Timer))
	}
	slices.Sort(said)
	if want := []string{"db purge:4h:1d:2w:2y 0 4 * * 0", "mail synchronize:all 5"}; !slices.Equal(said, want) {
		t.Errorf("jobs %q", said)
	}

	// Data and marks: what is here is read, and what is not is known as remote. (None of them was in use here, so nothing is mounted without the Hive.)
	for name, want := range map[string]string{"photos": "new\n", "album": "new\n", "mail": "mail"} {
		wantFile(t, filepath.Join(a.vols[name].data(), "f"), want)
	}
	remote := func(name string) lazy.Status {
		t.Helper()
		tree, err := backing.OpenTree(a.vols[name].data())
		must(t, err)
		defer tree.Close()
		l, err := lazy.Open(ctx(t), tree, w.store, a.vols[name].key.Sealer(), lazy.Options{Log: a.Manager.log})
		must(t, err)
		defer l.Close()
		return l.Status()
	}
	if st := remote("db"); st.Complete || st.BytesRemote != 3 {
		t.Errorf("db: %+v", st)
	}
	if st := remote("photos"); !st.Complete {
		t.Errorf("photos: %+v", st)
	}

	// And what this program writes of it, it reads.
	a.vanish()
	a = w.machine("old", withPassphrase(filepath.Join(root, "passphrase")))
	if i := a.info("photos"); i.LockedWhy != "" || i.State == StateFenced {
		t.Errorf("photos again: %+v", i)
	}
}
