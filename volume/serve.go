package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// live is what a mounted volume holds open.
type live struct {
	tree   *backing.Tree
	lazy   *lazy.Tree
	fs     front
	size   *gauge // nil: no limit
	how    string // mountFUSE or mountDirect
	why    string // why it is FUSE although the option says direct
	path   string
	key    string             // of what is kept of it
	cancel context.CancelFunc // of what runs beside it
	done   chan struct{}      // lazy.Run has returned
	wg     sync.WaitGroup     // what runs beside it
}

// serve opens and mounts data, or goes on with the mount h where that is not nil.
func (m *Manager) serve(ctx context.Context, v *vol, h *held) (_ *live, err error) {
	l := &live{path: filepath.Join(m.o.Mounts, v.name), done: make(chan struct{})}
	if h != nil {
		l.path = h.mount.Path
	} else if err := mountFolder(l.path); err != nil {
		return nil, err
	}
	if l.tree, err = backing.OpenTree(v.data()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.tree.Close()
		}
	}()
	log := m.log.With().Str("volume", v.name).Logger()
	sealer, prefetch, err := m.readsWith(v)
	if err != nil {
		return nil, err
	}
	var rec *recorder
	var used func(ino, off, n uint64)
	if h == nil && !v.isView() { // a mount that goes on was begun long ago
		rec = newRecorder()
		used = rec.read
	}
	l.lazy, err = lazy.Open(ctx, l.tree, m.storeOf(v), sealer, lazy.Options{
		FetchTimeout: v.set.fetchTimeout, Prefetch: prefetch, Volume: v.name, Log: log, Observe: m.observeFetches(v),
		Nodes: m.nodeCache(), Sources: m.sources(v), Line: m.down.User(nil), Used: used,
	})
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	l.limit(run, v, log)
	if v.set.direct && h == nil {
		if l.why = m.serveDirect(v, l, l.size.isHard()); l.why == "" {
			return l, nil
		}
		log.Warn().Str("op", "mount").Str("why", l.why).Msg("mounted by FUSE although the option says direct")
	}
	opt := fusefs.Options{ReadOnly: v.isView(), Log: log, Hold: m.keep(v, l.path)}
	l.key = m.keptKey(v)
	opt.HoldRemoved = m.keepRemoved(l.key)
	if f := m.figures(v); f != nil {
		opt.Observe = f.Op
	}
	if rec != nil {
		opt.Opened = rec.opened
		l.wg.Go(func() { m.recordWorking(run, v, l.tree, rec) })
	}
	if l.size != nil {
		opt.Limit, opt.Grew, opt.Measure = l.size.limit, l.size.grew, l.size.again
	}
	var fs *fusefs.FS
	if h != nil {
		fs, err = fusefs.Resume(l.tree, l.lazy, l.path, opt,
			fusefs.Held{Conn: h.k.Files[0], Table: h.k.Files[1], Init: h.mount.Init, Reply: h.mount.Reply, Removed: h.removedDirs()})
	} else {
		fs, err = fusefs.Mount(l.tree, l.lazy, l.path, opt)
	}
	if err != nil {
		cancel()
		l.wg.Wait()
		return nil, errors.Join(err, l.lazy.Close())
	}
	l.fs, l.how = fs, mountFUSE
	l.wg.Go(func() {
		defer close(l.done)
		if err := l.lazy.Run(run); err != nil && run.Err() == nil {
			log.Error().Err(err).Str("op", "hydrate").Msg("background fetching ended; what is read is still fetched")
		}
	})
	return l, nil
}

// limit begins to hold the volume to its size, where it has one. It runs until ctx ends.
func (l *live) limit(ctx context.Context, v *vol, log zerolog.Logger) {
	if v.set.size == 0 || v.isView() {
		return
	}
	l.size = &gauge{path: v.data(), total: v.set.size, log: log, remote: func() (uint64, bool) {
		s := l.lazy.Status()
		return s.BytesRemote, s.Complete
	}}
	l.size.measure()
	l.wg.Go(func() { l.size.run(ctx) })
}

// mountFolder makes the mount point, and clears away what a dead daemon left on it.
func mountFolder(path string) error {
	for range 8 {
		err := os.MkdirAll(path, 0o755)
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("mount point: %w", err)
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("mount point %s: clear away a dead mount: %w", path, err)
		}
	}
	return fmt.Errorf("mount point %s: dead mounts keep coming back", path)
}

// checkFUSE tells whether this kernel lets us mount at all.
func checkFUSE() error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: /dev/fuse cannot be opened: %w; run `modprobe fuse`, and in a container pass --device /dev/fuse", ErrNotReady, err)
	}
	return unix.Close(fd)
}
