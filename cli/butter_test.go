package cli

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/volume"
)

func TestPurgeArgs(t *testing.T) {
	for _, c := range [][4]string{
		{"db", "4h:1d", "db", "4h:1d"}, {"4h:1d", "db", "db", "4h:1d"}, {"2h", "db", "db", "2h"},
		{"2h", "4h:1d", "2h", "4h:1d"}, // a volume may have such a name: ours counts
		{"db", "nonsense", "db", "nonsense"},
	} {
		if name, pattern := purgeArgs(c[:2]); name != c[2] || pattern != c[3] {
			t.Errorf("%v: %s %s", c, name, pattern)
		}
	}
}

func TestPickSecond_NeverMeansAnOlderOne(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse(time.RFC3339Nano, s)
		must(t, err)
		return x
	}
	all := []volume.SnapshotInfo{
		{ID: "local", Created: at("2026-01-31T12:00:00.25Z")}, {Hash: "published", Created: at("2026-01-31T13:00:00Z")},
		{ID: "x", Created: at("2026-01-31T14:00:00.1Z")}, {ID: "y", Created: at("2026-01-31T14:00:00.2Z")},
	}
	for text, want := range map[string]string{
		"2026-01-31T12:00:00.250000": "local", "2026-01-31T12:00:00.999999": "local", "2026-01-31T13:00:00.123456": "published",
		"2026-01-31T14:00:00.200000": "y", "2026-01-31T14:00:00.300000": "", "2026-01-31T13:00:01.000000": "", "2027-01-01T00:00:00": "",
	} {
		then, err := time.Parse(butterTime, text)
		must(t, err)
		got, err := pickSecond(all, "db", text, then)
		if got != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, volume.ErrNoSnapshot) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestCommands_AsButtervolumeHasThem(t *testing.T) {
	url, token := startHive(t), newToken()
	a := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", token, "--interval", "off")
	a.run("volume", "create", "db").want(t, ExitOK)
	path := a.mounted(t, "db")
	for _, text := range []string{"one", "two"} {
		must(t, os.WriteFile(filepath.Join(path, "file"), []byte(text), 0o644))
		a.run("flush", "db").want(t, ExitOK)
		time.Sleep(1100 * time.Millisecond) // a manifest has whole seconds
	}
	a.run("volume", "umount", "db").want(t, ExitOK)
	all := decode[[]volumeSnapshots](t, a.run("snapshots", "--json").want(t, ExitOK))
	if len(all) != 1 || len(all[0].Snapshots) != 2 {
		t.Fatalf("%+v", all)
	}
	a.run("snapshots").want(t, ExitOK, "db:", "GENERATION")
	first := "db@" + all[0].Snapshots[0].Created.UTC().Format(butterTime) + ".123456"
	a.run("restore", first, "old").want(t, ExitOK, "old holds generation 1")
	a.run("restore", "db").want(t, ExitOK, "db holds generation 2")
	a.run("restore", "db@2001-01-01T00:00:00.000000").want(t, ExitUnknown, "no such snapshot")
	a.run("rm", "db@2099-01-01T00:00:00.000000").want(t, ExitUnknown, "no such snapshot") // and not the newest before
	a.run("rm", "db").want(t, ExitUsage)
	a.run("purge", "--dryrun", "4h:1d", "db").want(t, ExitOK, "keep")
	a.run("rm", first).want(t, ExitConflict, "volume old still takes content from it")
	a.run("import-buttervolume", "--from", t.TempDir()).want(t, ExitUsage, "no volumes of Buttervolume there")
}
