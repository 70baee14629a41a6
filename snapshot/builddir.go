package snapshot

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
)

// Where pages and index nodes of directories end; docs/FORMAT.md has the rule.
// A writer's choice: readers take any cut within the bounds of package wire.
const (
	minPage     = 32
	minChildren = 16
	// A page ends behind a name whose hash is 0 in its low 7 bits, so that
	// after a change the pages soon end where they did before.
	cutMask = 127
	// An index node of level n looks at the bits from 8*n on.
	cutShift = 8
)

// dirBuild cuts one directory into pages, and these into index nodes.
type dirBuild struct {
	b      *builder
	page   *pageBuild
	levels []*indexBuild // the open node of each level
	closed []bool        // whether a level has a node already
	fresh  bool          // something in or below it was not taken by reference
	done   func(w *worker, ref wire.DirRef)
}

// pageBuild is a page that waits for its entries' references.
type pageBuild struct {
	*join
	entries []wire.Entry
	weight  int
	fresh   bool // it has a file, or a directory with one, that was not taken by reference
	slot    *slot
}

// slot is the place of a page or index node in its parent. The parent reads
// it when all of its slots are done.
type slot struct {
	wire.DirChild
	parent *join
}

type indexBuild struct {
	*join
	level uint8
	slots []*slot
	slot  *slot
	top   bool // has one child only and nothing beside it: that child is the directory
}

// dir walks one directory; done is called when all of it is stored, maybe
// from another goroutine and maybe before dir returns. It tells whether
// a file in or below it was not taken by reference.
func (b *builder) dir(path string, n *Node, done func(*worker, wire.DirRef)) (fresh bool, err error) {
	d := &dirBuild{b: b, done: done}
	d.page = d.newPage()
	switch {
	case n.Patch != nil:
		err = d.patch(path, n.Patch)
	case n.Children != nil:
		err = d.list(path, n)
	default:
		err = fmt.Errorf("/%s: directory without a listing", path)
	}
	if err == nil {
		err = d.finish()
	}
	return d.fresh, err
}

// list takes the children as they come.
func (d *dirBuild) list(path string, n *Node) error {
	b := d.b
	last := ""
	for child, err := range n.Children(b.ctx) {
		if err == nil && b.ctx.Err() != nil {
			err = context.Cause(b.ctx)
		}
		if err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
		if child.Name <= last {
			return fmt.Errorf("/%s: %w: name %q comes after %q", path, wire.ErrFormat, child.Name, last)
		}
		last = child.Name
		if err := d.child(childPath(path, child.Name), &child); err != nil {
			return err
		}
	}
	return nil
}

func childPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}

func (d *dirBuild) child(path string, n *Node) error {
	b, e := d.b, n.Entry
	if err := e.CheckInode(); err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	switch e.Mode & wire.ModeType {
	case wire.ModeReg:
		b.files.Add(1)
		if e.Content != nil {
			b.kept.Add(1)
			b.filesDone.Add(1)
			b.referContent(e.Content)
			break
		}
		f, err := b.file(n)
		if err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
		e.Content = f.content
		page, err := d.place(&e)
		if err != nil {
			return err
		}
		page.fresh = true
		f.wait(page.join)
		return d.endPage(e.Name)
	case wire.ModeDir:
		b.dirs.Add(1)
		if e.Dir != nil {
			b.kept.Add(e.Dir.Files)
			b.unseen.Store(true)
			break
		}
		e.Dir = new(wire.DirRef)
		page, err := d.place(&e)
		if err != nil {
			return err
		}
		page.add()
		ref := e.Dir
		fresh, err := b.dir(path, n, func(w *worker, r wire.DirRef) {
			*ref = r
			page.done(w)
		})
		if err != nil {
			return err
		}
		page.fresh = page.fresh || fresh
		return d.endPage(e.Name)
	}
	if err := e.Check(); err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if _, err := d.place(&e); err != nil {
		return err
	}
	return d.endPage(e.Name)
}

// place puts an entry into the open page, or closes that and puts it into a
// new one where it would become too heavy.
func (d *dirBuild) place(e *wire.Entry) (*pageBuild, error) {
	weight := e.Weight()
	if len(d.page.entries) > 0 && d.page.weight+weight > wire.PageWeight {
		if err := d.closePage(); err != nil {
			return nil, err
		}
	}
	d.page.entries = append(d.page.entries, *e)
	d.page.weight += weight
	return d.page, nil
}

