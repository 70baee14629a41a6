package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// variant is how a run is set up.
type variant struct {
	state    string // of the volume when the applications start: remote, half, complete
	through  bool   // passthrough
	nocow    bool
	compress bool
	options  string // of the mount
	rate     uint64 // of the hydrator, bytes a second; 0: no limit
	ops      int    // of each application
	names    bool   // hardly anything but work on names
	demand   bool   // nothing is fetched in the background
}

func (v variant) String() string {
	s := v.state
	if !v.through {
		s += ", no passthrough"
	}
	if v.nocow {
		s += ", nodatacow"
	}
	if v.options != "" {
		s += ", " + v.options
	}
	if v.names {
		s += ", names"
	}
	return s
}

// variantOf sets up a run, so that few runs in a row meet every state, kind of mount and mode.
func variantOf(run int, r *rand.Rand) variant {
	v := variant{
		state:   []string{"remote", "half", "remote", "complete", "remote", "half"}[run%6],
		through: run%4 < 2 != (run%6 == 5),
		nocow:   run%3 == 1,
		rate:    []uint64{400 << 10, 4 << 20, 1, 1}[r.IntN(4)],
		ops:     120,
		names:   run%5 == 4,
	}
	v.compress = run%3 == 2
	v.options = fmt.Sprintf("commit=%d", []int{1, 1, 5, 300}[r.IntN(4)])
	if v.compress {
		v.options += ",compress-force=zstd"
	}
	return v
}

// recording is what a run left: the requests to the device, and the model.
type recording struct {
	log     []entry
	start   int // where the applications began
	fresh   disk
	model   *model
	moments []int
	ops     int
	live    []string // wrong already without a crash
}

// record runs the applications on a new volume.
func (w *world) record(v variant, seed uint64) (*recording, error) {
	return w.recordWork(v, seed, func(pool string, d *driver, k *work) error {
		also := []func() error{snapshots(pool, d, seed), forget(seed)}
		if k.plain {
			also = append(also, commits(d.volume, seed))
		}
		err := k.run(seed, v.ops)
		for _, halt := range also {
			err = errors.Join(err, halt())
		}
		return err
	})
}

// recordWork has do work on a new volume.
func (w *world) recordWork(v variant, seed uint64, do func(pool string, d *driver, k *work) error) (rec *recording, err error) {
	src := w.cow
	if v.nocow {
		src = w.nocow
	}
	dir, err := os.MkdirTemp(w.dir, "run-")
	if err != nil {
		return nil, err
	}
	pool, mnt := filepath.Join(dir, "pool"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.Mkdir(pool, 0o700), os.Mkdir(mnt, 0o700)); err != nil {
		return nil, err
	}
	r, err := newRecorder(filepath.Join(dir, "recorder"), src.fresh)
	if err != nil {
		return nil, err
	}
	rec = &recording{fresh: src.fresh, model: src.model.clone()}
	undo := []func() error{func() error { return os.RemoveAll(dir) }, r.close}
	defer func() {
		for _, u := range slices.Backward(undo) {
			err = errors.Join(err, u())
		}
	}()
	dev, err := attach(r.path())
	if err != nil {
		return nil, err
	}
	if err := dev.mount(pool, v.options); err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return unmount(pool) })
	d := &driver{w: w, v: v, volume: filepath.Join(pool, volumeName), mnt: mnt, seed: seed}
	if err := d.start(); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	rec.start = r.at()
	plain := v.state == "plain"
	if plain {
		mnt = d.volume
	}
	k := &work{m: rec.model, rec: r, dir: mnt, plain: plain, names: v.names}
	err = do(pool, d, k)
	r.mu.Lock()
	rec.log = slices.Clip(r.log)
	r.mu.Unlock()
	rec.moments, rec.ops, rec.live = k.moments, k.ops, k.problems
	return rec, errors.Join(err, d.stop())
}

// snapshots has the volume snapshotted at random moments, as the daemon does, and keeps the last two. The function it returns ends it.
func snapshots(pool string, d *driver, seed uint64) (halt func() error) {
	random := rand.New(rand.NewPCG(seed, 3))
	n := 0
	name := func(n int) string { return filepath.Join(pool, fmt.Sprint("snapshot-", n)) }
	return again(func() time.Duration { return time.Duration(50+random.IntN(200)) * time.Millisecond }, func() error {
		take := func() error { return backing.Snapshot(d.volume, name(n), true) }
		if d.fs != nil {
			freeze := take
			take = func() error { return d.fs.Freeze(freeze) }
		}
		if err := take(); err != nil {
			return err
		}
		n++
		if n <= 2 {
			return nil
		}
		return backing.DeleteSubvolume(name(n - 3))
	})
}

