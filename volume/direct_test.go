package volume

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"

	"golang.org/x/sys/unix"
)

// unbind takes away the direct mount that a test leaves to a daemon that never comes.
func (x *machine) unbind(name string) {
	path := filepath.Join(x.root, "mnt", name)
	x.t.Cleanup(func() {
		x.vanish()
		unix.Unmount(path, unix.MNT_DETACH) // EINVAL where it is gone, as it should be
	})
}

func (x *machine) mountedAs(name, how string) Info {
	x.t.Helper()
	i := x.info(name)
	if i.Mount != how {
		x.t.Fatalf("mounted %q, want %q: %+v", i.Mount, how, i)
	}
	return i
}

// options returns the mount options of path in this name space.
func mountOptions(t *testing.T, path string) (fsType, options string) {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	must(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		head, tail, _ := strings.Cut(s.Text(), " - ")
		if w := strings.Fields(head); w[4] == path {
			fsType, options = strings.Fields(tail)[0], w[5]
		}
	}
	return fsType, options
}

func TestDecideFront(t *testing.T) {
	for _, c := range []struct {
		complete, reserved, limited, quota bool
		direct                             bool
	}{
		{true, false, false, false, true},
		{true, false, true, true, true},
		{true, false, false, true, true},
		{false, false, false, false, false},
		{true, true, false, false, false},
		{true, false, true, false, false},
		{false, true, true, false, false},
	} {
		if why := decideFront(c.complete, c.reserved, c.limited, c.quota); (why == "") != c.direct {
			t.Errorf("%+v: %q", c, why)
		}
	}
}

func TestDirect_CompleteVolumeIsBoundAndFollowsItsKey(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	if i := a.mountedAs("db", mountDirect); i.MountWhy != "" || i.State != StateComplete || i.Options["mount"] != "direct" {
		t.Fatalf("%+v", i)
	}
	if fs, _ := mountOptions(t, dir); fs != "btrfs" {
		t.Fatalf("%s is a %s", dir, fs)
	}
	write(t, filepath.Join(dir, "f"), "one")
	shell(t, `chown 1000:1000 "$1"; chmod 4755 "$1"; mknod "$2" c 1 3; setfattr -n user.x -v y "$1"`, filepath.Join(dir, "f"), filepath.Join(dir, "null"))
	if s := a.flush("db"); s.Generation != 1 || s.Unchanged {
		t.Fatalf("%+v", s)
	}
	write(t, filepath.Join(dir, "f"), "two")
	a.unmount("db", "1")
	a.released("db")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("mount point stays: %v", err)
	}
	if i := a.mountedAs("db", ""); i.Generation != 2 || i.State != StateUnmounted {
		t.Fatalf("%+v", i)
	}

	// What is remote goes by FUSE, which Status says, until everything is here.
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "mount=direct")
	dir = b.mount("db", "1")
	if i := b.mountedAs("db", mountFUSE); !strings.Contains(i.MountWhy, "not everything is here yet") {
		t.Fatalf("%+v", i)
	}
	if !strings.Contains(*b.log.text.Load(), "mounted by FUSE although") {
		t.Error("the log does not say so")
	}
	wantFile(t, filepath.Join(dir, "f"), "two")
	must(t, b.Hydrate(ctx(t), "db", true, nil))
	b.unmount("db", "1")
	b.released("db")
	dir = b.mount("db", "2")
	b.mountedAs("db", mountDirect)
	wantFile(t, filepath.Join(dir, "f"), "two")
	if got := shell(t, `stat -c '%a %u %F' "$1" "$2"; getfattr --absolute-names --only-values -n user.x "$1"; ls -A "$3" | sort | xargs`, filepath.Join(dir, "f"), filepath.Join(dir, "null"), dir); got !=
		"4755 1000 regular file\n644 0 character special file\nyf null\n" {
		t.Fatalf("%q", got)
	}
	write(t, filepath.Join(dir, "f"), "three")
	b.unmount("db", "2")
	b.released("db")
	if i := b.info("db"); i.Generation != 3 {
		t.Fatalf("%+v", i)
	}
}

