package replica

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// describeLocal says all that a snapshot keeps of one inode on the disk, by other means than the walk's.
func describeLocal(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(path, &st))
	var b strings.Builder
	fmt.Fprintf(&b, "mode=%o owner=%d:%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(path)
		check(t, err)
		fmt.Fprintf(&b, " nlink=%d size=%d content=%x", st.Nlink, st.Size, sum(data))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		check(t, err)
		fmt.Fprintf(&b, " target=%q", target)
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " rdev=%d", st.Rdev)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		f, err := os.Open(path)
		check(t, err)
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		check(t, err)
		check(t, f.Close())
		fmt.Fprintf(&b, " flags=%x", uint32(flags)&wire.KeptFlags)
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	check(t, err)
	list := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(list)
	for _, name := range list {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		check(t, err)
		fmt.Fprintf(&b, " %s=%x", name, buf[:n])
	}
	return b.String()
}

func (w *world) describe(e wire.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mode=%o owner=%d:%d mtime=%d.%09d", e.Mode, e.UID, e.GID, e.Mtime.Sec, e.Mtime.Nsec)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data := w.read(e)
		fmt.Fprintf(&b, " nlink=%d size=%d content=%x", e.Nlink, len(data), sum(data))
	case unix.S_IFLNK:
		fmt.Fprintf(&b, " target=%q", e.Target)
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " rdev=%d", e.Rdev)
	}
	if e.Mode&unix.S_IFMT == unix.S_IFREG || e.Mode&unix.S_IFMT == unix.S_IFDIR {
		fmt.Fprintf(&b, " flags=%x", e.Flags)
	}
	for _, x := range e.Xattrs {
		fmt.Fprintf(&b, " %s=%x", x.Name, x.Value)
	}
	return b.String()
}

func sum(b []byte) []byte {
	c := cidOf(b)
	return c[:]
}

// wantTree compares a snapshot with a folder, name for name.
func (w *world) wantTree(r Result, folder string) {
	w.t.Helper()
	t := w.t.(*testing.T)
	got := w.entries(r.Base.Root)
	seen := 0
	check(t, filepath.WalkDir(folder, func(path string, _ os.DirEntry, err error) error {
		check(t, err)
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, folder), "/")
		e, ok := got[name]
		if !ok {
			t.Errorf("%q is not in the snapshot", name)
			return nil
		}
		seen++
		if have, want := w.describe(e), describeLocal(t, path); have != want {
			t.Errorf("%q:\n have %s\n want %s", name, have, want)
		}
		return nil
	}))
	if seen != len(got) {
		t.Errorf("the snapshot has %d names, the folder %d", len(got), seen)
	}
}

