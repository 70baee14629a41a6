package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// smallPool mounts a pool of 256 MiB that only this test fills.
func smallPool(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	p := backing.LoopPool{File: filepath.Join(dir, "pool.img"), Dir: filepath.Join(dir, "pool"), Size: backing.MinPoolSize}
	must(t, p.Create(context.Background()))
	t.Cleanup(func() { must(t, unix.Unmount(p.Dir, unix.MNT_DETACH)) })
	return p.Dir
}

// fillDisk leaves no room in the file system of dir, neither for data nor for names, and returns what makes room again.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	dir = filepath.Join(dir, "fill")
	must(t, backing.CreateSubvolume(dir)) // is deleted at once
	f, err := os.Create(filepath.Join(dir, "data"))
	must(t, err)
	defer f.Close()
	end := int64(0)
	for size := int64(64 << 20); size >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, end, size); {
		case err == nil:
			end += size
		case errors.Is(err, unix.ENOSPC):
			size /= 4
		default:
			t.Fatal(err)
		}
	}
	b := randomBytes(2000) // BTRFS keeps such small files with the names
	for _, size := range []int{2000, 300, 0} {
		for n := 0; err == nil; n++ {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprint(size, "-", n)), b[:size], 0o644)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
		unix.Sync() // what is on its way to the disk takes and frees room
	}
	return func() {
		must(t, backing.DeleteSubvolume(dir))
		eventually(t, "there is room again", func() bool {
			var st unix.Statfs_t
			must(t, unix.Statfs(filepath.Dir(dir), &st))
			return int64(st.Bavail)*st.Bsize > 64<<20
		})
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b) // it never fails
	return b
}

// wantFull: a command worked all the same, or failed with a clear error. It returns whether it failed.
func wantFull(t *testing.T, r result, what ...string) bool {
	t.Helper()
	t.Logf("%v: %d %s", what, r.code, strings.TrimSpace(r.out+r.err))
	if r.code == ExitOK {
		return false
	}
	if r.code != ExitFailure && r.code != ExitNotReady || !strings.Contains(r.err, "no space left") {
		t.Errorf("%v: %d, %s", what, r.code, r.err)
	}
	return true
}

func TestCommands_OnAFullPoolSayItLoseNothingAndWorkAgain(t *testing.T) {
	url, token := startHive(t), newToken()
	backend := []string{"--hive", url, "--ipfs", url, "--token", token, "--interval", "off"}
	pool := smallPool(t)
	a := &device{t: t, root: filepath.Join(pool, "root"), socket: filepath.Join(t.TempDir(), "s.sock"), args: backend}
	must(t, os.Mkdir(a.root, 0o755))
	a.begin()
	b := startDevice(t, nil, backend...)
	key := filepath.Join(t.TempDir(), "key")
	a.run("volume", "create", "db").want(t, ExitOK)
	must(t, os.WriteFile(key, []byte(a.run("key", "export", "db").want(t, ExitOK).out), 0o600))
	b.run("volume", "create", "db", "-o", "privkey-file="+key).want(t, ExitOK)
	put := func(d *device, text string) (path string) {
		t.Helper()
		path = d.mounted(t, "db")
		must(t, os.WriteFile(filepath.Join(path, "big"), bytes.Repeat(randomBytes(100+len(text)), 1<<16), 0o644))
		must(t, os.WriteFile(filepath.Join(path, "file"), []byte(text), 0o644))
		return path
	}
	put(a, "one")
	a.run("volume", "umount", "db").want(t, ExitOK)
	car := filepath.Join(t.TempDir(), "db.car")
	a.run("export", "db", car).want(t, ExitOK)
	put(b, "second")
	b.run("volume", "umount", "db").want(t, ExitOK)
	put(a, "the third") // generation 1 is an old local snapshot now, and this is not published
	a.run("hydrate", "--wait", "db").want(t, ExitOK)

	free := fillDisk(t, pool)
	failed := 0
	try := func(args ...string) {
		t.Helper()
		if wantFull(t, a.run(args...), args...) {
			failed++
		}
	}
	try("snapshot", "db")
	try("flush", "db")
	try("clone", "db", "twin")
	try("restore", "db", "1", "old")
	try("browse", "db", "1", t.TempDir())
	try("volume", "create", "new")
	try("export", "db", filepath.Join(pool, "db.car"))
	try("import", car, "db")
	try("rm", "db", "1")
	try("volume", "umount", "db")
	try("volume", "mount", "db")
	if failed == 0 {
		t.Error("nothing failed: the pool was not full")
	}
	if left, err := filepath.Glob(filepath.Join(pool, "db.car*")); len(left) > 0 || err != nil {
		t.Errorf("left: %q, %v", left, err)
	}
	// The way out that needs no other help.
	if res := decode[volume.PurgeResult](t, a.run("purge", "db", "0h", "--local", "--json").want(t, ExitOK)); res.Removed != 1 {
		t.Errorf("%+v", res)
	}
	free()

	a.run("snapshot", "--wait", "db").want(t, ExitOK)
	for _, name := range []string{"twin", "old", "new"} { // made as a whole, or not at all
		if r := a.run("volume", "inspect", name); r.code != ExitUnknown {
			t.Errorf("%s is there: %+v", name, r)
		}
	}
	check := func(d *device, name, text string) {
		t.Helper()
		path := d.mounted(t, name)
		if got, err := os.ReadFile(filepath.Join(path, "file")); string(got) != text {
			t.Errorf("%s has %q, want %q, %v", name, got, text, err)
		}
		if got, err := os.ReadFile(filepath.Join(path, "big")); !bytes.Equal(got, bytes.Repeat(randomBytes(100+len(text)), 1<<16)) {
			t.Errorf("%s: the large file differs, %v", name, err)
		}
		d.run("volume", "umount", name).want(t, ExitOK)
	}
	check(a, "db", "the third")
	a.restart()
	check(a, "db", "the third")
	a.run("clone", "db", "twin").want(t, ExitOK)
	check(a, "twin", "the third")
	a.run("restore", "db", "1").want(t, ExitOK)
	check(a, "db", "one")
	a.run("export", "db", filepath.Join(pool, "db.car")).want(t, ExitOK)
	check(b, "db", "one")
	a.run("verify", "db", "--all").want(t, ExitOK)
}