func TestDirect_HasNoFlagsOfThePool(t *testing.T) {
	w := newWorld(t)
	root := filepath.Join(w.dir, "a")
	must(t, os.Mkdir(root, 0o755))
	must(t, unix.Mount(root, root, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
	must(t, unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	a.mountedAs("db", mountDirect)
	_, options := mountOptions(t, dir)
	for _, bad := range []string{"nosuid", "nodev", "noexec", "ro,"} {
		if strings.Contains(options+",", bad) {
			t.Errorf("mounted %s", options)
		}
	}
	shell(t, `mknod "$1/null" c 1 3; echo x > "$1/null"`, dir)
	a.unmount("db", "1")
}

func TestDirect_ViewIsReadOnly(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.flush("db")
	a.create("view", "privkey="+a.key("db"), "snapshot=1", "mount=direct")
	a.mount("view", "1")
	a.mountedAs("view", mountFUSE)
	must(t, a.Hydrate(ctx(t), "view", true, nil))
	a.unmount("view", "1")
	dir := a.mount("view", "1")
	a.mountedAs("view", mountDirect)
	wantFile(t, filepath.Join(dir, "f"), "one")
	if out, err := exec.Command("sh", "-c", `echo two > "$1"`, "sh", filepath.Join(dir, "f")).CombinedOutput(); err == nil || !strings.Contains(string(out), "Read-only") {
		t.Fatalf("%v: %s", err, out)
	}
	a.unmount("view", "1")
}

// holder is a process that writes a line to a file of a volume whenever it is told to.
type holder struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *bufio.Writer
	out *bufio.Scanner
}

func hold(t *testing.T, path string) *holder {
	cmd := exec.Command("sh", "-c", `exec 3>>"$1"; while read -r line; do echo "$line" >&3 && echo done || echo failed; done`, "sh", path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &holder{t: t, cmd: cmd, in: bufio.NewWriter(in), out: bufio.NewScanner(out)}
}

func (h *holder) write(line string) {
	h.t.Helper()
	fmt.Fprintln(h.in, line)
	must(h.t, h.in.Flush())
	if !h.out.Scan() || h.out.Text() != "done" {
		h.t.Fatalf("the process that uses the volume: %q, %v", h.out.Text(), h.out.Err())
	}
}

func (h *holder) end() {
	must(h.t, h.cmd.Process.Kill())
	h.cmd.Wait()
}

func TestDirect_OutlivesTheDaemonWhileInUse(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	h := hold(t, filepath.Join(dir, "log"))
	h.write("one")
	must(t, a.Close(ctx(t))) // as SIGTERM does; all is published
	a.vanish()
	h.write("two") // without a daemon

	a = w.machine("a")
	a.unbind("db")
	i := a.mountedAs("db", mountDirect)
	if i.Generation != 1 || len(i.Mounts) != 1 || i.Mountpoint != dir || i.State != StateComplete {
		t.Fatalf("%+v", i)
	}
	if got := a.writer("db"); got == nil || *got != a.id() {
		t.Fatalf("the writer was given back under who uses the volume: %v", got)
	}
	h.write("three")
	if again := a.mount("db", "2"); again != dir {
		t.Fatalf("%s, then %s", dir, again)
	}
	a.unmount("db", "2")
	h.end()
	a.unmount("db", "1")
	a.released("db")
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	wantFile(t, filepath.Join(b.mount("db", "1"), "log"), "one\ntwo\nthree\n")
}

func TestDirect_MountOfAKilledDaemonIsTakenOver(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	h := hold(t, filepath.Join(dir, "log"))
	h.write("one")
	a.vanish() // publishes nothing, unmounts nothing that is in use
	h.write("two")
	a = w.machine("a")
	a.unbind("db")
	a.mountedAs("db", mountDirect)
	h.write("three")
	if s := a.flush("db"); s.Generation != 1 {
		t.Fatalf("%+v", s)
	}

	// Of another boot of the machine, or with nobody who uses it, it is a leftover.
	a.vanish()
	h.end()
	v := a.vols["db"]
	must(t, writeFile(v.idsFile(), []byte(`{"version":1,"boot":"another","ids":["1"]}`)))
	a = w.machine("a")
	if i := a.mountedAs("db", ""); len(i.Mounts) != 0 {
		t.Fatalf("%+v", i)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the mount stays: %v", err)
	}
	a.released("db")
	wantFile(t, filepath.Join(a.mount("db", "1"), "log"), "one\ntwo\nthree\n")
	a.unmount("db", "1")
}

// Docker takes the mount's place away when it disables the plugin. Who uses the volume has it still, and goes on: it is not given back, and stays published.
func TestDirect_PlaceThatWasTakenAwayIsFilledAgain(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	h := hold(t, filepath.Join(dir, "log"))
	h.write("one")
	must(t, a.Close(ctx(t)))
	a.vanish()
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	must(t, os.Remove(dir))
	h.write("two")

	a = w.machine("a")
	a.unbind("db")
	if i := a.mountedAs("db", mountDirect); len(i.Mounts) != 1 || i.Mountpoint != dir || i.State != StateComplete {
		t.Fatalf("%+v", i)
	}
	if got := a.writer("db"); got == nil || *got != a.id() {
		t.Fatalf("the writer was given back under who uses the volume: %v", got)
	}
	h.write("three")
	wantFile(t, filepath.Join(dir, "log"), "one\ntwo\nthree\n")
	if _, err := a.Restore(ctx(t), "db", "1"); !errors.Is(err, ErrInUse) {
		t.Fatalf("a restore under who uses the volume: %v", err)
	}
	if s := a.flush("db"); s.Generation != 2 {
		t.Fatalf("%+v", s)
	}
	h.end()
	a.unmount("db", "1")
	a.released("db")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("mount point stays: %v", err)
	}
	// And one that was unmounted is not.
	a.vanish()
	a = w.machine("a")
	if i := a.mountedAs("db", ""); len(i.Mounts) != 0 {
		t.Fatalf("%+v", i)
	}
}

// A mount by FUSE of the same option dies with its daemon: there is nothing to go on with.
func TestDirect_DeadMountByFUSEIsNotTakenOver(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	shell(t, `mkdir "$1"`, filepath.Join(dir, fusefs.HiddenName))
	a.unmount("db", "1")
	a.released("db")
	a.mount("db", "1")
	a.mountedAs("db", mountFUSE)
	a.vanish()
	a = w.machine("a")
	if i := a.mountedAs("db", ""); len(i.Mounts) != 0 {
		t.Fatalf("%+v", i)
	}
}

func TestDirect_UnmountWaitsForWhoUsesIt(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.busy = 200 * time.Millisecond
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	h := hold(t, filepath.Join(dir, "log"))
	h.write("one")
	if err := a.Unmount(ctx(t), "db", "1"); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	h.write("two") // it was not cut off, and is not lost:
	if got := a.writer("db"); got == nil || *got != a.id() {
		t.Fatalf("the writer was given back under who uses the volume: %v", got)
	}
	h.end()
	must(t, a.Unmount(ctx(t), "db", "1")) // as Docker tries again, or the scheduler
	a.released("db")
	wantFile(t, filepath.Join(a.mount("db", "1"), "log"), "one\ntwo\n")
	a.unmount("db", "1")
}

// A snapshot of plain BTRFS, taken while somebody rewrites the same blocks, holds each write that had completed before.
func TestDirect_SnapshotHoldsWhatCompletedBefore(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	const script = `
import os, sys
f = [os.open(sys.argv[1] + "/f%d" % i, os.O_RDWR | os.O_CREAT) for i in range(4)]
for n in range(1, 1 << 30):
    for k in range(4):
        os.pwrite(f[k], b"%015d\n" % n * 256, 0)
    if n == 1: os.fsync(f[0])
    os.pwrite(1, b"%015d\n" % n, 0)
`
	progress := filepath.Join(a.root, "progress")
	out, err := os.Create(progress)
	must(t, err)
	defer out.Close()
	cmd := exec.Command("python3", "-c", script, dir)
	cmd.Stdout = out
	must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	read := func(path string) (n int) {
		b, _ := os.ReadFile(path)
		if len(b) >= 16 {
			fmt.Sscanf(string(b[:15]), "%d", &n)
		}
		return n
	}
	a.eventually("the writer writes", func() bool { return read(progress) > 0 })
	v, id := a.vols["db"], ""
	for range 40 {
		before := read(progress)
		next, err := a.snapshotNow(ctx(t), v)
		must(t, err)
		if next != "" { // else the last one holds everything
			id = next
		}
		for k := range 4 {
			if got := read(filepath.Join(v.snap(id), fmt.Sprint("f", k))); got < before {
				t.Fatalf("file %d of the snapshot has write %d, and %d had completed before it", k, got, before)
			}
		}
	}
}

func TestDirect_FencedVolumeKeepsWhatItDidNotPublish(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	h := hold(t, filepath.Join(dir, "log"))
	h.write("published")
	a.flush("db")
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	b.mount("db", "1")
	h.write("never published")
	if _, err := a.Flush(ctx(t), "db", nil); !errors.Is(err, ErrFenced) {
		t.Fatalf("%v", err)
	}
	h.write("after the fencing") // it serves on, as with FUSE
	h.end()
	a.unmount("db", "1")
	a.eventually("kept", func() bool { return len(a.info("db").Divergent) == 1 })
	wantFile(t, filepath.Join(a.info("db").Divergent[0], "log"), "published\nnever published\nafter the fencing\n")
}

func TestDirect_SaysWhatSnapshotsLeaveOut(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "one")
	a.flush("db")
	if i := a.info("db"); i.LeftOut != "" {
		t.Fatalf("%+v", i)
	}
	must(t, backing.CreateSubvolume(filepath.Join(dir, "nested")))
	shell(t, `mkdir "$1"`, filepath.Join(dir, fusefs.HiddenName))
	a.flush("db")
	if i := a.info("db"); !strings.Contains(i.LeftOut, "1 subvolumes") || !strings.Contains(i.LeftOut, fusefs.HiddenName) {
		t.Fatalf("%q", i.LeftOut)
	}
	a.unmount("db", "1")
	a.released("db")
	// The reserved name would vanish behind FUSE's back, so it is FUSE that is not mounted over it in silence.
	a.mount("db", "1")
	if i := a.mountedAs("db", mountFUSE); !strings.Contains(i.MountWhy, fusefs.HiddenName) {
		t.Fatalf("%+v", i)
	}
	a.unmount("db", "1")
	a.released("db")
	must(t, a.Remove(ctx(t), "db", true))
	a.eventually("the trash is empty, nested subvolumes too", func() bool {
		list, err := os.ReadDir(a.trash())
		return err == nil && len(list) == 0
	})
}

// The folder with the reserved name is our own while something is remote: that is nothing to warn of.
func TestDirect_HalfFetchedVolumeLeavesNothingOut(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.unbind("db")
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	a.mountedAs("db", mountDirect)
	write(t, filepath.Join(dir, "f"), "one")
	a.flush("db")
	write(t, filepath.Join(dir, "f"), "two")
	a.flush("db")
	a.unmount("db", "1")
	a.released("db")
	_, err := a.Restore(ctx(t), "db", "1")
	must(t, err)
	if _, err := os.Lstat(filepath.Join(a.vols["db"].data(), fusefs.HiddenName)); err != nil {
		t.Fatalf("not half-fetched: %v", err)
	}
	a.released("db") // with the snapshot of what it was restored to
	if log := *a.log.text.Load(); strings.Contains(log, "snapshots do not hold everything") {
		t.Error("the log warns of our own folder")
	}
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "one")
	a.unmount("db", "1")
}
