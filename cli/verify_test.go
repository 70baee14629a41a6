package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// blockFiles are the files of blocks of a Hive's node.
func blockFiles(t *testing.T, data string) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	must(t, filepath.WalkDir(filepath.Join(data, "ipfs", "blocks"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".data") {
			info, ierr := d.Info()
			must(t, ierr)
			out[path] = info.Size()
		}
		return err
	}))
	return out
}

func TestVerify_FindsWhatTheStoreLostAndWhatItSpoilt(t *testing.T) {
	data := t.TempDir()
	hive := start(t, nil, "hive", "--listen", "127.0.0.1:0", "--data", data)
	eventually(t, "the hive prints its URL", func() bool { return strings.HasSuffix(hive.stdout(), "\n") })
	url := strings.TrimSpace(hive.stdout())
	d := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
	d.run("volume", "create", "db", "-o", "compression=none").want(t, ExitOK)
	d.run("verify", "db").want(t, ExitUnknown, "nothing of the volume is published yet")
	path := strings.TrimSpace(d.run("volume", "mount", "db").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "small"), []byte("a few bytes"), 0o644))
	d.run("flush", "db").want(t, ExitOK)
	before := blockFiles(t, data)
	must(t, os.WriteFile(filepath.Join(path, "large"), []byte(strings.Repeat("0123456789abcdef", 256<<10/16)), 0o644))
	d.run("flush", "db").want(t, ExitOK)

	v := decode[volume.Verification](t, d.run("verify", "db", "--all", "--json").want(t, ExitOK))
	if !v.OK || !v.Pinned || v.Snapshot.Generation != 2 || v.Sample != 1 || v.Files != 2 || v.Blocks != 2 || v.Content != 11+256<<10 {
		t.Errorf("%+v", v)
	}
	if v := decode[volume.Verification](t, d.run("verify", "db", "1", "--sample", "50", "--json").want(t, ExitOK)); !v.OK || v.Snapshot.Generation != 1 || v.Sample != 0.5 || v.Files != 1 {
		t.Errorf("%+v", v)
	}
	d.run("verify", "db", "--all").want(t, ExitOK, "generation 2", "all of their content", "ok: nothing is missing")
	d.run("verify", "db").want(t, ExitOK, "a sample of 5%")
	d.run("verify", "db", "7").want(t, ExitUnknown, "no snapshot")
	d.run("verify", "db", "yesterday").want(t, ExitUsage, "neither a generation")
	d.run("verify", "db", "--sample", "0").want(t, ExitUsage, "--sample")
	d.run("verify", "db", "--all", "--sample", "5").want(t, ExitUsage, "cannot go together")
	d.run("verify", "nothing").want(t, ExitUnknown, "no such volume")

	var large string
	for file, size := range blockFiles(t, data) {
		if _, old := before[file]; !old && size > 256<<10 {
			large = file
		}
	}
	whole, err := os.ReadFile(large)
	must(t, err)
	spoilt := append([]byte{}, whole...)
	spoilt[1000] ^= 4
	must(t, os.WriteFile(large, spoilt, 0o644))
	r := d.run("verify", "db", "--all").want(t, ExitDamaged)
	if !strings.Contains(r.out, `SPOILT`) || !strings.Contains(r.out, `file "/large": 1 blocks`) || strings.Contains(r.out, "/small") || !strings.Contains(r.err, "damaged in the block store") {
		t.Errorf("a spoilt block: %q, %q", r.out, r.err)
	}
	must(t, os.Remove(large))
	v = decode[volume.Verification](t, d.run("verify", "db", "--all", "--json").want(t, ExitDamaged))
	if v.OK || len(v.Damage) != 1 || v.Damage[0].Kind != "missing" || v.Damage[0].Path != "/large" || v.Damage[0].Dir {
		t.Errorf("%+v", v)
	}
	d.run("verify", "db", "1", "--all").want(t, ExitOK) // it never had that file
	must(t, os.WriteFile(large, whole, 0o644))
	d.run("verify", "db", "--all").want(t, ExitOK)

	d.run("volume", "umount", "db").want(t, ExitOK)
	// A store that does not answer has not lost anything.
	if code := hive.term(); code != ExitOK {
		t.Errorf("the hive ended with %d", code)
	}
	r = d.run("verify", "db", "--all", "--json").want(t, ExitNotReady)
	if e := decode[control.Event](t, r); e.Code != control.CodeNotReady {
		t.Errorf("%+v", e)
	}
}
