package ipfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	pinner "github.com/ipfs/boxo/pinning/pinner"
	"github.com/ipfs/go-cid"
)

// progressEvery is how often a pin under way says how far it is.
const progressEvery = 500 * time.Millisecond

type pinsLine struct {
	Pins     []string `json:",omitempty"`
	Progress int      `json:",omitempty"`
	Bytes    uint64   `json:",omitempty"`
}

type pinType struct{ Type, Name string } // names are never given

// withGate runs f while no collection does.
func (n *Node) withGate(ctx context.Context, f func() error) error {
	if err := n.gate.Acquire(ctx, 1); err != nil {
		return err
	}
	defer n.gate.Release(1)
	return f()
}

// pin adds a pin. What is pinned already is left as it is: the pinner would
// take the pin away for as long as it walks the graph again.
func (n *Node) pin(ctx context.Context, root cid.Cid, recursive bool) error {
	return n.withGate(ctx, func() error {
		mode := pinner.Direct
		if recursive {
			mode = pinner.Recursive
		}
		if _, pinned, err := n.pins.IsPinnedWithType(ctx, root, mode); err != nil || pinned {
			return err
		}
		nd, err := n.dag.Get(ctx, root)
		if err != nil {
			return fmt.Errorf("pin: %w", err)
		}
		if err := n.pins.Pin(ctx, nd, recursive, ""); err != nil {
			return fmt.Errorf("pin: %w", err)
		}
		return n.pins.Flush(ctx)
	})
}

func (n *Node) pinAdd(c *call) error {
	ids, err := c.cids(1, maxArgs)
	if err != nil {
		return err
	}
	recursive, err := c.flag("recursive", true)
	if err != nil {
		return err
	}
	progress, err := c.flag("progress", false)
	if err != nil {
		return err
	}
	add := func(ctx context.Context) error {
		for _, id := range ids {
			if err := n.pin(ctx, id, recursive); err != nil {
				return err
			}
		}
		return nil
	}
	if progress {
		err = c.pinWithProgress(add)
	} else {
		err = add(c.r.Context())
	}
	if err != nil {
		return err
	}
	return c.emit(pinsLine{Pins: texts(ids)})
}

// pinWithProgress runs add and tells the client the number of blocks seen.
func (c *call) pinWithProgress(add func(context.Context) error) error {
	var tracker merkledag.ProgressTracker
	ctx, cancel := context.WithCancel(tracker.DeriveContext(c.r.Context()))
	done := make(chan error, 1)
	go func() { done <- add(ctx) }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			cancel()
			return err
		case <-tick.C:
			s := tracker.ProgressStat()
			if err := c.emit(pinsLine{Progress: s.Nodes, Bytes: s.Bytes}); err != nil {
				cancel()
				<-done
				return err
			}
		}
	}
}

func (n *Node) pinRm(c *call) error {
	ids, err := c.cids(1, maxArgs)
	if err != nil {
		return err
	}
	recursive, err := c.flag("recursive", true)
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	err = n.withGate(ctx, func() error {
		for _, id := range ids {
			if err := n.pins.Unpin(ctx, id, recursive); err != nil {
				return err
			}
		}
		return n.pins.Flush(ctx)
	})
	if err != nil {
		return err
	}
	return c.emit(pinsLine{Pins: texts(ids)})
}

// pinUpdate pins the second argument at the cost of its difference from the
// first; blocks that both have in the same place are not looked at.
func (n *Node) pinUpdate(c *call) error {
	ids, err := c.cids(2, 2)
	if err != nil {
		return err
	}
	unpin, err := c.flag("unpin", true)
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	err = n.withGate(ctx, func() error {
		if err := n.pins.Update(ctx, ids[0], ids[1], unpin); err != nil {
			return err
		}
		return n.pins.Flush(ctx)
	})
	if err != nil {
		return err
	}
	return c.emit(pinsLine{Pins: texts(ids)})
}

// pinLs lists direct and recursive pins. What is pinned only through a root
// above it (type indirect) is not listed: it would take a walk of everything.
func (n *Node) pinLs(c *call) error {
	ids, err := c.cids(0, maxArgs)
	if err != nil {
		return err
	}
	stream, err := c.flag("stream", false)
	if err != nil {
		return err
	}
	kind := c.q.Get("type")
	if kind == "" || kind == "all" {
		kind = "all"
	} else if kind != "recursive" && kind != "direct" {
		return argumentError{fmt.Errorf("invalid type '%s', must be one of {direct, recursive, all}", shorten(kind))}
	}
	keys := map[string]pinType{}
	each := func(id cid.Cid, kind string) error {
		if stream {
			return c.emit(map[string]string{"Cid": id.String(), "Type": kind})
		}
		keys[id.String()] = pinType{Type: kind}
		return nil
	}
	if len(ids) > 0 {
		err = n.lookUpPins(c.r.Context(), ids, kind, each)
	} else {
		err = n.listPins(c.r.Context(), kind, each)
	}
	if err != nil {
		return err
	}
	if stream {
		c.start("application/json")
		return nil
	}
	return c.emit(map[string]any{"Keys": keys})
}

func (n *Node) lookUpPins(ctx context.Context, ids []cid.Cid, kind string, each func(cid.Cid, string) error) error {
	for _, id := range ids {
		found := ""
		for _, mode := range []pinner.Mode{pinner.Recursive, pinner.Direct} {
			name, _ := pinner.ModeToString(mode)
			if found != "" || (kind != "all" && kind != name) {
				continue
			}
			_, pinned, err := n.pins.IsPinnedWithType(ctx, id, mode)
			if err != nil {
				return err
			}
			if pinned {
				found = name
			}
		}
		if found == "" {
			return fmt.Errorf("path '%s' is not pinned", id)
		}
		if err := each(id, found); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) listPins(ctx context.Context, kind string, each func(cid.Cid, string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the pinner's goroutine behind the channel
	list := func(pins <-chan pinner.StreamedPin, name string) error {
		for p := range pins {
			if p.Err != nil {
				return p.Err
			}
			if err := each(p.Pin.Key, name); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	var errs []error
	if kind != "direct" {
		errs = append(errs, list(n.pins.RecursiveKeys(ctx, false), "recursive"))
	}
	if kind != "recursive" {
		errs = append(errs, list(n.pins.DirectKeys(ctx, false), "direct"))
	}
	return errors.Join(errs...)
}

func texts(ids []cid.Cid) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
