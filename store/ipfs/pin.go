package ipfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// errStalled is the cause of a context that a call without progress ended.
var errStalled = errors.New("no progress")

// Pin implements store.Store. pin/add reads the whole of what it pins, which
// may take long; its progress is watched instead of its duration.
//
// What is pinned already is left alone: Kubo would take the pin away for as
// long as it walks the graph again, and lose it if it died meanwhile.
func (c *client) Pin(ctx context.Context, root cid.Cid) error {
	if pinned, err := c.Pinned(ctx, root); err != nil || pinned {
		return err
	}
	args := url.Values{
		"arg":       {root.String()},
		"recursive": {"true"},
		"progress":  {"true"},
		"offline":   {"true"}, // root itself is not looked for elsewhere
	}
	what := rpcName("pin/add", args)
	pinCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.pinStall, func() { cancel(errStalled) })
	defer stall.Stop()

	req, err := c.rpcRequest(pinCtx, "pin/add", args, nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return pinError(ctx, pinCtx, what, 0, err)
	}
	defer drain(res.Body)
	if res.StatusCode != 200 {
		return c.statusError(res, what)
	}
	pinned := false
	last := 0
	dec := json.NewDecoder(res.Body)
	for {
		var line struct {
			Pins     []string
			Progress int
		}
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return pinError(ctx, pinCtx, what, last, err)
		}
		pinned = pinned || len(line.Pins) > 0
		// Kubo sends a line every half second whether or not it got on.
		if line.Progress > last {
			last = line.Progress
			stall.Reset(c.pinStall)
		}
	}
	if err := c.trailerError(res, what); err != nil {
		return err
	}
	if !pinned {
		return fmt.Errorf("%s: %w: the answer ended early", what, store.ErrUnavailable)
	}
	return nil
}

// PinUpdate implements store.Store.
func (c *client) PinUpdate(ctx context.Context, prev, next cid.Cid) error {
	args := url.Values{
		"arg":     {prev.String(), next.String()},
		"unpin":   {"false"},
		"offline": {"true"},
	}
	err := c.call(ctx, c.slowly(), "pin/update", args, nil)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "'to' cid was already recursively pinned"):
		return nil
	case errors.Is(err, errStalled):
		return missingBelow(rpcName("pin/update", args))
	}
	return err
}

// pinError classes a pin that was cut off after so many blocks. One that
// stopped on its way looks for a block; one that never began waits for a
// collection to end.
func pinError(ctx, pinCtx context.Context, what string, blocks int, err error) error {
	switch {
	case ctx.Err() != nil || !errors.Is(context.Cause(pinCtx), errStalled):
		return transportError(ctx, what, err)
	case blocks == 0:
		return fmt.Errorf("%s: %w: the pin did not begin", what, store.ErrUnavailable)
	}
	return missingBelow(what)
}

func missingBelow(what string) error {
	return fmt.Errorf("%s: %w: no progress, a block below is missing", what, store.ErrNotFound)
}
