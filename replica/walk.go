package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// hiddenDir is the folder in a volume's root that holds the extra names of inodes whose directories are not all filled.
const hiddenDir = ".fractal-lazy"

// emptySubvolume is the inode number (BTRFS_EMPTY_SUBVOL_DIR_OBJECTID) of the empty folder that a snapshot has in place of a
// nested subvolume.
const emptySubvolume = 2

// walker makes the nodes of one local snapshot, beside the base where there is one.
//
// Errors say what failed in the file or directory at hand; the builder names it.
//
// A node's functions open its inode by number: no descriptor waits for the builder to come back to a node, and a directory
// holds none while the builder is below it.
type walker struct {
	tree   *backing.Tree
	dev    [2]uint32        // device number of the snapshot
	reader *snapshot.Reader // what marks refer to
	log    zerolog.Logger
	// foreign: the snapshot is of a clone, and its marks speak of blocks of another volume.
	foreign bool
	// lifted is the inode whose flags a process that died had lifted; the zero value: none.
	lifted mark.Lifted

	// search: regular files are looked up in the subvolume's tree (search.go), not one by one.
	search bool

	base   *snapshot.Reader // of the base's tree; nil: there is no base
	origin *origin          // the base's local snapshot; nil: not here
	out    *outliner        // nil: the tree is to be published
}

// counterpart is a directory of the base with the same name as one that is walked. The zero value: none.
type counterpart struct {
	ref *wire.DirRef
	ino uint64 // in the base's local snapshot; 0: not there
}

// root returns the node of the snapshot's root directory, beside the base's root.
func (w *walker) root(was counterpart) (snapshot.Node, error) {
	st, err := backing.Statx(w.tree.RootFD())
	if err != nil {
		return snapshot.Node{}, err
	}
	w.dev = [2]uint32{st.Dev_major, st.Dev_minor}
	in, err := w.readInode(w.tree.RootFD(), &st)
	if err != nil {
		return snapshot.Node{}, fmt.Errorf("/: %w", err)
	}
	return w.dirNode("", "/", &st, in, was), nil
}

// children lists the directory ino in byte order of names.
func (w *walker) children(ino uint64, path string, was counterpart) func(context.Context) iter.Seq2[snapshot.Node, error] {
	return func(ctx context.Context) iter.Seq2[snapshot.Node, error] {
		return func(yield func(snapshot.Node, error) bool) {
			if err := w.list(ctx, ino, path, was, yield); err != nil {
				yield(snapshot.Node{}, err)
			}
		}
	}
}

// list yields the children; path is for messages. After an error, which it returns, or where yield returned false it ends.
func (w *walker) list(ctx context.Context, ino uint64, path string, was counterpart, yield func(snapshot.Node, error) bool) error {
	d := dir{w: w, path: path, ino: ino, wasIno: was.ino, fd: -1, was: -1}
	defer d.close()
	if err := d.open(); err != nil {
		return err
	}
	names, err := sortedNames(d.fd, ino == backing.RootIno)
	if err != nil {
		return err
	}
	ahead := searched{w: w, path: path, names: names}
	if was.ref != nil {
		next, stop := iter.Pull2(w.base.Dir(ctx, *was.ref))
		defer stop()
		d.next = next
	}
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n, ok, err := ahead.node(i); ok || err != nil {
			if err != nil {
				return fmt.Errorf("%q: %w", name.name, err)
			}
			if !yield(n, nil) {
				return nil
			}
			continue
		}
		name := name.name
		if err := d.open(); err != nil {
			return err
		}
		e, err := d.entryBefore(name)
		if err != nil {
			return fmt.Errorf("read the base: %w", err)
		}
		n, ok, err := d.node(name, e)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if n.Children != nil {
			d.close() // a tree can be deeper than there are descriptors
		}
		if ok && !yield(n, nil) {
			return nil
		}
	}
	return nil
}

// dir is a directory that is being listed.
type dir struct {
	w           *walker
	path        string
	ino, wasIno uint64                           // wasIno: of the same directory in the base's local snapshot; 0: none
	fd, was     int                              // descriptors of both; -1: not open
	next        func() (wire.Entry, error, bool) // the base's entries; nil: none
	peek        *wire.Entry                      // read from next and not yet passed
}

// open opens what is not open.
func (d *dir) open() (err error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if d.fd < 0 {
		if d.fd, err = d.w.tree.Open(d.ino, flags); err != nil {
			return fmt.Errorf("open: %w", err)
		}
	}
	if d.was < 0 && d.wasIno != 0 {
		if d.was, err = d.w.origin.tree.Open(d.wasIno, flags); err != nil {
			return fmt.Errorf("open in the base: %w", err)
		}
	}
	return nil
}

