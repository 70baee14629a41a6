package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// patcher makes the nodes of a local snapshot from the base's tree and the changes since: of directories those with changed
// names, of their names those. Inodes are told apart by number, so what was renamed keeps its content.
//
// Attributes are always read anew; it is content that is taken from the base.
//
// It is used by the goroutine that builds. Files that it opens are not.
type patcher struct {
	*walker
	was     *backing.Tree
	changes *changes
	find    *snapshot.Finder
	top     wire.DirRef       // the base's root directory
	dirs    map[uint64]dirWas // by inode
	moved   map[uint64]*wire.Content
	hidden  uint64  // inode of the hidden folder in was; 0: none
	here    openDir // in the later snapshot
	whole   bool    // list every directory: slower, and the same in the end
}

// dirWas is a directory in the base.
type dirWas struct {
	ref    *wire.DirRef // nil: it was not there
	marked bool         // it was not filled: what was on the disk is not what the base has
}

func newPatcher(w *walker, was *backing.Tree, base wire.DirRef, c *changes) (*patcher, error) {
	p := &patcher{walker: w, was: was, changes: c, find: snapshot.NewFinder(w.base),
		top: base, dirs: map[uint64]dirWas{}, here: openDir{tree: w.tree}}
	st, err := backing.StatxAt(was.RootFD(), hiddenDir)
	if err == nil {
		p.hidden = st.Ino
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return p, nil
}

func (p *patcher) close() { p.here.close() }

// root returns the node of the root directory.
func (p *patcher) root(ctx context.Context) (snapshot.Node, error) {
	st, err := backing.Statx(p.tree.RootFD())
	if err != nil {
		return snapshot.Node{}, err
	}
	p.dev = [2]uint32{st.Dev_major, st.Dev_minor}
	in, err := p.readInode(p.tree.RootFD(), &st)
	if err != nil {
		return snapshot.Node{}, fmt.Errorf("/: %w", err)
	}
	if err := p.lookUpMoved(ctx); err != nil {
		return snapshot.Node{}, fmt.Errorf("read the base: %w", err)
	}
	return p.dirNode(ctx, "", "/", backing.RootIno, in)
}

// node makes the node of a name in directory dir of the later snapshot. was is the base's entry of that name in the same
// directory, or nil. False: there is no such name, or it is left out.
func (p *patcher) node(ctx context.Context, dir uint64, path, name string, was *wire.Entry) (n snapshot.Node, ok bool, err error) {
	dirfd, err := p.here.get(dir)
	if err != nil {
		return n, false, err
	}
	st, err := backing.StatxAt(dirfd, name)
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err != nil {
		return n, false, err
	}
	if p.nested(&st) {
		p.log.Warn().Str("path", join(path, name)).Msg("nested subvolume is left out of the snapshot")
		return n, false, nil
	}
	fd, err := openAt(dirfd, name, uint32(st.Mode))
	if err != nil {
		return n, false, err
	}
	defer unix.Close(fd)
	in, err := p.readInode(fd, &st)
	if err != nil {
		return n, false, err
	}
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFDIR {
		n, err = p.dirNode(ctx, name, join(path, name), st.Ino, in)
		return n, true, err
	}
	if n, err = leafNode(dirfd, name, &st, in); err != nil {
		return n, false, err
	}
	if uint32(st.Mode)&unix.S_IFMT == unix.S_IFREG {
		err = p.content(ctx, &n, dir, &st, in, was)
	}
	return n, true, err
}

// dirNode makes a directory's node: by the mark, by what it was, or by a listing.
func (p *patcher) dirNode(ctx context.Context, name, path string, ino uint64, in *inode) (snapshot.Node, error) {
	n := snapshot.Node{Entry: wire.Entry{Name: name, Attr: in.attr, Nlink: 1}}
	if in.dir != nil {
		ref := in.dir.Ref
		n.Dir = &ref
		return n, nil
	}
	old, err := p.dirBefore(ctx, ino)
	if err != nil {
		return n, err
	}
	// A directory that was filled since lacked its names on the disk before: a name that then went is in no change.
	if old.ref == nil || old.marked || p.whole {
		n.Children = p.listing(ino, path)
		return n, nil
	}
	names := p.changes.namesIn(ino)
	if len(names) == 0 {
		n.Dir = old.ref
		return n, nil
	}
	n.Patch = &snapshot.Patch{Reader: p.base, Old: *old.ref, Names: names,
		Node: func(ctx context.Context, name string, was *wire.Entry) (snapshot.Node, bool, error) {
			return p.node(ctx, ino, path, name, was)
		}}
	return n, nil
}

// listing yields all names of a directory, one that the base does not have, or not as it was on the disk.
func (p *patcher) listing(ino uint64, path string) func(context.Context) iter.Seq2[snapshot.Node, error] {
	return func(ctx context.Context) iter.Seq2[snapshot.Node, error] {
		return func(yield func(snapshot.Node, error) bool) {
			fd, err := p.here.get(ino)
			if err != nil {
				yield(snapshot.Node{}, err)
				return
			}
			names, err := sortedNames(fd, ino == backing.RootIno)
			if err != nil {
				yield(snapshot.Node{}, err)
				return
			}
			for _, n := range names {
				name := n.name
				was, err := p.entryBefore(ctx, backing.InodeName{Dir: ino, Name: name})
				if err != nil {
					yield(snapshot.Node{}, fmt.Errorf("read the base: %w", err))
					return
				}
				n, ok, err := p.node(ctx, ino, path, name, was)
				if err != nil {
					err = fmt.Errorf("%q: %w", name, err)
				}
				if (ok || err != nil) && (!yield(n, err) || err != nil) {
					return
				}
			}
		}
	}
}

// wasMarked tells whether directory ino had not been filled at the time of the base.
func (p *patcher) wasMarked(ino uint64) (bool, error) {
	fd, err := p.was.Open(ino, unix.O_PATH)
	if err != nil {
		return false, fmt.Errorf("open in the base: %w", err)
	}
	defer unix.Close(fd)
	_, err = backing.Getxattr(fd, mark.DirName)
	if errors.Is(err, unix.ENODATA) {
		return false, nil
	}
	return err == nil, err
}

// namesBefore returns the names of an inode in the earlier snapshot that are in the base's tree.
func (p *patcher) namesBefore(ino uint64) ([]backing.InodeName, error) {
	names, err := p.was.Names(ino)
	kept := names[:0]
	for _, n := range names {
		if n.Dir != p.hidden || p.hidden == 0 {
			kept = append(kept, n)
		}
	}
	return kept, err
}

// dirBefore returns directory ino in the base.
func (p *patcher) dirBefore(ctx context.Context, ino uint64) (dirWas, error) {
	if d, ok := p.dirs[ino]; ok {
		return d, nil
	}
	var d dirWas
	if ino == backing.RootIno {
		d.ref = &p.top
	} else {
		names, err := p.namesBefore(ino)
		if err != nil {
			return d, err
		}
		if len(names) > 0 {
			e, err := p.entryBefore(ctx, names[0])
			if err != nil {
				return d, err
			}
			if e != nil {
				d.ref = e.Dir
			}
		}
	}
	if d.ref != nil {
		var err error
		if d.marked, err = p.wasMarked(ino); err != nil {
			return d, err
		}
	}
	if len(p.dirs) >= maxDirsKept {
		clear(p.dirs)
	}
	p.dirs[ino] = d
	return d, nil
}

// maxDirsKept is how many references of directories are remembered.
const maxDirsKept = 10_000

// entryBefore returns the base's entry of a name, nil where it has none that was on the disk.
func (p *patcher) entryBefore(ctx context.Context, n backing.InodeName) (*wire.Entry, error) {
	d, err := p.dirBefore(ctx, n.Dir)
	if err != nil || d.ref == nil || d.marked {
		return nil, err
	}
	return p.find.Find(ctx, *d.ref, n.Name)
}

// maxMoved is how many contents of renamed files are looked up ahead.
const maxMoved = 50_000

// lookUpMoved finds the contents of renamed files in the order of the base, so that each of its pages is opened once. Files beyond
// maxMoved are looked up when they come.
func (p *patcher) lookUpMoved(ctx context.Context) error {
	type place struct {
		ino uint64
		backing.InodeName
	}
	var list []place
	for _, d := range p.changes.dirs {
		for _, n := range d.names {
			if n.ino == 0 || n.dir || n.fresh || len(list) == maxMoved {
				continue
			}
			names, err := p.namesBefore(n.ino)
			if err != nil {
				return err
			}
			if len(names) > 0 {
				list = append(list, place{n.ino, names[0]})
			}
		}
	}
	slices.SortFunc(list, func(a, b place) int { return cmp.Or(cmp.Compare(a.Dir, b.Dir), cmp.Compare(a.Name, b.Name)) })
	p.moved = make(map[uint64]*wire.Content, len(list))
	for _, m := range list {
		e, err := p.entryBefore(ctx, m.InodeName)
		if err != nil {
			return err
		}
		if e != nil && e.Content != nil {
			p.moved[m.ino] = e.Content
		}
	}
	return nil
}

// content gives a regular file its content by reference, or a way to open it that knows which windows did not change.
func (p *patcher) content(ctx context.Context, n *snapshot.Node, dir uint64, st *unix.Statx_t, in *inode, was *wire.Entry) error {
	if in.file != nil && kept(in.file, st) {
		c := in.file.Content
		n.Content = &c
		return nil
	}
	names, err := p.namesBefore(st.Ino)
	if err != nil {
		return err
	}
	before := (*wire.Entry)(nil)
	for _, o := range names {
		if o.Dir == dir && o.Name == n.Name && was != nil {
			before = was
		}
	}
	if c := p.moved[st.Ino]; before == nil && c != nil {
		before = &wire.Entry{Content: c}
	}
	if before == nil && len(names) > 0 {
		if before, err = p.entryBefore(ctx, names[0]); err != nil {
			return err
		}
	}
	if before == nil || before.Content == nil {
		// A new file in the place of an old one, as editors save: its chunks may be the same.
		p.setContent(n, st, in, was)
		return nil
	}
	comparable, err := p.sameMark(st.Ino, in)
	if err != nil {
		return err
	}
	if !comparable {
		p.setContent(n, st, in, before)
		return nil
	}
	var ranges []wire.Range
	if e := p.changes.inodes[st.Ino]; e != nil {
		ranges = e.ranges
	}
	old := before.Content
	if len(ranges) == 0 && old.Size == st.Size {
		n.Content = old
		return nil
	}
	ino, size, m := st.Ino, st.Size, in.file
	n.Open = func(context.Context) (snapshot.File, error) {
		r := newRemote(p.base, old)
		f, err := p.openFile(ino, size, m, r)
		if err != nil {
			return nil, err
		}
		return p.out.file(&changedFile{File: f, was: r, changed: ranges}, ino, true), nil
	}
	return nil
}

// sameMark tells whether equal extents of a file mean equal content: where nothing of it was or is remote, or where what the mark
// says of that did not change. Otherwise a hole may be zeros now and remote bytes before.
func (p *patcher) sameMark(ino uint64, in *inode) (bool, error) {
	fd, err := p.was.Open(ino, unix.O_PATH)
	if err != nil {
		return false, fmt.Errorf("open in the base: %w", err)
	}
	defer unix.Close(fd)
	raw, err := backing.Getxattr(fd, mark.FileName)
	if errors.Is(err, unix.ENODATA) {
		raw, err = nil, nil
	}
	if err != nil {
		return false, err
	}
	if bytes.Equal(raw, in.raw) {
		return true, nil
	}
	var m *mark.File
	if raw != nil {
		if m, err = mark.DecodeFile(raw); err != nil {
			return false, err
		}
	}
	if in.file != nil && in.file.State == mark.Pending {
		return m != nil && sameReference(m, in.file), nil
	}
	return m == nil || m.State == mark.Clean, nil
}

// sameReference tells whether two marks of files that an application changed say the same of their content: that one of them holds attributes
// while something is fetched says nothing of it.
func sameReference(a, b *mark.File) bool {
	if a.State != mark.Pending || a.Kept || b.Kept {
		return false
	}
	x, y := *a, *b
	x.Held, y.Held = false, false
	p, err := x.Encode()
	q, failed := y.Encode()
	return err == nil && failed == nil && bytes.Equal(p, q)
}