// endPage closes the page behind the name just placed, where the rule says so.
func (d *dirBuild) endPage(name string) error {
	n := len(d.page.entries)
	if n == wire.MaxPage || (n >= minPage && d.b.sealer.NameHash(name)&cutMask == 0) {
		return d.closePage()
	}
	return nil
}

func (d *dirBuild) newPage() *pageBuild {
	p := new(pageBuild)
	p.join = newJoin(func(w *worker) { d.b.putPage(w, p) })
	return p
}

func (b *builder) putPage(w *worker, p *pageBuild) {
	links, payload, err := wire.EncodeDir(p.entries)
	if err == nil {
		p.slot.Node, err = b.putNode(w, seal.KindDir, links, payload)
	}
	if err != nil {
		b.fail(err)
		return
	}
	t := totalsOf(p.entries)
	p.slot.Files, p.slot.Dirs, p.slot.Bytes = t.files, t.dirs, t.bytes
	p.entries = nil
	p.slot.parent.done(w)
}

// closePage hands the open page over to its index node and starts a new one.
func (d *dirBuild) closePage() error {
	p := d.page
	d.page = d.newPage()
	p.slot = new(slot)
	if len(p.entries) > 0 {
		p.slot.First = p.entries[0].Name
	}
	if err := d.push(0, p.slot, false); err != nil {
		return err
	}
	if p.fresh {
		d.fresh = true
		if err := d.b.agePack(p.weight); err != nil {
			return err
		}
	}
	return d.b.submit(nil, p.done)
}

// push adds a node to the open index node above it, and closes that where the
// rule says so. i is the level of the new child; stored: it is there already, and will not call done.
func (d *dirBuild) push(i int, s *slot, stored bool) error {
	if i == wire.MaxDepth {
		return errors.New("directory is too large")
	}
	if i == len(d.levels) {
		d.levels, d.closed = append(d.levels, nil), append(d.closed, false)
	}
	if d.levels[i] == nil {
		d.levels[i] = d.newIndex(uint8(i + 1))
	}
	x := d.levels[i]
	if !stored {
		x.add()
	}
	s.parent = x.join
	x.slots = append(x.slots, s)
	n := len(x.slots)
	if n == wire.MaxChildren || (n >= minChildren && d.b.sealer.NameHash(s.First)>>(cutShift*(i+1))&cutMask == 0) {
		return d.closeIndex(i)
	}
	return nil
}

func (d *dirBuild) closeIndex(i int) error {
	x := d.levels[i]
	d.levels[i], d.closed[i] = nil, true
	x.slot = new(slot)
	x.slot.First = x.slots[0].First
	if err := d.push(i+1, x.slot, false); err != nil {
		return err
	}
	return d.b.submit(nil, x.done)
}

func (d *dirBuild) newIndex(level uint8) *indexBuild {
	x := &indexBuild{level: level}
	x.join = newJoin(func(w *worker) { d.putIndex(w, x) })
	return x
}

func (d *dirBuild) putIndex(w *worker, x *indexBuild) {
	if x.top {
		c := x.slots[0].DirChild
		d.done(w, wire.DirRef{Node: c.Node, Depth: x.level - 1, Files: c.Files, Dirs: c.Dirs, Bytes: c.Bytes})
		return
	}
	children := make([]wire.DirChild, len(x.slots))
	for i, s := range x.slots {
		children[i] = s.DirChild
		x.slot.Files += s.Files
		x.slot.Dirs += s.Dirs
		x.slot.Bytes += s.Bytes
	}
	links, payload, err := wire.EncodeDirIndex(x.level, children)
	if err == nil {
		x.slot.Node, err = d.b.putNode(w, seal.KindDirIndex, links, payload)
	}
	if err != nil {
		d.b.fail(err)
		return
	}
	x.slots = nil
	x.slot.parent.done(w)
}

// finish closes what is open, from the page upwards, until one node is left.
func (d *dirBuild) finish() error {
	if len(d.page.entries) > 0 || len(d.levels) == 0 {
		if err := d.closePage(); err != nil {
			return err
		}
	}
	for i := 0; ; i++ {
		x := d.levels[i]
		if x == nil { // its last node is closed, and stands in the level above
			continue
		}
		if !d.closed[i] && len(x.slots) == 1 {
			x.top = true
			return d.b.submit(nil, x.done)
		}
		if err := d.closeIndex(i); err != nil {
			return err
		}
	}
}
