package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Names are resolved one at a time, relative to the descriptor of a directory that
// was opened by inode number, and never through a symbolic link: whatever is
// renamed meanwhile, an operation stays inside the subvolume.

// fillVictim fills name in dirfd if it is a directory, which is about to be removed: whether it is empty has to be known.
func (f *FS) fillVictim(c *call, dirfd int, name string) error {
	if f.res.Complete() {
		return nil
	}
	var st unix.Statx_t
	if err := statAt(dirfd, name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // the removal itself says what is wrong
	}
	if unix.Mkdev(st.Dev_major, st.Dev_minor) != f.dev {
		return nil
	}
	return f.res.Fill(c, st.Ino)
}

// Lookup is FUSE_LOOKUP. A name that does not exist is answered as an entry without inode, so that the kernel remembers it.
func (f *FS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	c := f.begin("lookup", cancel, h)
	var st unix.Statx_t
	err := f.lookup(c, c.ino, name, &st)
	switch err {
	case nil:
		f.fillEntry(c, out, &st)
	case unix.ENOENT:
		out.NodeId = 0
		out.SetEntryTimeout(f.opt.Timeouts.Negative)
		err = nil
	}
	return c.end(err)
}

func (f *FS) lookup(c *call, parent uint64, name string, st *unix.Statx_t) error {
	// "." and ".." come when a file handle of ours (name_to_handle_at, NFS) is opened that the kernel has forgotten.
	if name == "." {
		return f.statHandle(parent, st)
	}
	if hidden(parent, name) {
		return unix.ENOENT
	}
	if name == ".." {
		dirfd, err := f.tree.Open(parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(dirfd)
		if parent == rootIno {
			return f.stat(dirfd, "", st)
		}
		up, err := unix.Openat(dirfd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(up)
		return f.stat(up, "", st)
	}
	d, err := f.directory(c, parent)
	if err != nil {
		return err
	}
	defer d.release()
	return f.stat(d.fd, name, st)
}

// statHandle is statIno for an inode reached by a file handle. One without a name is gone, unless a process has it open;
// that we still hold it as a victim does not count.
func (f *FS) statHandle(ino uint64, st *unix.Statx_t) error {
	if err := f.statIno(ino, st); err != nil {
		return err
	}
	if st.Nlink > 0 {
		return nil
	}
	n := f.held(ino)
	if n == nil {
		return unix.ESTALE
	}
	f.drop(n)
	return nil
}

// Forget is FUSE_FORGET: nothing is remembered but what was removed while in use.
func (f *FS) Forget(node, nlookup uint64) { f.gone.forget(nodeToIno(node)) }

// Readlink is FUSE_READLINK.
func (f *FS) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	c := f.begin("readlink", cancel, h)
	fd, release, err := f.reach(c.ino)
	if err != nil {
		return nil, c.end(err)
	}
	defer release()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return nil, c.end(err)
	}
	return buf[:n], c.end(nil)
}

// make runs do, which makes name in directory parent, as the caller would, and answers with the new entry. add are permission
// bits that our own umask took away. In a replay the name may be there: made says whether it is what do makes; nil, where the caller finds out.
func (f *FS) make(c *call, h *fuse.InHeader, name string, mode, umask uint32, out *fuse.EntryOut, do func(dirfd int, mode uint32) error, made func(dirfd int) error) error {
	if hidden(c.ino, name) {
		return unix.EPERM
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := f.roomForInode(); err != nil {
		return err
	}
	d, err := f.directory(c, c.ino)
	if err != nil {
		return err
	}
	defer d.release()
	dirfd := d.fd
	err = f.change(func() error {
		mode, add := f.masked(d, mode, umask)
		err := f.as(h.Uid, h.Gid, func() error { return do(dirfd, mode) })
		if err == unix.EEXIST && c.replayed() && made != nil {
			err = made(dirfd)
		}
		if err != nil {
			return err
		}
		return addMode(dirfd, name, add)
	})
	if err != nil {
		return err
	}
	var st unix.Statx_t
	if err := f.stat(dirfd, name, &st); err != nil {
		return err
	}
	f.fillEntry(c, out, &st)
	return nil
}

// Mknod is FUSE_MKNOD.
func (f *FS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	c := f.begin("mknod", cancel, &in.InHeader)
	return c.end(f.make(c, &in.InHeader, name, in.Mode, in.Umask, out, func(dirfd int, mode uint32) error {
		return unix.Mknodat(dirfd, name, mode, int(in.Rdev))
	}, func(dirfd int) error { return c.madeNode(dirfd, name, in.Mode, uint64(in.Rdev)) }))
}

// Mkdir is FUSE_MKDIR.
func (f *FS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	c := f.begin("mkdir", cancel, &in.InHeader)
	return c.end(f.make(c, &in.InHeader, name, in.Mode, in.Umask, out, func(dirfd int, mode uint32) error {
		return unix.Mkdirat(dirfd, name, mode)
	}, func(dirfd int) error { return c.madeNode(dirfd, name, unix.S_IFDIR, 0) }))
}

// Symlink is FUSE_SYMLINK.
func (f *FS) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	c := f.begin("symlink", cancel, h)
	return c.end(f.make(c, h, name, 0, 0, out, func(dirfd int, _ uint32) error {
		return unix.Symlinkat(target, dirfd, name)
	}, func(dirfd int) error { return c.madeSymlink(dirfd, name, target) }))
}