// forget has the kernel forget, at random moments, every name and inode that nobody uses, as it does when memory is short. An
// application then has files by names that are known above the driver and not below it. The function it returns ends it.
func forget(seed uint64) (halt func() error) {
	random := rand.New(rand.NewPCG(seed, 5))
	return again(func() time.Duration { return time.Duration(200+random.IntN(800)) * time.Millisecond }, forgetNames)
}

func forgetNames() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) }

// again does something again and again, a while after it was done before, until halt is called.
func again(pause func() time.Duration, do func() error) (halt func() error) {
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(pause()):
			}
			if err := do(); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() error { close(stop); return <-done }
}

// commits does what the driver does beside the applications while it fills directories (package lazy's
// committer): it begins commits at random moments, and waits for them. The function it returns ends it.
func commits(volume string, seed uint64) (halt func() error) {
	random := rand.New(rand.NewPCG(seed, 2))
	return again(func() time.Duration { return time.Duration(random.IntN(60)) * time.Millisecond }, func() error {
		fd, err := unix.Open(volume, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		id, err := backing.StartSync(fd)
		if err != nil {
			return err
		}
		return backing.WaitSync(fd, id)
	})
}

// driver serves the volume as the daemon does.
type driver struct {
	w      *world
	v      variant
	volume string
	mnt    string
	seed   uint64

	bt     *backing.Tree
	tree   *lazy.Tree
	fs     *fusefs.FS
	cancel context.CancelFunc
	ran    chan error
}

func (d *driver) start() error {
	var err error
	if d.bt, err = backing.OpenTree(d.volume); err != nil {
		return err
	}
	log := zerolog.New(os.Stderr).Level(zerolog.ErrorLevel)
	opt := lazy.Options{Volume: volumeName, Log: log}
	if d.v.demand {
		opt.Prefetch = lazy.PrefetchNone
	}
	d.tree, err = lazy.Open(context.Background(), d.bt, d.unreliable(), d.w.key.Sealer(), opt)
	if err != nil {
		return err
	}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(context.Background())
	d.ran = make(chan error, 1)
	if d.v.state == "remote" {
		d.tree.SetRate(d.v.rate)
		if d.v.rate == 1 { // only what the applications ask for
			d.tree.Pause()
		}
	}
	go func() { d.ran <- d.tree.Run(ctx) }()
	if d.v.state == "complete" || d.v.state == "plain" {
		if err := d.tree.Wait(ctx); err != nil {
			return err
		}
	}
	if d.v.state == "plain" {
		return nil
	}
	if d.v.state == "half" {
		for s := d.tree.Status(); !s.Complete && s.BytesRemote > s.BytesTotal/2; s = d.tree.Status() {
			time.Sleep(time.Millisecond)
		}
		d.tree.SetRate(d.v.rate)
	}
	d.fs, err = fusefs.Mount(d.bt, d.tree, d.mnt, fusefs.Options{NoPassthrough: !d.v.through, Log: log})
	return err
}

// unreliable is the block store, of which one answer in twenty fails.
func (d *driver) unreliable() store.Store {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(d.seed, 4))
	st := faulty.New(d.w.blocks)
	st.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrUnavailable), Match: func(cid.Cid) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(20) == 0
	}})
	return st
}

func (d *driver) stop() error {
	var errs []error
	if d.fs != nil {
		errs = append(errs, d.fs.Unmount())
	}
	if d.cancel != nil {
		d.cancel()
		if err := <-d.ran; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	if d.tree != nil {
		errs = append(errs, d.tree.Close())
	}
	if d.bt != nil {
		errs = append(errs, d.bt.Close())
	}
	return errors.Join(errs...)
}

// images draws n crashes: half of them at any moment, half at one at which
// something has just been promised to an application.
func (rec *recording) images(n int, r *rand.Rand) []image {
	var out []image
	for i := range n {
		m := image{lose: r.IntN(2) == 0, seed: r.Uint64()}
		m.at = rec.start + r.IntN(len(rec.log)-rec.start+1)
		if i%2 == 1 && len(rec.moments) > 0 {
			m.at = rec.moments[r.IntN(len(rec.moments))]
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b image) int { return a.at - b.at })
	return out
}
