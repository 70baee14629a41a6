package snapshot

import (
	"context"
	"fmt"

	"fractal-lazy/snapshot/wire"
)

// patchBuild goes through the old directory and the changed names in step.
//
// Where a page or index node ends depends on nothing before its first name, and
// of what is behind it on the first name there only: an entry too heavy for the page
// ends it. So a node is taken whole, unread, where the new listing has ended a node of its
// level just before it, and no name changed from its first to the first behind it, that
// one included.
type patchBuild struct {
	*dirBuild
	*Patch
	path  string
	names []string // still to come
	last  string   // the name that stood last in an old page
	begun bool     // the new directory has something
}

// patch does what list does, by what the directory was.
func (d *dirBuild) patch(path string, p *Patch) error {
	for i := 1; i < len(p.Names); i++ {
		if p.Names[i] <= p.Names[i-1] {
			return fmt.Errorf("/%s: %w: name %q comes after %q", path, wire.ErrFormat, p.Names[i], p.Names[i-1])
		}
	}
	x := &patchBuild{dirBuild: d, Patch: p, path: path, names: p.Names}
	top := wire.DirChild{Node: p.Old.Node, Files: p.Old.Files, Dirs: p.Old.Dirs, Bytes: p.Old.Bytes}
	return x.node(top, p.Old.Depth, "", true)
}

// node takes the old node c over. behind is the first old name behind it; rightmost: there is none.
func (x *patchBuild) node(c wire.DirChild, level uint8, behind string, rightmost bool) error {
	if x.b.ctx.Err() != nil {
		return context.Cause(x.b.ctx)
	}
	touched := len(x.names) > 0 && (rightmost || x.names[0] <= behind)
	// The last node of its level may have been closed by the end of the directory only. If nothing stands before it now, it
	// is the top, or less than that: which finish knows.
	if !touched && x.aligned(int(level)) && (x.begun || !rightmost) {
		x.begun = true
		x.b.kept.Add(c.Files)
		x.b.unseen.Store(true)
		return x.reuse(int(level), c)
	}
	if level == 0 {
		return x.oldPage(c, behind, rightmost)
	}
	children, err := x.Reader.dirIndex(x.b.ctx, c, level)
	if err != nil {
		return fmt.Errorf("/%s: as it was: %w", x.path, err)
	}
	for i, child := range children {
		next, last := behind, rightmost
		if i+1 < len(children) {
			next, last = children[i+1].First, false
		}
		if err := x.node(child, level-1, next, last); err != nil {
			return err
		}
	}
	return nil
}

func (x *patchBuild) oldPage(c wire.DirChild, behind string, rightmost bool) error {
	entries, err := x.Reader.page(x.b.ctx, c)
	if err == nil && len(entries) > 0 && entries[0].Name <= x.last {
		err = fmt.Errorf("%w: pages overlap at page %s", ErrDamaged, c.Node)
	}
	if err != nil {
		return fmt.Errorf("/%s: as it was: %w", x.path, err)
	}
	for i := range entries {
		e := &entries[i]
		for len(x.names) > 0 && x.names[0] < e.Name {
			if err := x.change(nil); err != nil {
				return err
			}
		}
		if len(x.names) > 0 && x.names[0] == e.Name {
			if err := x.change(e); err != nil {
				return err
			}
			continue
		}
		if err := x.keep(e); err != nil {
			return err
		}
	}
	if len(entries) > 0 {
		x.last = entries[len(entries)-1].Name
	}
	for len(x.names) > 0 && (rightmost || x.names[0] < behind) {
		if err := x.change(nil); err != nil {
			return err
		}
	}
	return nil
}

// change places the next of the names, where there is one now.
func (x *patchBuild) change(was *wire.Entry) error {
	name := x.names[0]
	x.names = x.names[1:]
	n, ok, err := x.Node(x.b.ctx, name, was)
	if err != nil {
		return fmt.Errorf("/%s: %w", childPath(x.path, name), err)
	}
	if !ok {
		return nil
	}
	if n.Name != name {
		return fmt.Errorf("/%s: %w: node %q", childPath(x.path, name), wire.ErrFormat, n.Name)
	}
	x.begun = true
	return x.child(childPath(x.path, name), &n)
}

// keep places an old entry as it is.
func (x *patchBuild) keep(e *wire.Entry) error {
	x.begun = true
	switch {
	case e.Dir != nil:
		x.b.kept.Add(e.Dir.Files)
		x.b.unseen.Store(true)
	case e.Content != nil:
		x.b.kept.Add(1)
		x.b.referContent(e.Content)
	}
	if _, err := x.place(e); err != nil {
		return err
	}
	return x.endPage(e.Name)
}

// aligned tells whether the new directory has no open page, nor an open index node up to the given level.
func (d *dirBuild) aligned(level int) bool {
	if len(d.page.entries) > 0 {
		return false
	}
	for i := 0; i < min(level, len(d.levels)); i++ {
		if d.levels[i] != nil {
			return false
		}
	}
	return true
}

// reuse takes an old node of the given level, 0 for a page, as the next one.
func (d *dirBuild) reuse(level int, c wire.DirChild) error {
	for len(d.levels) < level {
		d.levels, d.closed = append(d.levels, nil), append(d.closed, false)
	}
	for i := range level {
		d.closed[i] = true
	}
	return d.push(level, &slot{DirChild: c}, true)
}
