package fusefs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// stat reads the attributes of name in dirfd, or of dirfd itself if name is
// empty, as an application has to see them. EXDEV where that is no inode of
// this subvolume: a nested subvolume (in a snapshot: the empty inode 2 in its place), or something mounted there.
func (f *FS) stat(dirfd int, name string, st *unix.Statx_t) error {
	complete := f.res.Complete() // asked first: what is read while it becomes so still shows traces of fetching
	for range 100 {
		if err := statAt(dirfd, name, st); err != nil {
			return err
		}
		if unix.Mkdev(st.Dev_major, st.Dev_minor) != f.dev || st.Ino < rootIno || st.Ino == rootIno && name != "" {
			return unix.EXDEV
		}
		if complete {
			return nil
		}
		again, err := f.statPartial(dirfd, name, st)
		if !again {
			return err
		}
	}
	return unix.ESTALE
}

// statPartial reads st once more while no fetch changes it, and has it
// corrected. again: the name was given to another inode meanwhile.
func (f *FS) statPartial(dirfd int, name string, st *unix.Statx_t) (again bool, err error) {
	path := procPath(dirfd)
	if name != "" {
		path += "/" + name
	}
	ino := st.Ino
	err = f.res.Look(ino, func() error {
		if err := statAt(dirfd, name, st); err != nil {
			return err
		}
		if st.Ino != ino {
			again = true
			return nil
		}
		return f.res.Overlay(path, st)
	})
	return again, err
}

func statAt(dirfd int, name string, st *unix.Statx_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return unix.Statx(dirfd, name, flags, statMask, st)
}

// reach returns a descriptor good for fstat, for *at calls and for /proc/self/fd of inode ino,
// and what gives it back. The one of an open file is used where there is one: it works also when the file has no name.
func (f *FS) reach(ino uint64) (fd int, release func(), err error) {
	if ino == rootIno {
		return f.tree.RootFD(), func() {}, nil
	}
	if n := f.held(ino); n != nil {
		n.mu.Lock()
		fd = n.fdR
		n.mu.Unlock()
		if fd >= 0 {
			return fd, func() { f.drop(n) }, nil
		}
		f.drop(n)
	}
	if d := f.dirs.get(ino); d != nil {
		return d.fd, d.release, nil
	}
	fd, err = f.tree.Open(ino, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return -1, nil, err
	}
	return fd, func() { unix.Close(fd) }, nil
}

// statIno is stat by inode number.
func (f *FS) statIno(ino uint64, st *unix.Statx_t) error {
	fd, release, err := f.reach(ino)
	if err != nil {
		return err
	}
	defer release()
	return f.stat(fd, "", st)
}

// GetAttr is FUSE_GETATTR.
func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	c := f.begin("getattr", cancel, &in.InHeader)
	var st unix.Statx_t
	err := f.statIno(c.ino, &st)
	if err == nil {
		f.fillAttr(&out.Attr, &st)
		timeout := f.attrTimeout(c, &st)
		if timeout == 0 && in.Flags()&fuse.FUSE_GETATTR_FH != 0 && st.Mode&suidBits == 0 {
			timeout = min(sizeAttr, f.opt.Timeouts.Attr)
		}
		out.SetTimeout(timeout)
	}
	return c.end(err)
}

// Statx is FUSE_STATX, which the kernel sends for the birth time only.
func (f *FS) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	c := f.begin("statx", cancel, &in.InHeader)
	var st unix.Statx_t
	err := f.statIno(c.ino, &st)
	if err == nil {
		out.FromStatx(&st)
		out.SetTimeout(f.attrTimeout(c, &st))
	}
	return c.end(err)
}

// fillAttr sets out from st.
func (f *FS) fillAttr(out *fuse.Attr, st *unix.Statx_t) {
	*out = fuse.Attr{
		Ino: st.Ino, Size: st.Size, Blocks: st.Blocks,
		Atime: uint64(st.Atime.Sec), Atimensec: st.Atime.Nsec,
		Mtime: uint64(st.Mtime.Sec), Mtimensec: st.Mtime.Nsec,
		Ctime: uint64(st.Ctime.Sec), Ctimensec: st.Ctime.Nsec,
		Mode: uint32(st.Mode), Nlink: st.Nlink,
		Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		// The protocol has the kernel's 32-bit form: 12 bits of major, 20 of minor.
		Rdev:    st.Rdev_minor&0xff | st.Rdev_major<<8 | (st.Rdev_minor&^0xff)<<12,
		Blksize: st.Blksize,
	}
}

// fillEntry sets out for a name that leads to the inode with attributes st, which were read since c began.
func (f *FS) fillEntry(c *call, out *fuse.EntryOut, st *unix.Statx_t) {
	out.NodeId = inoToNode(st.Ino)
	out.Generation = 1 // a subvolume never gives an inode number twice
	out.SetEntryTimeout(f.opt.Timeouts.Entry)
	out.SetAttrTimeout(f.attrTimeout(c, st))
	f.fillAttr(&out.Attr, st)
}

const (
	mappedRecently = time.Minute
	shortAttr      = time.Second
	// sizeAttr is for who asks with a handle: that is not stat or fstat, but lseek(SEEK_END), which databases call several times in each query, and
	// which would wait for an answer from here each time. Who also stores through a mapping may see the times of that so much later.
	sizeAttr = 100 * time.Millisecond
)

// attrTimeout is how long the kernel may keep st, which was read since c began. All changes pass the kernel, which then asks again, but for:
//
//   - setuid and setgid bits, cleared by the backing file system under a passthrough write;
//   - times of a file that is written in passthrough mode, or through a mapping made in that mode (behind.go);
//   - directories of a volume that is still being filled.
func (f *FS) attrTimeout(c *call, st *unix.Statx_t) time.Duration {
	long := f.opt.Timeouts.Attr
	short := min(shortAttr, long)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if !f.res.Complete() {
			return short
		}
	case unix.S_IFREG:
		if f.passOff.Load() {
			return long
		}
		if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 || f.behind.had(st.Ino, c.forgotten) {
			return 0
		}
		if f.behind.no.Load() && time.Since(time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec))) < mappedRecently {
			return short
		}
	}
	return long
}

// madeTimeout is attrTimeout for a file that the kernel gets with its handle. As long as it is empty nobody can store through a mapping of it, and
// all that gives it content makes the kernel ask again. The kernel looks at the mode before open(2) returns: with a timeout of 0 it would ask us at once.
func (f *FS) madeTimeout(attr *fuse.Attr) time.Duration {
	if attr.Mode&suidBits != 0 || attr.Size != 0 {
		return 0
	}
	return min(shortAttr, f.opt.Timeouts.Attr)
}
