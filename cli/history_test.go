package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/volume"
)

// mounted mounts a volume and returns where.
func (d *device) mounted(t *testing.T, name string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(d.run("volume", "mount", name).want(t, ExitOK).out), "\n")
	return lines[len(lines)-1]
}

func TestCommands_TimeMachine(t *testing.T) {
	url, token := startHive(t), newToken()
	a := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", token, "--interval", "off")
	a.run("volume", "create", "db").want(t, ExitOK)
	path := a.mounted(t, "db")
	for _, text := range []string{"one", "two"} {
		must(t, os.WriteFile(filepath.Join(path, "file"), []byte(text), 0o644))
		a.run("flush", "db").want(t, ExitOK)
	}
	a.run("restore", "db", "1").want(t, ExitConflict, "in use", "unmount it first")
	a.run("volume", "umount", "db").want(t, ExitOK)
	a.run("restore", "db", "7").want(t, ExitUnknown, "no such snapshot", "there are 2")
	a.run("restore", "db", "yesterday").want(t, ExitUnknown, "RFC3339")
	a.run("restore", "no", "1").want(t, ExitUnknown, "no such volume")
	a.run("restore").want(t, ExitUsage)
	r := decode[volume.RestoreResult](t, a.run("restore", "db", "1", "--json").want(t, ExitOK))
	if r.From.Generation != 1 || r.Kept.Generation != 2 {
		t.Errorf("%+v", r)
	}
	path = a.mounted(t, "db")
	if b, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(b) != "one" {
		t.Errorf("%q, %v", b, err)
	}
	a.run("volume", "umount", "db").want(t, ExitOK)
	a.run("restore", "db", "2").want(t, ExitOK, "db holds generation 2", "fractal-lazy restore db ")
	a.run("restore", "db", "1", "db-before").want(t, ExitOK, "db-before holds generation 1", "key of its own")
	a.run("clone", "db", "db-now").want(t, ExitOK, "db-now holds what db held")
	a.run("clone", "db", "db-now").want(t, ExitConflict, "exists")
	a.run("clone", "db", "/abs").want(t, ExitUsage)
	a.run("clone", "no", "other").want(t, ExitUnknown)
	for name, want := range map[string]string{"db-before": "one", "db-now": "two"} {
		path = a.mounted(t, name)
		if b, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		a.run("hydrate", "--wait", name).want(t, ExitOK)
		a.run("volume", "umount", name).want(t, ExitOK)
	}
	a.run("diff", "db", "1", "2").want(t, ExitOK, `M file   "/file"`, "1 changes from generation 1")
	a.run("diff", "db", "2", "2").want(t, ExitOK, "0 changes")
	a.run("diff", "db", "2", "99").want(t, ExitUnknown, "no such snapshot")
	a.run("diff", "db", "2", "now").want(t, ExitOK, "0 changes from generation 2", "to what is there now")
	a.run("diff", "db", "1", "now").want(t, ExitOK, `M file   "/file"`, "1 changes from generation 1")
	if r := decode[struct {
		Changes []volume.Change
		Result  volume.DiffResult
	}](t, a.run("diff", "--json", "db", "1", "2").want(t, ExitOK)); len(r.Changes) != 1 || r.Result.Changes != 1 || r.Changes[0].Kind != "changed" {
		t.Errorf("%+v", r)
	}
	dir := t.TempDir()
	a.mounted(t, "db")
	a.run("hydrate", "--wait", "db").want(t, ExitOK)
	a.run("flush", "db").want(t, ExitOK)
	a.run("browse", "db", "1", dir).want(t, ExitOK, "generation 1", dir)
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "one" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err == nil {
		t.Error("a snapshot can be written to")
	}
	a.run("browse", "--end", "db", "1", dir).want(t, ExitOK)
	a.run("browse", "--end", "db", "1").want(t, ExitUnknown, "nobody browses")
	a.run("browse", "db", "99").want(t, ExitUnknown, "no such snapshot")

	a.run("purge", "db", "2h:2h").want(t, ExitUsage, "use \"2h\"")
	// Times are whole seconds: the first has to be older than none.
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if strings.Contains(a.run("purge", "db", "0h", "--dry-run").want(t, ExitOK).out, "would remove") {
			break
		}
	}
	a.run("purge", "db", "0h", "--dry-run").want(t, ExitOK, "would remove", "older than 0h", "it is the newest")
	n := len(decode[[]volume.SnapshotInfo](t, a.run("snapshots", "db", "--json").want(t, ExitOK)))
	res := decode[volume.PurgeResult](t, a.run("purge", "db", "0h", "--remote", "--json").want(t, ExitOK))
	if left := decode[[]volume.SnapshotInfo](t, a.run("snapshots", "db", "--json").want(t, ExitOK)); res.Removed == 0 || len(left) != n-res.Removed {
		t.Errorf("%d removed, %d of %d left", res.Removed, len(left), n)
	}
	a.run("rm", "db", "1").want(t, ExitUnknown)
	a.run("snapshots", "--local", "db").want(t, ExitOK, "TIME", "WHERE")
}

// TestCommands_DiffWithoutAHive compares in a volume that never uploads.
func TestCommands_DiffWithoutAHive(t *testing.T) {
	a := startDevice(t, nil, "--interval", "off")
	a.run("volume", "create", "db").want(t, ExitOK)
	path := a.mounted(t, "db")
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("one"), 0o644))
	first := decode[volume.SnapshotInfo](t, a.run("snapshot", "db", "--json").want(t, ExitOK))
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("three"), 0o644))
	must(t, os.Mkdir(filepath.Join(path, "dir"), 0o755))
	want := []string{`+ dir    "/dir"  0 B, 0 files`, `M file   "/file"  5 B`, "3 changes from snapshot " + first.Local}
	a.run("diff", "db", first.Local, "now").want(t, ExitOK, append(want, "to what is there now")...)
	second := decode[volume.SnapshotInfo](t, a.run("snapshot", "db", "--json").want(t, ExitOK))
	a.run("diff", "db", first.Local, second.Local[:8]).want(t, ExitOK, append(want, "to snapshot "+second.Local)...)
	a.run("diff", "db", first.Local).want(t, ExitOK, append(want, "to snapshot "+second.Local)...)
	a.run("diff", "db", "1", "now").want(t, ExitUnknown, "no such snapshot")
	type document struct {
		Changes []volume.Change   `json:"changes"`
		Result  volume.DiffResult `json:"result"`
	}
	d := decode[document](t, a.run("diff", "db", first.Local, "now", "--json").want(t, ExitOK))
	if len(d.Changes) != 3 || d.Result.Changes != 3 || d.Result.To.Note != volume.NotePresent || d.Changes[2].Path != "/file" || d.Changes[2].Bytes != 5 {
		t.Errorf("%+v", d)
	}
}
