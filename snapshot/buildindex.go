package snapshot

import (
	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"
)

// fileNode is an index node of a file that waits for what is below it.
type fileNode struct {
	*join
	pos      wire.FilePos
	windows  []*wire.Window
	children []*wire.FileChild
	entry    bool            // its windows stand in the entry
	slot     *wire.FileChild // in the parent, nil at the top
	up       *join
}

// leaf returns the open leaf that covers a window.
func (fb *fileBuild) leaf(index uint64) (*fileNode, error) {
	first := index - index%wire.IndexFanout
	if len(fb.levels) > 0 && fb.levels[0] != nil {
		if fb.levels[0].pos.First == first {
			return fb.levels[0], fb.unhold()
		}
		x := fb.levels[0]
		fb.levels[0] = nil
		if fb.windows < wire.MaxInline {
			fb.held = append(fb.held, x)
		} else {
			if err := fb.unhold(); err != nil {
				return nil, err
			}
			if err := fb.push(x); err != nil {
				return nil, err
			}
		}
	}
	if len(fb.levels) == 0 {
		fb.levels = make([]*fileNode, wire.MinDepth(fb.content.Size, fb.content.ChunkSize))
	}
	fb.levels[0] = fb.newNode(1, first)
	return fb.levels[0], nil
}

// unhold gives up on an entry without an index when its windows are too many.
func (fb *fileBuild) unhold() error {
	if fb.windows < wire.MaxInline {
		return nil
	}
	for _, x := range fb.held {
		if err := fb.push(x); err != nil {
			return err
		}
	}
	fb.held = nil
	return nil
}

func (fb *fileBuild) newNode(level uint8, first uint64) *fileNode {
	x := &fileNode{pos: wire.FilePos{
		Size: fb.content.Size, ChunkSize: fb.content.ChunkSize, Level: level, First: first,
	}}
	x.join = newJoin(func(w *worker) { fb.put(w, x) })
	return x
}

// push closes a node: it becomes a child of the open node above it, which is
// closed first where it does not cover it.
func (fb *fileBuild) push(x *fileNode) error {
	level := x.pos.Level
	if int(level) == len(fb.levels) {
		fb.join.add()
		x.up = fb.join
		return fb.b.submit(nil, x.done)
	}
	first := x.pos.First - x.pos.First%wire.Covers(level+1)
	up := fb.levels[level]
	if up != nil && up.pos.First != first {
		fb.levels[level] = nil
		if err := fb.push(up); err != nil {
			return err
		}
		up = nil
	}
	if up == nil {
		up = fb.newNode(level+1, first)
		fb.levels[level] = up
	}
	x.slot = &wire.FileChild{First: x.pos.First}
	up.children = append(up.children, x.slot)
	up.add()
	x.up = up.join
	return fb.b.submit(nil, x.done)
}

// finish closes what is open. With few windows these stand in the entry.
func (fb *fileBuild) finish() error {
	if len(fb.levels) == 0 {
		return nil
	}
	fb.held = append(fb.held, fb.levels[0])
	fb.levels[0] = nil
	if fb.windows <= wire.MaxInline {
		for _, x := range fb.held {
			for _, w := range x.windows {
				fb.inline = append(fb.inline, w)
				fb.content.Windows = append(fb.content.Windows, wire.Window{Index: w.Index, Off: w.Off, Data: w.Data, Patch: w.Patch})
			}
		}
		for _, x := range fb.held {
			x.entry, x.up = true, fb.join
			fb.join.add()
			x.done(fb.b.walker)
		}
		return nil
	}
	fb.content.Depth = uint8(len(fb.levels))
	for _, x := range fb.held {
		if err := fb.push(x); err != nil {
			return err
		}
	}
	for i := 1; i < len(fb.levels); i++ {
		if x := fb.levels[i]; x != nil {
			fb.levels[i] = nil
			if err := fb.push(x); err != nil {
				return err
			}
		}
	}
	return nil
}

// put stores an index node when all below it is stored.
func (fb *fileBuild) put(w *worker, x *fileNode) {
	if x.entry {
		x.up.done(w)
		return
	}
	var node wire.FileIndex
	for _, win := range x.windows {
		node.Windows = append(node.Windows, *win)
	}
	for _, c := range x.children {
		node.Children = append(node.Children, *c)
	}
	links, payload, err := wire.EncodeFileIndex(x.pos, &node)
	if err != nil {
		fb.b.fail(err)
		return
	}
	c, err := fb.b.putNode(w, seal.KindFileIndex, links, payload)
	if err != nil {
		fb.b.fail(err)
		return
	}
	if x.slot != nil {
		x.slot.Node = c
	} else {
		fb.content.Index = c
	}
	x.up.done(w)
}
