package kit

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func (t *treeMaker) links() {
	t.dir("links", 0o755)
	t.dir("links/other", 0o755)
	link := func(from, to string) {
		t.do(to, func(path string) error { return os.Link(t.path(from), path) })
	}
	symlink := func(name, target string) {
		t.do(name, func(path string) error { return os.Symlink(target, path) })
	}
	t.file("links/one", t.random(70_000))
	link("links/one", "links/two")
	link("links/one", "links/other/three")
	link("links/one", "names/zz link from another folder")
	t.file("links/empty", nil)
	link("links/empty", "links/other/empty too")
	symlink("links/to one", "one")
	symlink("links/nowhere", "/nowhere/\xff\n at all")
	symlink("links/loop", "loop")
	symlink("links/to a folder", "../names")
	symlink("links/4095", strings.Repeat("x/", 2047)+"y")
	symlink("links/255", strings.Repeat("z", 255))
	link("links/4095", "links/other/hard link to a symbolic one")
}

func (t *treeMaker) specials() {
	t.dir("specials", 0o755)
	node := func(name string, mode uint32, dev uint64) {
		t.do("specials/"+name, func(path string) error {
			if err := unix.Mknod(path, mode, int(dev)); err != nil {
				return err
			}
			return unix.Chmod(path, mode&0o7777)
		})
	}
	node("fifo", unix.S_IFIFO|0o622, 0)
	node("socket", unix.S_IFSOCK|0o755, 0)
	node("null", unix.S_IFCHR|0o666, unix.Mkdev(1, 3))
	node("char", unix.S_IFCHR|0o600, unix.Mkdev(4095, 1048575)) // the largest numbers there are
	node("block", unix.S_IFBLK|0o660, unix.Mkdev(240, 77))
	t.do("links/other/hard link to a fifo", func(path string) error { return os.Link(t.path("specials/fifo"), path) })
	t.do("links/other/hard link to a device", func(path string) error { return os.Link(t.path("specials/null"), path) })
}

func (t *treeMaker) attributes() {
	t.dir("modes", 0o711)
	for name, mode := range map[string]uint32{"000": 0, "777": 0o777, "setuid": 0o4755, "setgid": 0o2755, "both": 0o6711, "sticky": 0o1644, "all": 0o7777} {
		t.file("modes/"+name, []byte(name))
		t.do("modes/"+name, func(path string) error {
			// The owner first: changing it clears setuid and setgid.
			if err := unix.Lchown(path, 1234, 54321); err != nil {
				return err
			}
			return unix.Chmod(path, mode)
		})
		t.dir("modes/folder "+name, 0o755)
		t.do("modes/folder "+name, func(path string) error { return unix.Chmod(path, mode) })
	}
	t.file("modes/largest ids", nil)
	t.do("modes/largest ids", func(path string) error { return unix.Lchown(path, 0x7ffffffe, 0x7ffffffd) })
	t.do("links/loop", func(path string) error { return unix.Lchown(path, 77, 78) })
	t.do("specials/fifo", func(path string) error { return unix.Lchown(path, 79, 80) })
}

func (t *treeMaker) xattrs() {
	t.dir("xattrs", 0o755)
	set := func(name, attr string, value []byte) {
		t.do(name, func(path string) error { return unix.Lsetxattr(path, attr, value, 0) })
	}
	t.file("xattrs/user", []byte("x"))
	set("xattrs/user", "user.empty", nil)
	set("xattrs/user", "user.binary", []byte("\x00\xff\n\x00"))
	set("xattrs/user", "user.text", []byte("value"))
	set("xattrs/user", "user."+strings.Repeat("n", 250), []byte("long name"))
	set("xattrs/user", "user.large", t.random(8000))
	t.file("xattrs/trusted", nil)
	set("xattrs/trusted", "trusted.kit", []byte("root only"))
	t.dir("xattrs/folder", 0o755)
	set("xattrs/folder", "user.of a folder", []byte("f"))
	set("links/loop", "trusted.of a link", []byte("l"))
	set("specials/fifo", "trusted.of a fifo", []byte("p"))
	set("specials/null", "trusted.of a device", []byte("d"))

	t.file("xattrs/acl", []byte("acl"))
	set("xattrs/acl", "system.posix_acl_access", acl(7, 5, 4))
	t.dir("xattrs/default acl", 0o750)
	set("xattrs/default acl", "system.posix_acl_access", acl(7, 7, 5))
	set("xattrs/default acl", "system.posix_acl_default", acl(7, 6, 0))
	t.file("xattrs/default acl/inherits", nil)
	t.dir("xattrs/default acl/inherits too", 0o770)

	t.file("xattrs/capabilities", []byte("#!/bin/true\n"))
	set("xattrs/capabilities", "security.capability", fileCaps(1<<unix.CAP_NET_BIND_SERVICE|1<<unix.CAP_NET_RAW))
}

// acl is a POSIX ACL as the kernel has it in an xattr: version 2, then entries
// of tag, permissions, id. It has a named user and a named group beside the
// owner, the group and the others.
func acl(owner, named, other uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	const none = 0xffffffff
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, owner, none}, {2, named, 4321}, {4, 5, none}, {8, named, 5432}, {0x10, 7, none}, {0x20, other, none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// fileCaps is struct vfs_cap_data, revision 2, effective.
func fileCaps(permitted uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = binary.LittleEndian.AppendUint32(b, uint32(permitted))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(permitted>>32))
	return binary.LittleEndian.AppendUint32(b, 0)
}

