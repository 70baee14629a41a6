package lazy

import (
	"context"
	"fmt"

	"fractal-lazy/fusefs"
)

// enoughLost is after how many failures Bring does not try what is left: a store that is gone is not asked for a million files.
const enoughLost = 64

// Bring brings once what Options.Prefetch asks for, as the background does, and returns when that is here; complete says that nothing is remote any more. It is for a
// Tree that nobody reads, instead of Run.
//
// Where something could not be brought the error says how much and why; what is here stays, and the next call goes on from there.
func (t *Tree) Bring(ctx context.Context) (complete bool, err error) {
	if t.complete.Load() {
		return true, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	pass, giveUp := context.WithCancel(ctx)
	defer giveUp()
	h := &hydrator{t: t, slots: make(chan struct{}, hydrating), giveUp: giveUp}
	complete, err = h.pass(withPriority(pass, background), t.want)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case h.left.Load() > 0:
		why := "it was interrupted"
		if e := h.lastErr.Load(); e != nil {
			why = (*e).Error()
		}
		t.fetch.mu.Lock()
		if t.fetch.why != "" {
			why = t.fetch.why
		}
		t.fetch.mu.Unlock()
		return false, fmt.Errorf("%w: volume %s: %d files or folders, or more, could not be brought: %s", fusefs.ErrRemote, t.opt.Volume, h.left.Load(), why)
	case err != nil:
		return false, fmt.Errorf("hydrate volume %s: %w", t.opt.Volume, err)
	case complete:
		err = t.release()
		return err == nil, err
	}
	return false, nil
}

// lose counts what could not be brought, and ends a pass that shall not go on for ever.
func (h *hydrator) lose(err error) uint64 {
	h.lastErr.CompareAndSwap(nil, &err)
	n := h.left.Add(1)
	if h.giveUp != nil && n >= enoughLost {
		h.giveUp()
	}
	return n
}
