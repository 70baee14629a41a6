package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// inode is what the walk reads of one inode.
type inode struct {
	attr wire.Attr
	file *mark.File
	dir  *mark.Dir
	link *mark.Link
	lift *mark.Lifted // of the root directory
	raw  []byte       // the mark of a file, as it is stored
}

// readInode reads the attributes and marks of fd, an O_PATH descriptor unless st is of a regular file or a directory.
func readInode(fd int, st *unix.Statx_t) (*inode, error) {
	var flags uint32
	switch uint32(st.Mode) & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		var err error
		if flags, err = backing.GetFlags(fd); err != nil {
			return nil, err
		}
	}
	names, err := backing.Listxattr(fd)
	if err != nil {
		return nil, err
	}
	xattrs := make([]backing.Xattr, len(names))
	for i, name := range names {
		value, err := backing.Getxattr(fd, name)
		if err != nil {
			return nil, err
		}
		xattrs[i] = backing.Xattr{Name: name, Value: value}
	}
	return newInode(st, flags, xattrs)
}

// newInode is the inode of what was read of it, whose values it keeps.
func newInode(st *unix.Statx_t, flags uint32, xattrs []backing.Xattr) (*inode, error) {
	in := &inode{attr: wire.Attr{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Flags: flags & wire.KeptFlags,
		Mtime: wire.Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec},
	}}
	switch uint32(st.Mode) & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		in.attr.Rdev = unix.Mkdev(st.Rdev_major, st.Rdev_minor)
	}
	for _, x := range xattrs {
		if !strings.HasPrefix(x.Name, mark.Prefix) {
			in.attr.Xattrs = append(in.attr.Xattrs, wire.Xattr{Name: x.Name, Value: x.Value})
			continue
		}
		if err := in.setMark(x.Name, x.Value); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(in.attr.Xattrs, func(a, b wire.Xattr) int { return strings.Compare(a.Name, b.Name) })
	in.correct()
	return in, nil
}

// readInode reads an inode for a snapshot of the volume of w. In a clone the references of marks are to blocks that were sealed under another key: none
// may get into its snapshots.
func (w *walker) readInode(fd int, st *unix.Statx_t) (*inode, error) {
	in, err := readInode(fd, st)
	if err != nil {
		return nil, err
	}
	return w.own(in, st)
}

// own makes of an inode what a snapshot of the volume of w has of it.
func (w *walker) own(in *inode, st *unix.Statx_t) (*inode, error) {
	if in.lift != nil {
		w.lifted = *in.lift // the root comes first
	}
	if st.Ino == w.lifted.Ino {
		in.attr.Flags |= w.lifted.Flags
	}
	if !w.foreign {
		return in, nil
	}
	if in.dir != nil || in.file != nil && in.file.State == mark.Pending {
		return nil, ErrForeign
	}
	in.file = nil // clean: the file is read like any other
	return in, nil
}

func (in *inode) setMark(name string, value []byte) (err error) {
	switch name {
	case mark.FileName:
		in.raw = value
		in.file, err = mark.DecodeFile(value)
	case mark.DirName:
		in.dir, err = mark.DecodeDir(value)
	case mark.LinkName:
		in.link, err = mark.DecodeLink(value)
	case mark.LiftedName:
		in.lift, err = mark.DecodeLifted(value)
	case mark.SourceName: // walker.foreign
	case mark.TreeName: // says where the volume came from, which its snapshots do not repeat
	default:
		// A mark of a later version: what it means for the content is not known.
		err = fmt.Errorf("%w: unknown mark %s", mark.ErrFormat, name)
	}
	return err
}

// correct puts back what fetching and filling change about an inode.
func (in *inode) correct() {
	const lifted = wire.FlagImmutable | wire.FlagAppend
	if d := in.dir; d != nil {
		in.attr.Mtime = d.Mtime
		in.attr.Flags = in.attr.Flags&^lifted | d.Flags
	}
	if f := in.file; f != nil && f.Attributes() {
		in.attr.Mtime = f.Mtime
		in.attr.Flags = in.attr.Flags&^lifted | f.Flags
		in.setCaps(f.Caps)
	}
}

const capsName = "security.capability"

func (in *inode) setCaps(caps []byte) {
	at, found := slices.BinarySearchFunc(in.attr.Xattrs, capsName, func(x wire.Xattr, name string) int {
		return strings.Compare(x.Name, name)
	})
	switch {
	case len(caps) == 0 && found:
		in.attr.Xattrs = slices.Delete(in.attr.Xattrs, at, at+1)
	case len(caps) == 0:
	case found:
		in.attr.Xattrs[at].Value = caps
	default:
		in.attr.Xattrs = slices.Insert(in.attr.Xattrs, at, wire.Xattr{Name: capsName, Value: caps})
	}
}

// names returns how many names the inode has in the snapshot, those included that are not filled yet, and the number that ties them
// together, 0 for one name.
func (in *inode) names(st *unix.Statx_t) (nlink uint32, link uint64) {
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR {
		return 1, 0
	}
	nlink = st.Nlink
	if l := in.link; l != nil {
		if l.Hidden && nlink > 0 {
			nlink--
		}
		nlink += l.Pending
		link = l.ID
	}
	if nlink <= 1 {
		return 1, 0
	}
	if link == 0 {
		link = linkID(st)
	}
	return nlink, link
}

// linkID makes the number of an inode that has no mark from what no other inode of the volume has, at any time.
func linkID(st *unix.Statx_t) uint64 {
	var b [20]byte
	binary.LittleEndian.PutUint64(b[0:], st.Ino)
	binary.LittleEndian.PutUint64(b[8:], uint64(st.Btime.Sec))
	binary.LittleEndian.PutUint32(b[16:], st.Btime.Nsec)
	sum := sha256.Sum256(b[:])
	return max(binary.LittleEndian.Uint64(sum[:]), 1)
}

// readlink returns the target of the symbolic link name in dir.
func readlink(dir int, name string) (string, error) {
	var b [wire.MaxTarget + 1]byte
	n, err := unix.Readlinkat(dir, name, b[:])
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	if n > wire.MaxTarget {
		return "", fmt.Errorf("read link: target is over %d bytes", wire.MaxTarget)
	}
	return string(b[:n]), nil
}

// openAt opens name in dir for readInode. Only regular files and directories are really opened: opening a FIFO waits, and
// opening a device does whatever the device does.
func openAt(dir int, name string, mode uint32) (int, error) {
	flags := unix.O_NOFOLLOW | unix.O_CLOEXEC
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		flags |= unix.O_RDONLY | unix.O_NONBLOCK
	case unix.S_IFDIR:
		flags |= unix.O_RDONLY | unix.O_DIRECTORY
	default:
		flags |= unix.O_PATH
	}
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			if err != nil {
				err = fmt.Errorf("open: %w", err)
			}
			return fd, err
		}
	}
}