func (d *dir) close() {
	for _, fd := range []*int{&d.fd, &d.was} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// entryBefore returns the base's entry of that name, nil where it has none; to be asked in the order of names.
func (d *dir) entryBefore(name string) (*wire.Entry, error) {
	for d.next != nil {
		if d.peek == nil {
			e, err, ok := d.next()
			if err != nil {
				return nil, err
			}
			if !ok {
				d.next = nil
				break
			}
			d.peek = &e
		}
		if d.peek.Name > name {
			break
		}
		e := d.peek
		d.peek = nil
		if e.Name == name {
			return e, nil
		}
	}
	return nil, nil
}

// node makes the node of a name; before is the base's entry of that name, or nil. It returns false for what is left out.
func (d *dir) node(name string, before *wire.Entry) (snapshot.Node, bool, error) {
	st, err := backing.StatxAt(d.fd, name)
	if err != nil {
		return snapshot.Node{}, false, err
	}
	isDir := uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR
	if d.w.nested(&st) {
		d.w.log.Warn().Str("path", join(d.path, name)).Msg("nested subvolume is left out of the snapshot")
		return snapshot.Node{}, false, nil
	}
	was, err := d.statBefore(name, before)
	if err != nil {
		return snapshot.Node{}, false, err
	}
	// Directories have to be looked into in any case: what is in them says nothing about their own times.
	if was != nil && !isDir && before.Mode == uint32(st.Mode) {
		same, err := d.w.origin.unchanged(d.w.tree, &st, was)
		if err != nil {
			return snapshot.Node{}, false, err
		}
		if same {
			return snapshot.Node{Entry: *before}, true, nil
		}
	}
	fd, err := openAt(d.fd, name, uint32(st.Mode))
	if err != nil {
		return snapshot.Node{}, false, err
	}
	defer unix.Close(fd)
	in, err := d.w.readInode(fd, &st)
	if err != nil {
		return snapshot.Node{}, false, err
	}
	if isDir {
		c := counterpart{}
		if before != nil && before.Dir != nil {
			c.ref = before.Dir
			if was != nil && uint32(was.Mode)&unix.S_IFMT == unix.S_IFDIR && was.Ino != emptySubvolume {
				c.ino = was.Ino
			}
		}
		return d.w.dirNode(name, join(d.path, name), &st, in, c), true, nil
	}
	n, err := leafNode(d.fd, name, &st, in)
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFREG {
		d.w.setContent(&n, &st, in, before)
	}
	return n, true, err
}

// leafNode makes the node of what is no directory, without a file's content.
func leafNode(dir int, name string, st *unix.Statx_t, in *inode) (n snapshot.Node, err error) {
	n.Entry = wire.Entry{Name: name, Attr: in.attr}
	n.Nlink, n.Link = in.names(st)
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFLNK {
		n.Target, err = readlink(dir, name)
	}
	return n, err
}

// nested tells whether st is of the folder that stands for a subvolume in the volume.
func (w *walker) nested(st *unix.Statx_t) bool {
	return uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR &&
		(st.Ino == backing.RootIno || st.Ino == emptySubvolume || w.dev != [2]uint32{st.Dev_major, st.Dev_minor})
}

// statBefore returns the inode of that name in the base's local snapshot, nil where there is none to compare with.
func (d *dir) statBefore(name string, before *wire.Entry) (*unix.Statx_t, error) {
	if before == nil || d.was < 0 {
		return nil, nil
	}
	st, err := backing.StatxAt(d.was, name)
	if errors.Is(err, fs.ErrNotExist) { // in a directory that was not filled at that time
		return nil, nil
	}
	return &st, err
}

func (w *walker) dirNode(name, path string, st *unix.Statx_t, in *inode, was counterpart) snapshot.Node {
	n := snapshot.Node{Entry: wire.Entry{Name: name, Attr: in.attr, Nlink: 1}}
	if in.dir != nil {
		ref := in.dir.Ref
		n.Dir = &ref
		return n
	}
	n.Children = w.children(st.Ino, path, was)
	return n
}

// setContent gives a regular file its content by reference, where that is known, or a way to open it.
func (w *walker) setContent(n *snapshot.Node, st *unix.Statx_t, in *inode, before *wire.Entry) {
	m := in.file
	if m != nil && kept(m, st) {
		c := m.Content
		n.Content = &c
		return
	}
	ino, size := st.Ino, st.Size
	n.Open = func(context.Context) (snapshot.File, error) {
		var was *remote
		if before != nil && before.Content != nil {
			was = newRemote(w.base, before.Content)
		}
		f, err := w.openFile(ino, size, m, was)
		return w.out.file(f, ino, false), err
	}
}

// openFile opens a regular file with the mark m, or nil; was is its content in the base, or nil.
func (w *walker) openFile(ino, size uint64, m *mark.File, was *remote) (snapshot.File, error) {
	fd, err := w.tree.Open(ino, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	f := &partialFile{localFile: localFile{fd: fd, size: size}}
	if was != nil {
		f.before = append(f.before, was)
	}
	if m == nil {
		return &f.localFile, nil
	}
	f.mark, f.remote = m, newRemote(w.reader, &m.Content)
	f.before = append(f.before, f.remote)
	if m.State == mark.Clean {
		return &f.localFile, nil
	}
	return f, nil
}

// kept tells whether the mark's content is the file's.
//
// Fetched bytes and written ones look the same on the disk; what tells them apart is that Kept is cleared, and made durable so,
// before the first change by an application. A clean mark goes by the change time, which nobody can set.
func kept(m *mark.File, st *unix.Statx_t) bool {
	if m.Content.Size != st.Size {
		return false
	}
	if m.State == mark.Pending {
		return m.Kept && m.Valid == st.Size && len(m.Zero) == 0
	}
	return m.Unchanged(wire.Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec})
}

// named is a name in a directory, with what the directory says of its inode.
type named struct {
	name string
	ino  uint64 // of a nested subvolume the number of its tree
	typ  uint8  // DT_*
}

// sortedNames returns the names in the directory fd in byte order.
func sortedNames(fd int, root bool) ([]named, error) {
	var names []named
	err := backing.ReadDir(fd, func(name string, ino uint64, typ uint8) error {
		if !root || name != hiddenDir {
			names = append(names, named{name, ino, typ})
		}
		return nil
	})
	slices.SortFunc(names, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return names, err
}

func join(path, name string) string {
	if path == "/" {
		return path + name
	}
	return path + "/" + name
}
