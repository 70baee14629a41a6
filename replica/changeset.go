package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot/wire"
)

// maxChanges bounds what a set of changes holds: names, inodes and ranges, in all. Each takes about 200 bytes or less.
const maxChanges = 200_000

// errTooMany: the snapshots differ in more than a change set may hold.
var errTooMany = errors.New("too many changes to hold")

// change is what the kernel says of one inode that both snapshots have.
type change struct {
	ranges []wire.Range // of changed bytes; ascending and merged by finish
}

// changes is the difference between two snapshots of one subvolume: where names changed, and which inodes did.
//
// The kernel's stream is a script: each path in it is one of the moment. So the script's effect on names is kept as a layer over
// the earlier snapshot's directories, and paths are looked up in the two. What a name or an inode is in the end is not taken from the
// script but read from the later snapshot: that a name is here means "look again", no more. That makes the set complete for what the
// stream does not tell, such as inode flags: an inode whose flags changed has a new change time, and is mentioned for it.
type changes struct {
	tree, was *backing.Tree // later, earlier

	dirs   map[uint64]*dirChange
	inodes map[uint64]*change
	size   int
	limit  int

	parent   uint64 // the directory that was looked up last
	parentIs string
	known    bool // parent and parentIs are set
	at       openDir
}

// dirChange is a layer over one directory.
type dirChange struct {
	fresh bool // it is not in the earlier snapshot
	names map[string]placed
}

// placed is an inode behind a name. The zero value: the earlier snapshot has the name, and it is gone.
type placed struct {
	ino   uint64
	dir   bool
	fresh bool // the inode is not in the earlier snapshot
	over  bool // the earlier snapshot has the name
}