func TestCommands_FullBlockStoreRefusesClearlyAndNothingIsLost(t *testing.T) {
	data := t.TempDir()
	must(t, unix.Mount("tmpfs", data, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { must(t, unix.Unmount(data, unix.MNT_DETACH)) })
	full := startHive(t, "--data", data)
	a := startDevice(t, nil, "--hive", full, "--ipfs", full, "--token", newToken(), "--interval", "off")
	a.run("volume", "create", "db", "-o", "compression=none").want(t, ExitOK)
	path := a.mounted(t, "db")
	small, big := randomBytes(1<<20), randomBytes(24<<20)
	must(t, os.WriteFile(filepath.Join(path, "small"), small, 0o644))
	a.run("flush", "db").want(t, ExitOK)
	must(t, os.WriteFile(filepath.Join(path, "big"), big, 0o644))
	a.run("flush", "db").want(t, ExitNotReady, "no space left", "not published", "tried again in the background")
	if all := decode[[]volume.SnapshotInfo](t, a.run("snapshots", "db", "--json").want(t, ExitOK)); all[0].Generation != 1 || !all[0].Remote || all[len(all)-1].Remote && all[len(all)-1].Generation != 1 {
		t.Errorf("what does not fit is called published: %+v", all)
	}
	a.run("verify", "db", "--all").want(t, ExitOK)

	// An offline copy that does not fit, from a store with more room.
	roomy := startHive(t)
	b := startDevice(t, nil, "--hive", roomy, "--ipfs", roomy, "--token", newToken(), "--interval", "off")
	b.run("volume", "create", "other", "-o", "compression=none").want(t, ExitOK)
	must(t, os.WriteFile(filepath.Join(b.mounted(t, "other"), "big"), big, 0o644))
	b.run("volume", "umount", "other").want(t, ExitOK)
	car, key := filepath.Join(t.TempDir(), "other.car"), filepath.Join(t.TempDir(), "key")
	b.run("export", "other", car).want(t, ExitOK)
	must(t, os.WriteFile(key, []byte(b.run("key", "export", "other").want(t, ExitOK).out), 0o600))
	if r := a.run("import", car, "other", "-o", "privkey-file="+key); r.code == ExitOK || !strings.Contains(r.err, "no space left") {
		t.Errorf("import: %d, %s", r.code, r.err)
	}
	a.run("volume", "inspect", "other").want(t, ExitUnknown)

	must(t, unix.Mount("tmpfs", data, "tmpfs", unix.MS_REMOUNT, "size=256m"))
	a.run("flush", "db").want(t, ExitOK)
	a.run("import", car, "other", "-o", "privkey-file="+key).want(t, ExitOK)
	a.run("verify", "db", "--all").want(t, ExitOK)
	a.run("volume", "umount", "db").want(t, ExitOK)
	if got, err := os.ReadFile(filepath.Join(a.mounted(t, "other"), "big")); !bytes.Equal(got, big) {
		t.Errorf("the imported file differs, %v", err)
	}
	a.run("volume", "umount", "other").want(t, ExitOK)
}

func TestCommands_OnAVolumeThatIsAtItsLimit(t *testing.T) {
	url := startHive(t)
	a := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
	a.run("volume", "create", "db", "-o", "size=16MiB", "-o", "compression=none").want(t, ExitOK)
	path := a.mounted(t, "db")
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("one"), 0o644))
	a.run("flush", "db").want(t, ExitOK)
	f, err := os.Create(filepath.Join(path, "big"))
	must(t, err)
	b, size := randomBytes(64<<10), int64(0)
	for err == nil && size < 64<<20 {
		var n int
		n, err = f.Write(b)
		size += int64(n)
	}
	f.Close()
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		t.Fatalf("%v after %d bytes", err, size)
	}
	car := filepath.Join(t.TempDir(), "db.car")
	a.run("snapshot", "--wait", "db").want(t, ExitOK)
	a.run("clone", "db", "twin").want(t, ExitOK)
	a.run("export", "db", car).want(t, ExitOK)
	a.run("import", car, "db").want(t, ExitOK)
	a.run("volume", "umount", "db").want(t, ExitOK)
	st, err := os.Stat(filepath.Join(a.mounted(t, "twin"), "big"))
	must(t, err)
	a.run("volume", "umount", "twin").want(t, ExitOK)
	a.run("restore", "db", "1").want(t, ExitOK)
	path = a.mounted(t, "db")
	if got, err := os.ReadFile(filepath.Join(path, "file")); string(got) != "one" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	must(t, os.WriteFile(filepath.Join(path, "more"), b, 0o644)) // there is room again
	a.run("volume", "umount", "db").want(t, ExitOK)
	a.run("restore", "db", "2").want(t, ExitOK)
	if again, err := os.Stat(filepath.Join(a.mounted(t, "db"), "big")); err != nil || again.Size() != st.Size() {
		t.Errorf("%v, %v", again, err)
	}
	a.run("hydrate", "--wait", "db").want(t, ExitOK)
	a.run("volume", "umount", "db").want(t, ExitOK)
}
