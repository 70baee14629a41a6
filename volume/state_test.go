package volume

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/config"

	"golang.org/x/sys/unix"
)

// stateFolder is testdata/state-v1 as a daemon left it: on BTRFS, with subvolumes where git has plain folders. The folder was
// written by the program of commit bb8e631 and never changes; a later form of the state gets a folder of its own beside it.
// Its keys were made for it and belong to nothing.
func stateFolder(t *testing.T, w *world) string {
	t.Helper()
	root := filepath.Join(w.dir, "old")
	from := filepath.Join("testdata", "state-v1")
	must(t, os.CopyFS(root, os.DirFS(from)))
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
	for _, name := range []string{"volume.json", "mounts.json"} {
		found, err := filepath.Glob(filepath.Join(root, "volumes", "*", name))
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
	root := stateFolder(t, w)

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
