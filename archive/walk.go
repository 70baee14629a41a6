package archive

import (
	"fmt"

	"fractal-lazy/store"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/ipfs/go-cid"
)

const (
	// Window is how many of the blocks met last are not written again. It is part of the format.
	Window = 1 << 16
	// maxDepth bounds how deep nodes may lie in each other, and so the memory of a walk.
	maxDepth = 1 << 14
)

// frame is a node of which some links are still to be met.
type frame struct {
	links []cid.Cid
	ahead map[cid.Cid]chan fetched // of Write: what is being read
}

// walk is the order of the blocks.
type walk struct {
	stack []*frame
	seen  *lru.LRU[cid.Cid, struct{}]
}

func newWalk(root cid.Cid) *walk {
	seen, err := lru.NewLRU[cid.Cid, struct{}](Window, nil)
	if err != nil { // only of a size that is not positive
		panic(err)
	}
	return &walk{stack: []*frame{{links: []cid.Cid{root}}}, seen: seen}
}

// next returns the block that comes next and the frame that names it; false: there is none any more.
func (w *walk) next(leave func(*frame)) (cid.Cid, *frame, bool) {
	for len(w.stack) > 0 {
		top := w.stack[len(w.stack)-1]
		if len(top.links) == 0 {
			w.stack[len(w.stack)-1] = nil
			w.stack = w.stack[:len(w.stack)-1]
			if leave != nil {
				leave(top)
			}
			continue
		}
		c := top.links[0]
		top.links = top.links[1:]
		if _, met := w.seen.Get(c); met {
			continue
		}
		return c, top, true
	}
	return cid.Undef, nil, false
}

// took goes on below the block that came.
func (w *walk) took(c cid.Cid, data []byte) error {
	w.seen.Add(c, struct{}{})
	links, err := store.Links(c, data)
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := store.Check(l); err != nil {
			return err
		}
	}
	if len(links) == 0 {
		return nil
	}
	if len(w.stack) >= maxDepth {
		return fmt.Errorf("%w: nodes lie deeper than %d in each other", ErrFormat, maxDepth)
	}
	w.stack = append(w.stack, &frame{links: links})
	return nil
}
