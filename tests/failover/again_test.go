package failover

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"

	"golang.org/x/sys/unix"
)

// noise returns n bytes that do not compress, always the same ones for a seed.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b[:n]
}

// B mounts what A had, changes it while most of it is still remote, flushes
// it half fetched, and dies as well. C has all of B's changes, and of A's files
// what B never fetched. A, when it comes back, has lost the volume.
func TestFailover_HalfFetchedIsFailedOverAgain(t *testing.T) {
	w := newWorld(t)
	a := w.device("a", w.url)
	mount, key := a.newVolume("v")
	makeLibrary(t, mount)
	a.flush("v")
	// The same library on plain BTRFS, to be changed as B will change its own.
	model := w.path("a", "pool", "model")
	kit.Must(t, backing.Snapshot(a.data("v"), model, false))
	// What A writes after its last flush is what it will be found to have alone.
	write(t, mount+"/only on A", "divergent")
	fsync(t, mount+"/only on A")
	a.die()

	b := w.device("b", w.url)
	b.create("v", key, "takeover=always", "prefetch=none")
	mount = b.mount("v")
	changeLibrary(t, mount)
	i := b.inspect("v")
	if i.State != volume.StateHydrating || i.BytesRemote < 20<<20 {
		t.Errorf("B is to be half fetched: state %s, %d bytes remote", i.State, i.BytesRemote)
	}
	b.flush("v")
	b.die()

	changeLibrary(t, model)
	want := describe(t, model)
	c := w.device("c", w.url)
	c.create("v", key, "takeover=always")
	mount = c.mount("v")
	same(t, "C's mount, read lazily", want, describe(t, mount))
	c.cli("hydrate", "--wait", "v")
	same(t, "C's mount, complete", want, describe(t, mount))
	if got := w.newest(c.inspect("v").Pubkey); got.Generation != 2 || got.Machine.String() != b.machine() {
		t.Errorf("newest manifest: generation %d by %s, want 2 by B", got.Generation, got.Machine)
	}

	// A comes back and has lost the volume.
	a.start()
	i = a.wait("v", "fenced", 30*time.Second, func(i volume.Info) bool { return i.State == volume.StateFenced && len(i.Divergent) > 0 })
	if !i.Fenced || i.FencedBy != c.machine() {
		t.Errorf("fenced %v by %q, want by C %s", i.Fenced, i.FencedBy, c.machine())
	}
	if got := read(t, filepath.Join(i.Divergent[0], "only on A")); got != "divergent" {
		t.Errorf("the divergent snapshot has %q", got)
	}
	a.refused(4, []string{"another machine holds the volume", c.machine(), "takeover=always"}, "volume", "mount", "v")
	if got := w.writer(i.Pubkey); got != c.machine() {
		t.Errorf("writer %q, want C %s", got, c.machine())
	}
	c.cli("volume", "umount", "v")
	same(t, "A's mount after C gave the volume back", want, describe(t, a.mount("v")))
	after := a.inspect("v")
	if after.Fenced || len(after.Divergent) != 1 {
		t.Errorf("after mounting again: fenced %v, divergent %q", after.Fenced, after.Divergent)
	}
	if got := read(t, filepath.Join(after.Divergent[0], "only on A")); got != "divergent" {
		t.Errorf("the divergent snapshot has %q", got)
	}
}

