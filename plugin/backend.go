package plugin

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"fractal-lazy/schedule"
	"fractal-lazy/volume"
)

// Volumes is what the server asks. Get and List answer from memory.
type Volumes interface {
	Create(ctx context.Context, name string, opts map[string]string) error
	Remove(ctx context.Context, name string, force bool) error
	List() []volume.Info
	Get(name string) (volume.Info, error)
	Mount(ctx context.Context, name, id string) (path string, err error)
	Unmount(ctx context.Context, name, id string) error
	WaitReleased(ctx context.Context, name string) error
	Snapshot(ctx context.Context, name string, wait bool, p func(volume.Progress)) (volume.SnapshotInfo, error)
	Snapshots(ctx context.Context, name string) ([]volume.SnapshotInfo, error)
	LocalSnapshots(name string) ([]volume.SnapshotInfo, error)
	Purge(ctx context.Context, name, pattern string, opt volume.PurgeOptions) (volume.PurgeResult, error)
	RemoveSnapshot(ctx context.Context, name, snapshot string, force bool) (volume.SnapshotInfo, error)
	Browse(ctx context.Context, name, snapshot string) (view string, i volume.SnapshotInfo, err error)
	EndBrowse(ctx context.Context, name, snapshot string) error
	Diff(ctx context.Context, name, from, to string, each func(volume.Change) error) (volume.DiffResult, error)
	Clone(ctx context.Context, name, snapshot, as string) (volume.RestoreResult, error)
	Restore(ctx context.Context, name, snapshot string) (volume.RestoreResult, error)
	Flush(ctx context.Context, name string, p func(volume.Progress)) (volume.SnapshotInfo, error)
	Hydrate(ctx context.Context, name string, wait bool, p func(volume.Progress)) error
	SetHydration(name string, paused bool, rate uint64) error
	Verify(ctx context.Context, name string, o volume.VerifyOptions, p func(volume.Progress)) (volume.Verification, error)
	KeyExport(name string) (string, error)
	Synchronize(ctx context.Context, name, budget string, p func(volume.Progress)) (volume.Synchronization, error)
	Replicate(ctx context.Context, name, text, remote string, p func(volume.Progress)) (volume.Replication, error)
	ImportButtervolume(ctx context.Context, o volume.ButterOptions) (volume.ButterResult, error)
	Export(ctx context.Context, name, text string, begin func(volume.Exported) io.Writer) error
	Import(ctx context.Context, name string, r io.Reader, p func(volume.Progress)) (volume.Imported, error)
	Jobs(name string) (jobs []schedule.Listed, paused bool, err error)
	SetJob(name, action, timer string) error
	PauseJobs(paused bool) error
	Health(ctx context.Context) volume.Health
	Lag(name string) (time.Duration, error)
}

var _ Volumes = (*volume.Manager)(nil)

// backend is the Volumes, or why there are none yet.
type backend struct {
	mu      sync.Mutex
	volumes Volumes
	fault   error
	changed chan struct{} // closed and replaced with every change
}

func newBackend() *backend { return &backend{changed: make(chan struct{})} }

func (b *backend) set(v Volumes, fault error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.volumes, b.fault = v, fault
	close(b.changed)
	b.changed = make(chan struct{})
}

// wait returns the backend, the fault, or volume.ErrBusy where neither came before ctx ended.
func (b *backend) wait(ctx context.Context) (Volumes, error) {
	for {
		b.mu.Lock()
		v, fault, changed := b.volumes, b.fault, b.changed
		b.mu.Unlock()
		if v != nil || fault != nil {
			return v, fault
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: the volumes are still being opened", volume.ErrBusy)
		}
	}
}
