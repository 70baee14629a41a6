package volume

import (
	"context"
	"fmt"
	"time"
)

// mounted returns what serves the volume; ErrNotReady where it is not mounted.
func (m *Manager) mounted(name string) (*vol, *live, error) {
	v, err := m.lookup(name)
	if err != nil {
		return nil, nil, err
	}
	v.mu.Lock()
	l, closing := v.live, v.closing
	v.mu.Unlock()
	if l == nil || closing {
		return nil, nil, v.wrap(fmt.Errorf("%w: it is not mounted", ErrNotReady))
	}
	return v, l, nil
}

// Hydrate brings everything that is remote, whatever the option prefetch says;
// with wait it returns when all is here, telling p, which may be nil, of the progress.
func (m *Manager) Hydrate(ctx context.Context, name string, wait bool, p func(Progress)) error {
	v, l, err := m.mounted(name)
	if err != nil {
		return err
	}
	l.lazy.Hydrate()
	if !wait {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.lazy.Wait(ctx) }() // ends with ctx
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return v.wrap(fmt.Errorf("not all is here: %w", err))
			}
			if p != nil {
				st := l.lazy.Status()
				p(Progress{Phase: "complete", Done: st.BytesTotal, Total: st.BytesTotal})
			}
			return nil
		case <-l.done: // of Run: the mount goes, unless everything is here
			if l.lazy.Complete() {
				continue
			}
			return v.wrap(fmt.Errorf("not all is here: %w: it was unmounted", ErrNotReady))
		case <-tick.C:
		}
		if p == nil {
			continue
		}
		st := l.lazy.Status()
		phase := "fetching"
		switch {
		case st.Paused:
			phase = "paused"
		case !st.StalledSince.IsZero():
			phase = "stalled: " + st.StalledWhy
		}
		have := st.BytesTotal - min(st.BytesRemote, st.BytesTotal)
		p(Progress{Phase: phase, Done: have, Total: st.BytesTotal, Rate: st.Rate, ETASeconds: st.ETA.Seconds()})
	}
}

// SetHydration pauses or resumes background fetching of a mounted volume, and
// limits its rate in bytes a second; 0: no limit. It holds until the unmount.
func (m *Manager) SetHydration(name string, paused bool, rate uint64) error {
	_, l, err := m.mounted(name)
	if err != nil {
		return err
	}
	if paused {
		l.lazy.Pause()
	} else {
		l.lazy.Resume()
	}
	l.lazy.SetRate(rate)
	return nil
}
