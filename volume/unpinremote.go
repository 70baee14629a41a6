package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fractal-lazy/replica"

	"github.com/ipfs/go-cid"
)

// remotePins is what one Replicate pins at a remote: one root at a time.
type remotePins struct {
	v      *vol
	remote string
	at     rootAt // held until end
	end    func()
}

// begin writes down that root is about to be pinned there, and strikes out the one before it, whose manifest was posted.
func (p *remotePins) begin(ctx context.Context, root cid.Cid) error {
	at, before := rootAt{p.remote, root.String()}, p.at
	if at == before {
		return nil
	}
	end, err := p.v.holdPin(ctx, at)
	if err != nil {
		return err
	}
	if err = p.v.intendUnpin(at, before); err != nil {
		end()
		return err
	}
	p.end()
	p.at, p.end = at, end
	return nil
}

// unpinAt gives up what is pinned at a remote, which is open, for a manifest that never came, and strikes out the rest.
func (m *Manager) unpinAt(ctx context.Context, v *vol, remote string, at replica.Place) error {
	done, err := giveUp(ctx, v, remote, at, v.record().toUnpin(remote))
	if len(done) == 0 {
		return err
	}
	return errors.Join(err, v.update(func(r *record) {
		for _, root := range done {
			r.unpinDone(rootAt{remote, root})
		}
	}))
}

// unpinRemote does what replications before had no time for, at all remotes.
func (m *Manager) unpinRemote(ctx context.Context, v *vol) error {
	var names []string
	for _, at := range v.record().RemoteUnpin {
		if !slices.Contains(names, at.Remote) {
			names = append(names, at.Remote)
		}
	}
	var errs []error
	for _, name := range names {
		if err := m.unpinRemoteNamed(ctx, v, name); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) unpinRemoteNamed(ctx context.Context, v *vol, name string) error {
	if m.d.Remotes == nil {
		return fmt.Errorf("%w: no remotes are set up", ErrNotReady)
	}
	ctx, cancel := context.WithTimeout(ctx, unpinTimeout)
	defer cancel()
	to, err := m.d.Remotes.Open(ctx, name)
	if err != nil {
		return err
	}
	if to.Close != nil {
		defer to.Close()
	}
	if err = m.unpinAt(ctx, v, name, to.Place); err != nil && to.Explain != nil {
		err = to.Explain(err)
	}
	return err
}

// workAtRemotes is unpinRemote of the worker.
func (m *Manager) workAtRemotes(ctx context.Context, v *vol) {
	err := m.unpinRemote(ctx, v)
	if ctx.Err() != nil {
		return
	}
	v.mutate(func() { v.remoteUnpinAt = m.now().Add(remoteUnpinEvery) })
	if err != nil {
		m.logger(v, "work").Warn().Err(err).Msg("something stays pinned at a second place that no snapshot there has; it is tried again")
	}
}
