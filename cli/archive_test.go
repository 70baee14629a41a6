package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

func TestExport_FileBringsTheVolumeToAMachineWithAnotherHive(t *testing.T) {
	url, other := startHive(t), startHive(t)
	a := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
	b := startDevice(t, nil, "--hive", other, "--ipfs", other, "--token", newToken(), "--interval", "off")
	dir := t.TempDir()
	file := filepath.Join(dir, "db.car")
	a.run("volume", "create", "db", "-o", "compression=none").want(t, ExitOK)
	a.run("export", "db", file).want(t, ExitUnknown, "nothing is published")
	path := strings.TrimSpace(a.run("volume", "mount", "db").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("text"), 0o644))
	big := bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16)
	for i := range len(big) / 4096 { // no two chunks are the same
		big[i*4096] = byte(i)
		big[i*4096+1] = byte(i >> 8)
	}
	must(t, os.WriteFile(filepath.Join(path, "big"), big, 0o644))
	a.run("flush", "db").want(t, ExitOK)
	res := decode[exportJSON](t, a.run("export", "db", file, "--json").want(t, ExitOK))
	if res.Snapshot.Generation != 1 || res.Blocks == 0 || res.Bytes < uint64(len(big)) || res.Volume != "db" {
		t.Errorf("%+v", res)
	}
	whole, err := os.ReadFile(file)
	must(t, err)
	a.run("export", "db", file).want(t, ExitConflict, "exists already")
	if r := a.run("export", "db", "1", "-").want(t, ExitOK); r.out != string(whole) {
		t.Error("standard output has another file")
	}
	a.run("export", "db", "9", filepath.Join(dir, "x")).want(t, ExitUnknown, "no such snapshot")
	a.run("export", "db", filepath.Join(dir, "no", "x")).want(t, ExitFailure, "no such file")

	keyFile := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(keyFile, []byte(a.run("key", "export", "db").want(t, ExitOK).out), 0o600))
	bad := filepath.Join(dir, "bad")
	flip := bytes.Clone(whole)
	flip[len(flip)*2/3] ^= 1
	for what, x := range map[string]struct {
		file []byte
		says string
	}{
		"cut": {whole[:len(whole)*2/3], "ends in the middle"}, "flipped": {flip, "damaged"}, "no CAR": {big, "not the offline copy"},
	} {
		must(t, os.WriteFile(bad, x.file, 0o600))
		if r := b.run("import", bad, "db", "-o", "privkey-file="+keyFile); r.code != ExitDamaged || !strings.Contains(r.err, x.says) {
			t.Errorf("%s: %d, %s", what, r.code, r.err)
		}
		b.run("volume", "inspect", "db").want(t, ExitUnknown) // it is not left behind
	}
	// One that was there before stays, and its key with it, which nobody else may have.
	b.run("volume", "create", "mine", "-o", "prefetch=none").want(t, ExitOK)
	key := b.run("key", "export", "mine").want(t, ExitOK).out
	b.run("import", file, "mine", "-o", "prefetch=none").want(t, ExitUsage, "another volume")
	must(t, os.WriteFile(bad, big, 0o600))
	b.run("import", bad, "mine", "-o", "prefetch=none").want(t, ExitDamaged)
	if again := b.run("key", "export", "mine").want(t, ExitOK).out; again != key {
		t.Error("another key")
	}
	b.run("volume", "create", "else").want(t, ExitOK)
	b.run("import", file, "else").want(t, ExitUsage, "another volume")
	b.run("import", file, "nothing").want(t, ExitUnknown)
	b.run("import", filepath.Join(dir, "nothing"), "else").want(t, ExitFailure, "no such file")
	b.run("import", "-", "db", "-o", "privkey=-").want(t, ExitUsage, "both")

	if i := decode[volume.Imported](t, b.run("import", file, "db", "-o", "privkey-file="+keyFile, "--json").want(t, ExitOK)); !i.Newest || i.Made || i.Blocks != res.Blocks || i.Bytes != res.Bytes {
		t.Errorf("%+v", i)
	}
	b.run("import", file, "db").want(t, ExitOK, "had it already", "mount the volume")
	b.run("verify", "db", "--all").want(t, ExitOK, "ok: nothing is missing")
	path = strings.TrimSpace(b.run("volume", "mount", "db").want(t, ExitOK).out)
	if got, err := os.ReadFile(filepath.Join(path, "big")); !bytes.Equal(got, big) {
		t.Errorf("the file differs, %v", err)
	}
	b.run("volume", "umount", "db").want(t, ExitOK)
}

func TestExport_FullDiskLeavesNothing(t *testing.T) {
	url := startHive(t)
	a := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
	a.run("volume", "create", "db", "-o", "compression=none").want(t, ExitOK)
	path := strings.TrimSpace(a.run("volume", "mount", "db").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "big"), bytes.Repeat([]byte("x1y2z3"), 1<<20), 0o644))
	a.run("flush", "db").want(t, ExitOK)
	small := t.TempDir()
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { must(t, unix.Unmount(small, unix.MNT_DETACH)) })
	a.run("export", "db", filepath.Join(small, "db.car")).want(t, ExitFailure, "no space left")
	if left, err := os.ReadDir(small); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	a.run("volume", "umount", "db").want(t, ExitOK)
}

// Of several exports to one name, the one that says that it made the file is right, whatever the others do meanwhile.
func TestWriteWhole_FileIsOfTheOneThatMadeIt(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		file := filepath.Join(dir, strconv.Itoa(i))
		var wg sync.WaitGroup
		made := make([]bool, 8)
		for n := range made {
			wg.Go(func() {
				made[n] = nil == writeWhole(file, func(w io.Writer) error {
					_, err := w.Write(bytes.Repeat([]byte{byte(n)}, 1000))
					return err
				})
			})
		}
		wg.Wait()
		got, err := os.ReadFile(file)
		must(t, err)
		n := slices.Index(made, true)
		if n < 0 || slices.Contains(made[n+1:], true) || !bytes.Equal(got, bytes.Repeat([]byte{byte(n)}, 1000)) {
			t.Fatalf("try %d: of %v; the file has %d bytes, of %v", i, made, len(got), got[:min(len(got), 1)])
		}
		must(t, os.Remove(file))
	}
}
