package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open is FUSE_OPEN. The kernel has made O_CREAT and O_EXCL, and all checks of permission; O_TRUNC is ours (ATOMIC_O_TRUNC).
func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c := f.begin("open", cancel, &in.InHeader)
	defer f.takeBack(c)
	return c.end(f.open(c, c.ino, in.Flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0, out))
}

func (f *FS) open(c *call, ino uint64, flags uint32, kill bool, out *fuse.OpenOut) error {
	write := flags&unix.O_ACCMODE != unix.O_RDONLY
	if write && f.fenced.Load() {
		return ErrFenced
	}
	truncate := flags&unix.O_TRUNC != 0
	n, err := f.acquire(c, ino, write || truncate, flags&unix.O_APPEND != 0)
	if err != nil {
		return err
	}
	if write || truncate {
		if err := f.steady(func() error { return n.frozen(flags&unix.O_APPEND != 0 && !truncate) }); err != nil {
			f.drop(n)
			return err
		}
	}
	if truncate && !f.truncated(c) {
		if err := f.truncate(c, n, 0, kill, true); err != nil {
			f.drop(n)
			return err
		}
		f.table.note(c.request(), 0, 0)
	}
	if write && !n.anchored.Load() { // somebody opened it who only reads
		if err := f.tree.Anchor(n.fdW); err != nil {
			f.drop(n)
			return err
		}
		n.anchored.Store(true)
	}
	f.opened(c, flags, &handle{node: n, write: write}, out)
	return nil
}

// opened makes h, of which the node's reference becomes its own, an open handle.
func (f *FS) opened(c *call, flags uint32, h *handle, out *fuse.OpenOut) {
	h.append = flags&unix.O_APPEND != 0
	if f.opt.Opened != nil {
		f.opt.Opened(h.node.ino)
	}
	f.server.lastFile.Store(h.node.ino)
	f.enterMode(c, h, flags, out)
	f.handles.add(h, c.request())
	out.Fh = h.id
}

// Release is FUSE_RELEASE.
func (f *FS) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	c := f.begin("release", cancel, &in.InHeader)
	if h := f.handles.remove(in.Fh); h != nil {
		f.closeHandle(h)
	}
	c.end(nil)
}

// Create is FUSE_CREATE: the kernel knows of no such name, and holds the directory.
func (f *FS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	c := f.begin("create", cancel, &in.InHeader)
	defer f.takeBack(c)
	return c.end(f.create(c, in, name, out))
}

func (f *FS) create(c *call, in *fuse.CreateIn, name string, out *fuse.CreateOut) error {
	fd := -1
	err := f.make(c, &in.InHeader, name, in.Mode&^unix.S_IFMT, in.Umask, &out.EntryOut, func(dirfd int, mode uint32) (err error) {
		fd, err = unix.Openat(dirfd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_LARGEFILE|unix.O_CLOEXEC, mode)
		return err
	}, nil)
	if err == unix.EEXIST && (in.Flags&unix.O_EXCL == 0 || c.replayed()) {
		return f.createExisting(c, in, name, out)
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return err
	}
	f.made(c, fd, in, out)
	return nil
}

// made makes the new file fd, whose entry out describes, an open handle.
func (f *FS) made(c *call, fd int, in *fuse.CreateIn, out *fuse.CreateOut) {
	n := f.adopt(out.Attr.Ino, fd)
	f.opened(c, in.Flags, &handle{node: n, write: in.Flags&unix.O_ACCMODE != unix.O_RDONLY, made: out.Attr.Mode}, &out.OpenOut)
	out.SetAttrTimeout(f.madeTimeout(&out.Attr))
}

// createExisting opens a file that came into being since the kernel looked, or was made by the first execution of this request. (Not adopted
// as new: whether all of it is here is asked.)
func (f *FS) createExisting(c *call, in *fuse.CreateIn, name string, out *fuse.CreateOut) error {
	var st unix.Statx_t
	if c.replayed() {
		if err := f.finishMode(c.ino, name, in.Mode&^unix.S_IFMT, in.Umask); err != nil {
			return err
		}
	}
	if err := f.lookup(c, c.ino, name, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EEXIST // the kernel looks again and follows what is there
	}
	if err := f.open(c, st.Ino, in.Flags, in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0, &out.OpenOut); err != nil {
		return err
	}
	err := f.statIno(st.Ino, &st)
	if err != nil {
		if h := f.handles.remove(out.Fh); h != nil {
			f.closeHandle(h)
		}
		return err
	}
	f.fillEntry(c, &out.EntryOut, &st)
	return nil
}

// Tmpfile is FUSE_TMPFILE: a file without a name, which may get one by link (unless O_EXCL).
func (f *FS) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	c := f.begin("tmpfile", cancel, &in.InHeader)
	defer f.takeBack(c)
	return c.end(f.tmpfile(c, in, out))
}

func (f *FS) tmpfile(c *call, in *fuse.CreateIn, out *fuse.CreateOut) error {
	if err := f.roomForInode(); err != nil {
		return err
	}
	d, err := f.openDir(c.ino)
	if err != nil {
		return err
	}
	defer d.release()
	fd := -1
	err = f.change(func() error {
		mode, add := f.masked(d, in.Mode&^unix.S_IFMT, in.Umask)
		err := f.as(in.Uid, in.Gid, func() (err error) {
			flags := unix.O_TMPFILE | unix.O_RDWR | unix.O_LARGEFILE | unix.O_CLOEXEC | int(in.Flags&unix.O_EXCL)
			fd, err = unix.Openat(d.fd, ".", flags, mode)
			return err
		})
		if err != nil {
			return err
		}
		return addModeFD(fd, add)
	})
	var st unix.Statx_t
	if err == nil {
		err = f.stat(fd, "", &st)
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return err
	}
	f.fillEntry(c, &out.EntryOut, &st)
	f.made(c, fd, in, out)
	return nil
}