// readChanges asks the kernel. errTooMany, backing.ErrStream and errors of the ioctl: walking is the way to go.
func readChanges(ctx context.Context, was, tree *backing.Tree, limit int) (*changes, error) {
	c := &changes{tree: tree, was: was, limit: limit, dirs: map[uint64]*dirChange{}, inodes: map[uint64]*change{}}
	c.at.tree = was
	defer c.at.close()
	begun := false
	var self [16]byte
	err := backing.SendChanges(ctx, was, tree, func(cmd *backing.SendCommand) error {
		if !begun {
			// Without a parent the stream would be that of a whole subvolume.
			if cmd.Kind != backing.SendSnapshot {
				return fmt.Errorf("%w: it begins with command %d", backing.ErrStream, cmd.Kind)
			}
			begun, self = true, cmd.UUID
			return nil
		}
		if err := c.apply(cmd, self); err != nil {
			return fmt.Errorf("command %d of %q: %w", cmd.Kind, cmd.Path, err)
		}
		if c.size > c.limit {
			return errTooMany
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, c.finish()
}

func (c *changes) apply(cmd *backing.SendCommand, self [16]byte) error {
	switch cmd.Kind {
	case backing.SendEnd:
		return nil
	case backing.SendMkfile, backing.SendMknod, backing.SendMkfifo, backing.SendMksock, backing.SendSymlink:
		return c.place(cmd.Path, placed{ino: cmd.Ino, fresh: true})
	case backing.SendMkdir:
		if err := c.place(cmd.Path, placed{ino: cmd.Ino, dir: true, fresh: true}); err != nil {
			return err
		}
		c.dirs[cmd.Ino] = &dirChange{fresh: true, names: map[string]placed{}}
		c.size++
		return nil
	case backing.SendRename:
		p, err := c.remove(cmd.Path)
		if err == nil {
			err = c.place(cmd.To, p)
		}
		return err
	case backing.SendLink:
		p, err := c.lookup(cmd.LinkTo)
		if err == nil {
			c.touch(p)
			err = c.place(cmd.Path, p)
		}
		return err
	case backing.SendUnlink, backing.SendRmdir:
		p, err := c.remove(cmd.Path)
		if err == nil && !p.dir {
			c.touch(p) // its other names have one name less beside them
		}
		return err
	case backing.SendChmod, backing.SendChown, backing.SendUtimes, backing.SendSetXattr, backing.SendRemoveXattr,
		backing.SendFileattr, backing.SendEnableVerity, backing.SendTruncate:
		// A new size by itself changes no byte: bytes cut off, or zeros in their place, are extents too.
		return c.mention(cmd.Path, 0, 0)
	case backing.SendUpdateExtent, backing.SendFallocate:
		return c.mention(cmd.Path, cmd.Offset, cmd.Size)
	case backing.SendWrite:
		return c.mention(cmd.Path, cmd.Offset, uint64(len(cmd.Data)))
	case backing.SendEncodedWrite:
		return c.mention(cmd.Path, cmd.Offset, cmd.UnencodedFileLen)
	case backing.SendClone:
		if cmd.CloneUUID == self && cmd.ClonePath == cmd.Path && cmd.CloneOffset == cmd.Offset {
			return c.mention(cmd.Path, 0, 0)
		}
		return c.mention(cmd.Path, cmd.Offset, cmd.CloneLen)
	}
	return fmt.Errorf("%w: unexpected command", backing.ErrStream)
}

// mention notes that the inode at path, and n of its bytes from off on, changed.
func (c *changes) mention(path string, off, n uint64) error {
	p, err := c.lookup(path)
	if err != nil {
		return err
	}
	if e := c.touch(p); e != nil && n > 0 {
		end := off + n
		if end < off {
			end = ^uint64(0)
		}
		if k := len(e.ranges); k > 0 && e.ranges[k-1].Off <= off && off <= e.ranges[k-1].Off+e.ranges[k-1].Len {
			e.ranges[k-1].Len = max(e.ranges[k-1].Len, end-e.ranges[k-1].Off)
			return nil
		}
		e.ranges = append(e.ranges, wire.Range{Off: off, Len: end - off})
		c.size++
	}
	return nil
}

// touch returns the change of an inode, nil for one that is new as a whole.
func (c *changes) touch(p placed) *change {
	if p.fresh {
		return nil
	}
	e := c.inodes[p.ino]
	if e == nil {
		e = new(change)
		c.inodes[p.ino] = e
		c.size++
	}
	return e
}

// lookup finds what stands at path now.
func (c *changes) lookup(path string) (placed, error) {
	if path == "" {
		return placed{ino: backing.RootIno, dir: true}, nil
	}
	dir, name, err := c.split(path)
	if err != nil {
		return placed{}, err
	}
	return c.child(dir, name)
}

// child finds a name in a directory.
func (c *changes) child(dir uint64, name string) (placed, error) {
	if d := c.dirs[dir]; d != nil {
		if p, ok := d.names[name]; ok {
			if p.ino == 0 {
				return placed{}, fmt.Errorf("%w: %q is gone by then", backing.ErrStream, name)
			}
			return p, nil
		}
		if d.fresh { // only directories and what was there before are kept of it
			return placed{fresh: true}, nil
		}
	}
	ino, isDir, err := c.at.child(dir, name)
	if err != nil {
		return placed{}, fmt.Errorf("%w: look up %q: %w", backing.ErrStream, name, err)
	}
	return placed{ino: ino, dir: isDir, over: true}, nil
}

// split finds the directory that path is in.
func (c *changes) split(path string) (dir uint64, name string, err error) {
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	if name == "" {
		return 0, "", fmt.Errorf("%w: path %q", backing.ErrStream, path)
	}
	if c.known && c.parentIs == parent {
		return c.parent, name, nil
	}
	dir = backing.RootIno
	if parent != "" {
		for part := range strings.SplitSeq(parent, "/") {
			p, err := c.child(dir, part)
			if err != nil {
				return 0, "", err
			}
			if !p.dir {
				return 0, "", fmt.Errorf("%w: %q is no directory", backing.ErrStream, part)
			}
			dir = p.ino
		}
	}
	c.parent, c.parentIs, c.known = dir, parent, true
	return dir, name, nil
}

func (c *changes) layer(dir uint64) *dirChange {
	d := c.dirs[dir]
	if d == nil {
		d = &dirChange{names: map[string]placed{}}
		c.dirs[dir] = d
		c.size++
	}
	return d
}

// place gives an inode a name, which is free.
func (c *changes) place(path string, p placed) error {
	dir, name, err := c.split(path)
	if err != nil {
		return err
	}
	if p.dir {
		c.known = false // what is cached may lead elsewhere
	}
	d := c.layer(dir)
	if d.fresh && p.fresh && !p.dir {
		return nil // the directory will be listed as a whole
	}
	old, ok := d.names[name]
	if ok && old.ino != 0 {
		return fmt.Errorf("%w: %q is taken", backing.ErrStream, name)
	}
	p.over = ok
	d.names[name] = p
	if !ok {
		c.size++
	}
	return nil
}

// remove takes a name away and returns what stood there.
func (c *changes) remove(path string) (placed, error) {
	dir, name, err := c.split(path)
	if err != nil {
		return placed{}, err
	}
	p, err := c.child(dir, name)
	if err != nil {
		return placed{}, err
	}
	if p.dir {
		c.known = false
	}
	d := c.layer(dir)
	_, ok := d.names[name]
	switch {
	case p.over:
		d.names[name] = placed{}
		if !ok {
			c.size++
		}
	case ok:
		delete(d.names, name)
		c.size--
	}
	return p, nil
}

// finish orders the ranges, and adds to the names those of changed inodes, and those of directories with changed names.
func (c *changes) finish() error {
	for ino, e := range c.inodes {
		slices.SortFunc(e.ranges, func(a, b wire.Range) int { return cmp.Compare(a.Off, b.Off) })
		e.ranges = wire.Union(e.ranges, nil)
		if err := c.addNames(ino); err != nil {
			return err
		}
	}
	queue := make([]uint64, 0, len(c.dirs))
	for ino := range c.dirs {
		queue = append(queue, ino)
	}
	for len(queue) > 0 {
		ino := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if ino == backing.RootIno {
			continue
		}
		names, err := c.tree.Names(ino)
		if err != nil {
			return err
		}
		for _, n := range names {
			if c.dirs[n.Dir] == nil {
				queue = append(queue, n.Dir)
			}
			c.add(n)
		}
		if c.size > c.limit {
			return errTooMany
		}
	}
	return nil
}

func (c *changes) addNames(ino uint64) error {
	if ino == backing.RootIno {
		return nil
	}
	names, err := c.tree.Names(ino)
	if err != nil {
		return err
	}
	for _, n := range names {
		c.add(n)
	}
	if c.size > c.limit {
		return errTooMany
	}
	return nil
}

func (c *changes) add(n backing.InodeName) {
	d := c.layer(n.Dir)
	if _, ok := d.names[n.Name]; !ok {
		d.names[n.Name] = placed{}
		c.size++
	}
}

// none tells that the snapshots are equal.
func (c *changes) none() bool { return len(c.dirs) == 0 && len(c.inodes) == 0 }

// namesIn returns the names of a directory that have to be looked at, in order.
func (c *changes) namesIn(dir uint64) []string {
	d := c.dirs[dir]
	if d == nil {
		return nil
	}
	out := make([]string, 0, len(d.names))
	for name := range d.names {
		if dir != backing.RootIno || name != hiddenDir {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
