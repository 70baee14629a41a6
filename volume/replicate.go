package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fractal-lazy/hive"
	"fractal-lazy/mutant"
	"fractal-lazy/replica"

	"github.com/ipfs/go-cid"
)

// Remote is a second place for snapshots, open.
type Remote struct {
	replica.Place
	// Close gives it up; Explain adds to an error of it what the other side said. Both may be nil.
	Close   func() error
	Explain func(error) error
}

// Remotes opens second places by name.
type Remotes interface {
	// Check refuses a name that can be none, without asking anybody.
	Check(name string) error
	Open(ctx context.Context, name string) (*Remote, error)
}

// Replication says what a Replicate did.
type Replication struct {
	Volume     string  `json:"volume"`
	Remote     string  `json:"remote"`
	Generation uint64  `json:"generation"` // the newest there now
	Manifests  int     `json:"manifests"`  // posted there
	Snapshots  int     `json:"snapshots"`  // whose blocks were looked at
	Blocks     uint64  `json:"blocks"`     // sent
	Bytes      uint64  `json:"bytes"`      // of them
	Seconds    float64 `json:"seconds"`
}

// Replicate brings a volume's published snapshots, up to the one that text means, to the remote, so that a machine with the key can mount from there.
// Where text is empty, what was written until now is published first, and brought along. It goes on where one before it was
// interrupted, and tells p of the progress; p may be nil.
func (m *Manager) Replicate(ctx context.Context, name, text, remote string, p func(Progress)) (Replication, error) {
	out := Replication{Volume: name, Remote: remote}
	v, err := m.lookupOpen(name)
	if err != nil {
		return out, err
	}
	if v.isView() {
		return out, v.wrap(fmt.Errorf("%w: it is a view of a snapshot; replicate the volume itself", ErrOption))
	}
	if m.d.Remotes == nil {
		return out, v.wrap(fmt.Errorf("%w: no remotes are set up", ErrNotReady))
	}
	if err := m.d.Remotes.Check(remote); err != nil {
		return out, v.wrap(fmt.Errorf("%w: %w", ErrOption, err))
	}
	if r := v.record(); text == "" && (v.isMounted() || r.Release || r.pending() != nil) {
		if _, err := m.Flush(ctx, name, p); err != nil {
			return out, err
		}
	}
	begin := time.Now()
	r, err := m.replicate(ctx, v, text, remote, p)
	if err != nil {
		return out, v.wrap(fmt.Errorf("replicate to %s: %w", remote, err))
	}
	out.Generation, out.Manifests, out.Snapshots, out.Blocks, out.Bytes = r.Generation, r.Manifests, r.Snapshots, r.Stats.Blocks, r.Stats.Bytes
	out.Seconds = time.Since(begin).Seconds()
	m.logger(v, "replicate").Info().Str("remote", remote).Uint64("generation", r.Generation).Int("manifests", r.Manifests).Uint64("blocks", r.Stats.Blocks).
		Uint64("bytes", r.Stats.Bytes).Dur("took", time.Since(begin)).Msg("snapshots replicated")
	return out, nil
}

func (m *Manager) replicate(ctx context.Context, v *vol, text, remote string, p func(Progress)) (r replica.Replicated, err error) {
	all, err := m.manifests(ctx, v)
	switch {
	case err != nil:
		return r, err
	case len(all) == 0:
		return r, fmt.Errorf("%w: nothing is published of it yet; `fractal-lazy flush %s`", ErrNoSnapshot, v.name)
	}
	last := all[len(all)-1]
	if text != "" {
		if last, err = m.manifestAt(ctx, v, all, text); err != nil {
			return r, err
		}
	}
	to, err := m.d.Remotes.Open(ctx, remote)
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	if to.Close != nil {
		defer to.Close()
	}
	pins := remotePins{v: v, remote: remote, end: func() {}}
	r, err = replica.Replicate(ctx, replica.Place{Store: m.store, Hive: m.d.Hive}, to.Place, v.key, all, last, replica.ReplicateOptions{
		Line: m.up.User(nil), Pinning: func(root cid.Cid) error { return pins.begin(ctx, root) },
		Progress: func(rp replica.Progress) {
			if p != nil {
				p(Progress{Phase: rp.Phase, Done: rp.BytesUploaded})
			}
		},
	})
	pins.end()
	if err == nil {
		if err := m.unpinAt(ctx, v, remote, to.Place); err != nil {
			m.logger(v, "replicate").Warn().Err(err).Str("remote", remote).Msg("something stays pinned there that no snapshot has; it is tried again")
		}
		if mutant.Is(mutant.ReplicateUnpinned) {
			if root, err := replica.ParseRoot(last.Data); err == nil {
				_ = to.Store.Unpin(ctx, root)
			}
		}
		return r, nil
	}
	switch {
	case isAny(err, replica.ErrFenced, replica.ErrBehind):
		return r, fmt.Errorf("%w: %w", ErrHeld, err)
	case to.Explain != nil:
		err = to.Explain(err)
	}
	if ctx.Err() == nil && isAny(err, hive.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return r, err
}

// manifestAt returns the one of all that text means.
func (m *Manager) manifestAt(ctx context.Context, v *vol, all []*hive.Manifest, text string) (*hive.Manifest, error) {
	i, err := m.resolve(ctx, v, text)
	if err != nil {
		return nil, err
	}
	for _, mf := range all {
		if mf.Hash().String() == i.Hash {
			return mf, nil
		}
	}
	return nil, fmt.Errorf("%w: %s is only on this machine so far; `fractal-lazy flush %s` publishes it", ErrNoSnapshot, clip(text), v.name)
}

func (v *vol) isMounted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.live != nil
}

// checkRemote is of the action replicate.
func (m *Manager) checkRemote(arg string) error {
	if m.d.Remotes == nil {
		return errors.New("no remotes are set up")
	}
	return m.d.Remotes.Check(arg)
}

// jobReplicate is a Replicate of all that was written until now.
func (m *Manager) jobReplicate(ctx context.Context, name, remote string) error {
	_, err := m.Replicate(ctx, name, "", remote, nil)
	return err
}
