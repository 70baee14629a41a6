package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A request whose answer the kernel never got, because the process ended, comes again to the next one: marked, and perhaps
// executed. What is done here must neither be lost nor done twice. Most of it is the same when it is done again; replays lists for each
// request why, or what is looked at first. Three facts carry the reasoning:
//
//   - The process that asked still waits, and the kernel still holds for it what it held: the directory whose names change (both of a rename), the inode
//     that is written to, truncated, preallocated or given attributes. So nobody else came in between.
//   - The kernel had looked before it asked: a name to be made was not there, a name to be removed was.
//   - The process that executed it first has ended altogether before the next one reads anything.
//
// Where the disk alone does not tell whether something was done, it is noted in the table, which outlives the process, before it is done.

// replayBit is FUSE_UNIQUE_RESEND of linux/fuse.h.
const replayBit = 1 << 63

func (c *call) replayed() bool { return c.unique&replayBit != 0 }

// request is the request's number, the same in a replay.
func (c *call) request() uint64 { return c.unique &^ replayBit }

// replays says what a replay of each request is. own: code of its own.
var replays = []struct {
	name string
	own  bool
	why  string
}{
	{"LOOKUP", false, "changes nothing"},
	{"FORGET", false, "has no answer, so it never comes again; nothing is remembered"},
	{"BATCH_FORGET", false, "as FORGET"},
	{"READLINK", false, "changes nothing"},
	{"GETATTR", false, "changes nothing"},
	{"STATX", false, "changes nothing"},
	{"GETXATTR", false, "changes nothing"},
	{"LISTXATTR", false, "changes nothing"},
	{"READ", false, "changes nothing"},
	{"LSEEK", false, "changes nothing: the position is the kernel's"},
	{"READDIR", false, "changes nothing: offsets belong to the names, not to the handle"},
	{"READDIRPLUS", false, "as READDIR"},
	{"STATFS", false, "changes nothing"},

	{"MKNOD", true, "a name that is there, with the type and number asked for, is the one that was made"},
	{"MKDIR", true, "as MKNOD; permission bits that a crash kept from being added are added"},
	{"SYMLINK", true, "as MKNOD, with the target asked for"},
	{"LINK", true, "a name that is there and is the same inode is the one that was made"},
	{"UNLINK", true, "a name that is not there was removed"},
	{"RMDIR", true, "as UNLINK"},
	{"RENAME", true, "an old name that is not there was renamed if the new one is there"},
	{"RENAME2", true, "as RENAME; EXCHANGE and WHITEOUT leave a name where the old one was, so its inode is noted before"},

	{"SETATTR", false, "sets values that the request carries; the present time of a replay is still within the call. A size set twice is set once: the inode is held"},
	{"SETXATTR", true, "sets a value that the request carries; for CREATE it is noted before that there was none"},
	{"REMOVEXATTR", true, "it is noted before that there was one"},
	{"IOCTL", false, "sets flags that the request carries, all of them"},

	{"OPEN", true, "the handle that was made for it is given back after the new one is made. A truncation is noted after it was done, since others may write meanwhile"},
	{"CREATE", true, "as OPEN; a file that is there is the one that was made, and is opened"},
	{"TMPFILE", true, "as OPEN: the first file goes with its handle"},
	{"RELEASE", true, "a handle that is not there was closed"},
	{"OPENDIR", false, "opens nothing: listings name their directory by its node id"},
	{"RELEASEDIR", false, "as OPENDIR"},

	{"WRITE", true, "the kernel sends the offset, for O_APPEND too, so the same bytes come to the same place; to an append-only file only what is not there yet"},
	{"FALLOCATE", false, "preallocates, punches and zeroes a range that the request names, while the inode is held; the kernel refuses to insert and to collapse"},
	{"COPY_FILE_RANGE", false, "both offsets are in the request; the target is held. Who writes to the source meanwhile may see the later content copied, as without a crash"},
	{"FSYNC", false, "done again, it is as durable"},
	{"FSYNCDIR", false, "as FSYNC"},
}

// takeBack gives back the handle that the first execution of a replayed request made. It is called when the replay is done: till then
// it keeps the inode alive.
func (f *FS) takeBack(c *call) {
	if !c.replayed() {
		return
	}
	fh, ok := f.unanswered[c.request()]
	if !ok {
		return
	}
	if h := f.handles.remove(fh); h != nil {
		f.closeHandle(h)
	}
}

// truncated reports whether a replayed open has truncated its file.
func (f *FS) truncated(c *call) bool {
	if !c.replayed() {
		return false
	}
	_, _, ok := f.table.noted(c.request())
	return ok
}

// A request that makes name in a directory finds it there in a replay. These tell whether it is what the request makes.

func (c *call) madeNode(dirfd int, name string, mode uint32, rdev uint64) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != mode&unix.S_IFMT || st.Rdev != rdev {
		return unix.EEXIST
	}
	return nil
}

func (c *call) madeSymlink(dirfd int, name, target string) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil || string(buf[:n]) != target {
		return unix.EEXIST
	}
	return nil
}

func (c *call) madeLink(dirfd int, name string, ino uint64) error {
	if inoAt(dirfd, name) != ino {
		return unix.EEXIST
	}
	return nil
}

// inoAt is the inode that name stands for, 0 where there is none.
func inoAt(dirfd int, name string) uint64 {
	var st unix.Stat_t
	if unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return 0
	}
	return st.Ino
}

// renamed reports whether a replayed rename was done. Where the names do not tell, it is told by what was noted in the first execution, which this does.
func (f *FS) renamed(c *call, in *fuse.RenameIn, oldDir int, oldName string, newDir int, newName string) bool {
	if in.Flags&(unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) == 0 {
		return c.replayed() && inoAt(oldDir, oldName) == 0 && inoAt(newDir, newName) != 0
	}
	if c.replayed() {
		if ino, _, ok := f.table.noted(c.request()); ok {
			return inoAt(oldDir, oldName) != ino
		}
	}
	f.table.note(c.request(), inoAt(oldDir, oldName), 0)
	return false
}

// xattrThere reports whether fd has the attribute.
func xattrThere(fd int, attr string) bool {
	_, err := unix.Getxattr(procPath(fd), attr, nil)
	return err == nil
}

// setting returns the flags to set attr of fd with: in a replay it may be there because it was set.
func (f *FS) setting(c *call, fd int, attr string, flags uint32) uint32 {
	if flags&unix.XATTR_CREATE == 0 {
		return flags
	}
	if c.replayed() {
		if _, _, ok := f.table.noted(c.request()); ok {
			return flags &^ unix.XATTR_CREATE
		}
	}
	if !xattrThere(fd, attr) {
		f.table.note(c.request(), 0, 0)
	}
	return flags
}

// removedXattr reports whether a replayed removal of attr was done; it notes that one begins.
func (f *FS) removedXattr(c *call, fd int, attr string) bool {
	there := xattrThere(fd, attr)
	if c.replayed() && !there {
		_, _, ok := f.table.noted(c.request())
		return ok
	}
	if there {
		f.table.note(c.request(), 0, 0)
	}
	return false
}

// alreadyAppended returns how many of n bytes at off a replayed write has written. Only the descriptor of an append-only file writes
// where the file ends, wherever it is told to.
func (c *call) alreadyAppended(fd int, off, n uint64) int {
	if !c.replayed() {
		return 0
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_APPEND == 0 {
		return 0
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || uint64(st.Size) <= off {
		return 0
	}
	return int(min(n, uint64(st.Size)-off))
}