func TestPublish_KeepsEveryKindOfFileAndAttribute(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("empty", nil)
	v.write("small", []byte("some text"))
	v.write("large", noise(1, 5<<20+123))
	v.write("zeros", make([]byte, 1<<20))
	// Sparse: data in the middle and at an unaligned end; and nothing but a hole.
	v.write("sparse", nil)
	v.writeAt("sparse", noise(2, 10_000), 3<<20)
	v.writeAt("sparse", noise(3, 5000), 9<<20)
	v.write("hole", nil)
	check(t, os.Truncate(v.at("hole"), 1<<30))
	check(t, exec.Command("fallocate", "-l", "2M", v.at("preallocated")).Run())

	check(t, os.MkdirAll(v.at("deep/er/still"), 0o750))
	v.write("deep/er/still/leaf", []byte("leaf"))
	check(t, os.Mkdir(v.at("empty-dir"), 0o1777))
	check(t, os.Symlink("../nowhere/at all", v.at("symlink")))
	check(t, os.Symlink(strings.Repeat("x", wire.MaxTarget), v.at("long symlink")))
	check(t, unix.Mkfifo(v.at("fifo"), 0o620))
	check(t, unix.Mknod(v.at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(t, unix.Mknod(v.at("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70_000))))
	check(t, unix.Mknod(v.at("socket"), unix.S_IFSOCK|0o700, 0))
	check(t, os.Link(v.at("large"), v.at("deep/large again")))
	check(t, os.Link(v.at("large"), v.at("deep/er/and again")))
	check(t, os.Link(v.at("symlink"), v.at("symlink too")))

	for i, name := range []string{"with space", "new\nline", "\xff\xfe not UTF-8", "-rf", "*", `\`, strings.Repeat("n", 255), "..."} {
		v.write(name, fmt.Appendf(nil, "file %d", i))
	}

	check(t, os.Lchown(v.at("small"), 1234, 5678))
	check(t, os.Lchown(v.at("symlink"), 77, 88))
	check(t, unix.Chmod(v.at("large"), 0o6755))
	check(t, unix.Setxattr(v.at("small"), "user.note", []byte("value"), 0))
	check(t, unix.Setxattr(v.at("small"), "user.empty", nil, 0))
	check(t, unix.Setxattr(v.at("small"), "user.long", noise(9, 8000), 0))
	check(t, unix.Setxattr(v.at("small"), "trusted.other", []byte{0, 1}, 0))
	check(t, unix.Lsetxattr(v.at("symlink"), "trusted.on.link", []byte("x"), 0))
	check(t, unix.Setxattr(v.at("large"), capsName, []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	check(t, unix.Setxattr(v.at("empty-dir"), "btrfs.compression", []byte("zstd"), 0))
	for _, acl := range [][]string{{"-m", "u:4321:rw", v.at("small")}, {"-d", "-m", "g:99:rx", v.at("empty-dir")}} {
		if out, err := exec.Command("setfacl", acl...).CombinedOutput(); err != nil {
			t.Fatalf("setfacl: %v: %s", err, out)
		}
	}
	v.write("no-cow", nil)
	setFlags(t, v.at("no-cow"), wire.FlagNoCOW)
	v.writeAt("no-cow", noise(4, 70_000), 0)
	setFlags(t, v.at("empty-dir"), wire.FlagDirSync|wire.FlagNodump)
	setMtime(t, v.at("small"), time.Unix(-5, 7))
	setMtime(t, v.at("symlink"), time.Unix(1<<33, 999_999_999))
	setMtime(t, v.at("deep/er"), time.Unix(1, 1))
	setMtime(t, v.path, time.Unix(2, 2))
	setFlags(t, v.at("-rf"), wire.FlagImmutable|wire.FlagNoatime)
	setFlags(t, v.at("*"), wire.FlagAppend)

	s := v.snapshot()
	r := w.publish(s, Base{})
	w.wantTree(r, s)

	got := w.entries(r.Base.Root)
	if l := got["/large"].Link; l == 0 || l != got["/deep/large again"].Link || l != got["/deep/er/and again"].Link || got["/large"].Nlink != 3 {
		t.Errorf("the three names of one file: %+v", got["/large"])
	}
	if got["/symlink"].Link == 0 || got["/symlink"].Link == got["/large"].Link || got["/symlink too"].Link != got["/symlink"].Link {
		t.Error("the names of a symbolic link are not tied together")
	}
	if got["/small"].Link != 0 || got["/small"].Nlink != 1 {
		t.Error("a file of one name has a link number")
	}
	if d := got["/hole"].Content.Data; d != 0 {
		t.Errorf("a hole has %d bytes of data", d)
	}
	if d := got["/sparse"].Content.Data; d > 64<<10 {
		t.Errorf("a file with 15,000 bytes and holes has %d bytes of data", d)
	}
	if r.Stats.BytesRead > 8<<20 {
		t.Errorf("holes were read: %d bytes", r.Stats.BytesRead)
	}
	if ok, err := w.blocks.Pinned(t.Context(), r.Base.Root); !ok || err != nil {
		t.Errorf("the root is not pinned: %v", err)
	}
	before := len(w.blocks.CIDs())
	if w.blocks.GC(); len(w.blocks.CIDs()) != before {
		t.Error("blocks were stored that the root does not reach")
	}
}

func TestPublish_LeavesOutTheHiddenFolderAndNestedSubvolumes(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("file", []byte("x"))
	v.write(hiddenDir+"/00ff", []byte("hidden"))
	v.write("deeper/"+hiddenDir+"/kept", []byte("an application's own"))
	nested := v.at("nested")
	if out, err := exec.Command("btrfs", "subvolume", "create", nested).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("btrfs", "subvolume", "delete", nested).Run() })
	check(t, os.WriteFile(nested+"/inside", []byte("other"), 0o644))

	r := w.publish(v.snapshot(), Base{})
	got := w.entries(r.Base.Root)
	for _, name := range []string{"/nested", "/nested/inside", "/" + hiddenDir, "/" + hiddenDir + "/00ff"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is in the snapshot", name)
		}
	}
	if _, ok := got["/deeper/"+hiddenDir+"/kept"]; !ok {
		t.Error("a folder of the same name elsewhere is missing")
	}
}

func TestPublish_RefusesAWritableSubvolume(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	_, err := w.publisher().Publish(t.Context(), w.job(v.path, Base{}))
	wantError(t, err, ErrWritable)
}

func TestPublish_DirectoryWithManyNames(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	for i := range 3000 {
		v.write(fmt.Sprintf("many/%04d", i*7919%3000), fmt.Appendf(nil, "content of %d", i))
	}
	s := v.snapshot()
	w.wantTree(w.publish(s, Base{}), s)
	if !bytes.Equal(w.read(w.entries(w.publish(s, Base{}).Base.Root)["/many/0000"]), []byte("content of 0")) {
		t.Error("wrong content")
	}
}