// makeLibrary makes about 33 MiB: enough for a chunked file, packs of small ones, and folders to be left alone.
func makeLibrary(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"books", "books/old", "films", "films/never opened", "mail"} {
		kit.Must(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	for i := range 200 {
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/books/%03d", root, i), noise(uint64(i), 100+i*37), 0o644))
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/mail/%03d", root, i), []byte(strings.Repeat(fmt.Sprintln("mail", i), 20)), 0o600))
	}
	for i := range 10 {
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/films/%d", root, i), noise(1000+uint64(i), 2<<20+i), 0o644))
		kit.Must(t, os.WriteFile(fmt.Sprintf("%s/films/never opened/%d", root, i), noise(2000+uint64(i), 1<<20+i), 0o644))
	}
	kit.Must(t, os.Link(root+"/films/9", root+"/books/old/a film"))
	kit.Must(t, os.Symlink("../films", root+"/books/films"))
}

// changeLibrary does what an application would, in every way that meets missing
// data. All that it touches gets a known time, so that two libraries that
// went through it are the same.
func changeLibrary(t *testing.T, root string) {
	t.Helper()
	touched := map[string]bool{}
	path := func(name string) string {
		touched[name], touched[filepath.Dir(name)] = true, true
		return filepath.Join(root, name)
	}
	open := func(name string, do func(f *os.File) error) {
		t.Helper()
		f, err := os.OpenFile(path(name), os.O_RDWR, 0)
		kit.Must(t, err)
		defer f.Close()
		if err := do(f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kit.Must(t, f.Sync())
	}
	if got := read(t, root+"/books/017"); got != string(noise(17, 100+17*37)) {
		t.Error("books/017 is another file")
	}
	open("films/0", func(f *os.File) error { _, err := f.WriteAt([]byte("across a chunk's end"), 256<<10-7); return err })
	open("films/1", func(f *os.File) error { return f.Truncate(700_001) })
	open("films/2", func(f *os.File) error { // shorter, then longer: zeros between
		if err := f.Truncate(300_000); err != nil {
			return err
		}
		return f.Truncate(900_000)
	})
	open("films/3", func(f *os.File) error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100_000, 500_000)
	})
	open("films/4", func(f *os.File) error { _, err := f.WriteAt(noise(4, 50_000), 3<<20); return err }) // behind the end
	open("films/9", func(f *os.File) error { _, err := f.WriteAt([]byte("by one of its names"), 1<<20); return err })
	touched["books/old/a film"] = true
	kit.Must(t, os.WriteFile(path("films/5"), []byte("all new"), 0o644)) // O_TRUNC
	kit.Must(t, os.Remove(path("films/6")))
	kit.Must(t, os.Rename(path("films/7"), path("mail/film 7")))
	kit.Must(t, os.Rename(path("films/never opened"), path("films/moved, still not opened")))
	delete(touched, "films/never opened")
	delete(touched, "films/moved, still not opened")
	kit.Must(t, os.Link(path("films/8"), path("books/8 too")))
	kit.Must(t, unix.Setxattr(path("films/8"), "user.kind", []byte("remote content, new name"), 0))
	kit.Must(t, os.Chmod(path("books/100"), 0o4711))
	kit.Must(t, os.Lchown(path("books/101"), 1000, 1001))
	kit.Must(t, os.Rename(path("books/102"), path("books/103"))) // over another one
	kit.Must(t, os.RemoveAll(path("books/old")))
	kit.Must(t, os.Mkdir(path("new"), 0o750))
	for i := range 50 {
		kit.Must(t, os.WriteFile(path(fmt.Sprintf("new/%d", i)), noise(uint64(3000+i), 3000*i), 0o644))
	}
	f, err := os.OpenFile(path("mail/007"), os.O_APPEND|os.O_WRONLY, 0)
	kit.Must(t, err)
	_, err = f.WriteString("one more line\n")
	kit.Must(t, err)
	kit.Must(t, f.Close())

	// The order does not matter: setting times moves no other times.
	at := unix.Timespec{Sec: 1_700_000_000, Nsec: 123456789}
	for name := range touched {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, name), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && err != unix.ENOENT { // what was removed or moved
			t.Fatalf("set times of %s: %v", name, err)
		}
	}
}

func fsync(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	kit.Must(t, err)
	defer f.Close()
	kit.Must(t, f.Sync())
}

// A is alive, but cut off, while B takes the volume over: when A hears of it,
// it stops publishing, says so, and goes on serving what runs on it.
func TestFailover_MachineThatLostTheVolumeStopsPublishing(t *testing.T) {
	w := newWorld(t)
	link := w.relay(kit.Link{})
	a := w.device("a", "http://"+link.Addr())
	mount, key := a.newVolume("v")
	write(t, mount+"/both", "from A")
	a.flush("v")
	link.Unplug(kit.Cut)

	b := w.device("b", w.url)
	b.create("v", key, "takeover=always")
	mountB := b.mount("v")
	write(t, mountB+"/both", "from B")
	b.flush("v")
	before := w.newest(b.inspect("v").Pubkey)

	write(t, mount+"/both", "from A, too late")
	link.Plug()
	a.refused(4, []string{"taken over", b.machine()}, "flush", "v")
	// The flush fails at once; what it would have published is set aside a moment later.
	i := a.wait("v", "fenced with its changes set aside", 20*time.Second, func(i volume.Info) bool {
		return i.State == volume.StateFenced && len(i.Divergent) == 1 && i.Unpublished == 0
	})
	if !i.Fenced || i.FencedBy != b.machine() {
		t.Errorf("fenced %v by %q, want by B %s", i.Fenced, i.FencedBy, b.machine())
	}
	if got := read(t, filepath.Join(i.Divergent[0], "both")); got != "from A, too late" {
		t.Errorf("A's divergent snapshot has %q", got)
	}
	// What runs on A goes on, and what it writes stays there.
	write(t, mount+"/both", "from A, much too late")
	a.refused(4, []string{"taken over"}, "flush", "v")
	a.refused(4, []string{"taken over"}, "volume", "umount", "v")
	i = a.inspect("v")
	if len(i.Divergent) != 1 {
		t.Fatalf("divergent snapshots: %q", i.Divergent)
	}
	if got := read(t, filepath.Join(i.Divergent[0], "both")); got != "from A, much too late" {
		t.Errorf("A's divergent snapshot has %q", got)
	}
	a.refused(4, []string{b.machine()}, "volume", "mount", "v")
	a.refused(8, []string{"only here"}, "volume", "rm", "v")

	after := w.newest(i.Pubkey)
	if after.Hash() != before.Hash() {
		t.Errorf("generation %d by %s was published after B's %d", after.Generation, after.Machine, before.Generation)
	}
	if got := w.writer(i.Pubkey); got != b.machine() {
		t.Errorf("writer %q, want B", got)
	}
	if got := read(t, mountB+"/both"); got != "from B" {
		t.Errorf("B reads %q", got)
	}
}