// properties makes what BTRFS alone has.
func (t *treeMaker) properties() {
	t.dir("properties", 0o755)
	t.file("properties/nodatacow", nil)
	t.flags("properties/nodatacow", flagNoCow)
	t.file("properties/nodatacow", t.text(100_000)) // keeps the inode
	t.dir("properties/nodatacow folder", 0o755)
	t.flags("properties/nodatacow folder", flagNoCow)
	t.file("properties/nodatacow folder/inherits", t.text(5000))

	t.file("properties/compressed", nil)
	t.do("properties/compressed", func(path string) error {
		return unix.Lsetxattr(path, "btrfs.compression", []byte("zstd"), 0)
	})
	t.file("properties/compressed", t.text(1<<20))
	t.dir("properties/compressed folder", 0o755)
	t.do("properties/compressed folder", func(path string) error {
		return unix.Lsetxattr(path, "btrfs.compression", []byte("lzo"), 0)
	})
	t.file("properties/compressed folder/inherits", t.text(300_000))
}

// Inode flags of include/uapi/linux/fs.h.
const (
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagNoDump    = 0x40
	flagNoAtime   = 0x80
	flagNoCow     = 0x800000
)

func (t *treeMaker) flags(name string, flags int) {
	t.do(name, func(path string) error { return setFlags(path, flags) })
}

func setFlags(path string, flags int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags)
}

// times sets times with nanoseconds, before 1970 and far ahead; the folders
// last, and from below, as each change in one moves its own.
func (t *treeMaker) times() {
	for _, name := range t.made {
		t.time(name, usualTime(name))
	}
	t.dir("times", 0o755)
	const year = 365 * 24 * 3600
	for name, ts := range map[string]unix.Timespec{
		"nanoseconds": {Sec: 1_600_000_000, Nsec: 123_456_789},
		"last one":    {Sec: 1_600_000_000, Nsec: 999_999_999},
		"zero":        {},
		"before 1970": {Sec: -2, Nsec: 500_000_000},
		"1900":        {Sec: -70 * year, Nsec: 1},
		"2500":        {Sec: 530 * year, Nsec: 2},
	} {
		t.file("times/"+name, []byte(name))
		t.time("times/"+name, ts)
	}
	t.time("links/loop", unix.Timespec{Sec: 1_500_000_000, Nsec: 7})
	t.time("specials/fifo", unix.Timespec{Sec: 1_500_000_000, Nsec: 8})
	t.time("specials/null", unix.Timespec{Sec: 1_500_000_000, Nsec: 9})
	for i := len(t.dirs) - 1; i >= 0; i-- {
		t.time(t.dirs[i], usualTime(t.dirs[i]))
	}
}

// usualTime is a time that follows from the name, so that it is the same in every tree.
func usualTime(name string) unix.Timespec {
	h := fnv.New64a()
	h.Write([]byte(name))
	n := h.Sum64()
	return unix.Timespec{Sec: 1_400_000_000 + int64(n%100_000_000), Nsec: int64(n>>20) % 1_000_000_000}
}

func (t *treeMaker) time(name string, mtime unix.Timespec) {
	t.do(name, func(path string) error {
		now := unix.Timespec{Nsec: unix.UTIME_OMIT}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{now, mtime}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// locked makes what cannot be changed any more.
func (t *treeMaker) locked() {
	t.dir("locked", 0o755)
	t.file("locked/immutable", t.random(300_000))
	t.file("locked/append only", t.random(5000))
	t.file("locked/nodump noatime", t.random(5000))
	t.dir("locked/immutable folder", 0o755)
	t.file("locked/immutable folder/file", t.random(5000))
	t.dir("locked/append-only folder", 0o755)
	for _, name := range []string{"immutable", "append only", "nodump noatime", "immutable folder/file", "immutable folder", "append-only folder"} {
		t.time("locked/"+name, usualTime(name))
	}
	t.time("locked", usualTime("locked"))
	t.time("", usualTime(""))
	t.flags("locked/immutable", flagImmutable)
	t.flags("locked/append only", flagAppend)
	t.flags("locked/nodump noatime", flagNoDump|flagNoAtime)
	t.flags("locked/immutable folder", flagImmutable)
	t.flags("locked/append-only folder", flagAppend)
}

// Unlock takes the immutable and append-only flags off everything under root, so
// that it can be deleted.
func Unlock(root string) error {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("unlock %s: %w", root, err)
	}
	defer unix.Close(fd)
	if err := unlock(fd, true); err != nil {
		return fmt.Errorf("unlock %s: %w", root, err)
	}
	return nil
}

// unlock goes step by step, as paths may be too long.
func unlock(fd int, dir bool) error {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil && err != unix.ENOTTY && err != unix.EOPNOTSUPP {
		return err
	}
	if flags&(flagImmutable|flagAppend) != 0 {
		if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^(flagImmutable|flagAppend)); err != nil {
			return err
		}
	}
	if !dir {
		return nil
	}
	names, err := dirNames(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		kind := st.Mode & unix.S_IFMT
		if kind != unix.S_IFDIR && kind != unix.S_IFREG {
			continue
		}
		in, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unlock(in, kind == unix.S_IFDIR)
		unix.Close(in)
		if err != nil {
			return fmt.Errorf("%.300q: %w", name, err)
		}
	}
	return nil
}