// Link is FUSE_LINK, of files without a name (O_TMPFILE) too.
func (f *FS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	c := f.begin("link", cancel, &in.InHeader)
	// root: the new name is no new inode, so it has no owner to set.
	h := in.InHeader
	h.Uid, h.Gid = 0, 0
	if err := f.allNames(c, nodeToIno(in.Oldnodeid)); err != nil {
		return c.end(err)
	}
	if err := f.fillAndSettle(c); err != nil { // as for a rename
		return c.end(err)
	}
	return c.end(f.make(c, &h, name, 0, 0, out, func(dirfd int, _ uint32) error {
		fd, release, err := f.reach(nodeToIno(in.Oldnodeid))
		if err != nil {
			return err
		}
		defer release()
		return unix.Linkat(fd, "", dirfd, name, unix.AT_EMPTY_PATH)
	}, func(dirfd int) error { return c.madeLink(dirfd, name, nodeToIno(in.Oldnodeid)) }))
}

// fillAndSettle returns when the directory of c is filled, and that is committed.
func (f *FS) fillAndSettle(c *call) error {
	d, err := f.directory(c, c.ino)
	if err != nil {
		return err
	}
	d.release()
	return f.settle(c)
}

// allNames returns when all names of ino are filled, which must not get one more before: the entries of directories that are not filled
// say how many there are, and in the next snapshot they would say too few.
func (f *FS) allNames(c *call, ino uint64) error {
	names, ok := f.res.(Names)
	if !ok || f.res.Complete() {
		return nil
	}
	fd, release, err := f.reach(ino)
	if err != nil {
		return err
	}
	defer release()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink < 2 { // the hidden one counts
		return err
	}
	return names.FillNames(c, procPath(fd))
}

// Unlink is FUSE_UNLINK.
func (f *FS) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove("unlink", cancel, h, name, 0)
}

// Rmdir is FUSE_RMDIR.
func (f *FS) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove("rmdir", cancel, h, name, unix.AT_REMOVEDIR)
}

func (f *FS) remove(op string, cancel <-chan struct{}, h *fuse.InHeader, name string, flags int) fuse.Status {
	c := f.begin(op, cancel, h)
	if hidden(c.ino, name) {
		return c.end(unix.ENOENT)
	}
	if err := checkName(name); err != nil {
		return c.end(err)
	}
	d, err := f.directory(c, c.ino)
	if err != nil {
		return c.end(err)
	}
	defer d.release()
	dirfd := d.fd
	if flags&unix.AT_REMOVEDIR != 0 {
		if err := f.fillVictim(c, dirfd, name); err != nil {
			return c.end(err)
		}
	}
	victim := f.keepVictim(dirfd, name)
	err = f.change(func() error { return unix.Unlinkat(dirfd, name, flags) })
	f.removed(victim, err == nil)
	if err == unix.ENOENT && c.replayed() {
		err = nil
	}
	return c.end(err)
}

// Rename is FUSE_RENAME and FUSE_RENAME2; BTRFS itself knows all three flags.
func (f *FS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	c := f.begin("rename", cancel, &in.InHeader)
	return c.end(f.rename(c, in, oldName, newName))
}

func (f *FS) rename(c *call, in *fuse.RenameIn, oldName, newName string) error {
	newIno := nodeToIno(in.Newdir)
	if hidden(c.ino, oldName) {
		return unix.ENOENT
	}
	if hidden(newIno, newName) {
		return unix.EPERM
	}
	if err := checkName(oldName); err != nil {
		return err
	}
	if err := checkName(newName); err != nil {
		return err
	}
	from, err := f.directory(c, c.ino)
	if err != nil {
		return err
	}
	defer from.release()
	to := from
	if newIno != c.ino {
		if to, err = f.directory(c, newIno); err != nil {
			return err
		}
		defer to.release()
	}
	oldDir, newDir := from.fd, to.fd
	if f.renamed(c, in, oldDir, oldName, newDir, newName) {
		return nil
	}
	if to != from { // what is written in passthrough mode, or has such files below it, must not get into what is not committed (mode.go)
		if err := f.settle(c); err != nil {
			return err
		}
	}
	if in.Flags&(unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE) == 0 {
		if err := f.fillVictim(c, newDir, newName); err != nil {
			return err
		}
	}
	var uid, gid uint32
	if in.Flags&unix.RENAME_WHITEOUT != 0 {
		uid, gid = in.Uid, in.Gid // the whiteout is a new inode
	}
	victim := -1
	if in.Flags&(unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE) == 0 {
		victim = f.keepVictim(newDir, newName)
	}
	err = f.change(func() error {
		if err := f.unprotected(procPath(oldDir) + "/" + oldName); err != nil {
			return err
		}
		if in.Flags&unix.RENAME_EXCHANGE != 0 {
			if err := f.unprotected(procPath(newDir) + "/" + newName); err != nil {
				return err
			}
		}
		return f.as(uid, gid, func() error {
			return unix.Renameat2(oldDir, oldName, newDir, newName, uint(in.Flags))
		})
	})
	f.removed(victim, err == nil)
	return err
}
