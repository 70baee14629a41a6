package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// SetAttr is FUSE_SETATTR: chmod, chown, utimensat, truncate.
func (f *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c := f.begin("setattr", cancel, &in.InHeader)
	var st unix.Statx_t
	err := f.setattr(c, in)
	if err == nil {
		err = f.statIno(c.ino, &st)
	}
	if err == nil {
		f.fillAttr(&out.Attr, &st)
		out.SetTimeout(f.attrTimeout(c, &st))
	}
	return c.end(err)
}

func (f *FS) setattr(c *call, in *fuse.SetAttrIn) error {
	valid := in.Valid
	if size, ok := in.GetSize(); ok {
		n, err := f.acquire(c, c.ino, true, false)
		if err != nil {
			return err
		}
		defer f.drop(n)
		// ftruncate sets the times also when the size stays; truncate does not. The kernel sends the open file
		// with the one; the time it leaves to us.
		now := valid&fuse.FATTR_FH != 0 || valid&fuse.FATTR_MTIME != 0 && valid&fuse.FATTR_MTIME_NOW != 0
		if err := f.truncate(c, n, size, valid&fuse.FATTR_KILL_SUIDGID != 0, now); err != nil {
			return err
		}
		if now {
			valid &^= fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW
		}
	}
	const rest = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if valid&(rest|fuse.FATTR_SIZE) == 0 {
		return f.modify(c, c.ino, touch)
	}
	if in.Valid&fuse.FATTR_SIZE != 0 && valid&rest == 0 {
		return nil
	}
	return f.modify(c, c.ino, func(fd int) error { return f.applyAttr(c, fd, in, valid) })
}

// touch does what a request without any attribute stands for: chown(-1, -1), which sets the ctime. On BTRFS that
// clears setuid and setgid bits too, but the kernel sends the same for a write that took a file's capabilities
// away, and a privileged writer's setuid bit has to stay. So the bits stay here. Where the file is immutable or append-only, which stops neither, the
// ctime stays too.
func touch(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.Fchownat(fd, "", -1, -1, unix.AT_EMPTY_PATH) // has no bits, and no chmod
	}
	if err := unix.Chmod(procPath(fd), st.Mode&0o7777); err != unix.EPERM {
		return err
	}
	return nil
}

// applyAttr sets the attributes named in valid. The owner goes first, as chown clears setuid and setgid bits: which ones goes by the caller, of whom the kernel's
// flag says nothing here.
func (f *FS) applyAttr(c *call, fd int, in *fuse.SetAttrIn, valid uint32) error {
	if valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		uid, gid := -1, -1
		if valid&fuse.FATTR_UID != 0 {
			uid = int(in.Uid)
		}
		if valid&fuse.FATTR_GID != 0 {
			gid = int(in.Gid)
		}
		chown := func() error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) }
		if err := f.maybePlain(c, !keepsSuid(fd, c.pid), fd, chown); err != nil {
			return err
		}
	}
	if valid&fuse.FATTR_MODE != 0 {
		if err := chmod(fd, in.Mode&0o7777); err != nil {
			return err
		}
	}
	if valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		ts := []unix.Timespec{
			timespec(valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
			timespec(valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
		}
		return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
	}
	return nil
}

// chmod is fchmod(2) that takes a descriptor opened with O_PATH as well.
func chmod(fd int, mode uint32) error {
	if err := unix.Fchmod(fd, mode); err != unix.EBADF {
		return err
	}
	return unix.Chmod(procPath(fd), mode)
}

func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// truncate sets the size of n. kill: the caller may not keep setuid and setgid bits. touch: the times change even if the size does not.
func (f *FS) truncate(c *call, n *node, size uint64, kill, touch bool) error {
	do := func() error {
		return f.change(func() error {
			return f.maybePlain(c, kill, n.fdW, func() error {
				if touch {
					return unix.Ftruncate(n.fdW, int64(size))
				}
				return unix.Truncate(procPath(n.fdW), int64(size))
			})
		})
	}
	if r := n.remote(); r != nil {
		return r.Truncate(c, size, do)
	}
	return do()
}

// modify runs do, which changes attributes of ino through a descriptor (which may be O_PATH), under its residency.
func (f *FS) modify(c *call, ino uint64, do func(fd int) error) error {
	fd, release, err := f.reach(ino)
	if err != nil {
		return err
	}
	defer release()
	change := func() error { return f.change(func() error { return do(fd) }) }
	if f.res.Complete() {
		return change()
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		// Filling sets the times of the snapshot, so it has to come before those of the caller.
		if err := f.res.Fill(c, ino); err != nil {
			return err
		}
		return change()
	default:
		if names, ok := f.res.(Names); ok && st.Nlink > 1 { // the hidden one counts
			if err := names.FillNames(c, procPath(fd)); err != nil {
				return err
			}
		}
		return change()
	}
	n, err := f.acquire(c, ino, false, false)
	if err != nil {
		return err
	}
	defer f.drop(n)
	if r := n.remote(); r != nil {
		return r.Modify(c, change)
	}
	return change()
}
