package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	marks "fractal-lazy/mark"

	"golang.org/x/sys/unix"
)

// Ways to show a volume, as Info names them.
const (
	mountFUSE   = "fuse"
	mountDirect = "direct"
)

// front is what shows the files of a volume at its mount point: FUSE, or a bind of the subvolume.
type front interface {
	// Freeze runs do, which takes a snapshot, so that it holds each write that completed before.
	Freeze(do func() error) error
	// Unmount takes the mount away. EBUSY: a process uses it, and it stays.
	Unmount() error
	// Abort takes it away from who uses it. Where it cannot, it returns an error and the mount stays.
	Abort() error
	// Wait returns when nothing is open any more.
	Wait()
}

var _ front = (*fusefs.FS)(nil)

// decideFront says how a volume of the option mount=direct is mounted: by
// FUSE where why is not empty. It is a pure function.
//
// complete: nothing is left to fetch. reserved: the root has the folder of a half-fetched volume. limited: there is a limit of the
// size; quota: the pool itself holds it.
func decideFront(complete, reserved, limited, quota bool) (why string) {
	switch {
	case !complete:
		return "not everything is here yet; the first mount after it is will be direct"
	case reserved:
		return "the root folder has an entry " + fusefs.HiddenName + ", a name that is reserved: remove it, which only a mount without FUSE can"
	case limited && !quota:
		return "the pool cannot hold the limit of size= by itself"
	}
	return ""
}

// serveDirect binds data onto the mount point where that can be. why says why it was not: then FUSE has to do it.
func (m *Manager) serveDirect(v *vol, l *live, quota bool) (why string) {
	var st unix.Stat_t
	err := unix.Fstatat(l.tree.RootFD(), fusefs.HiddenName, &st, unix.AT_SYMLINK_NOFOLLOW)
	why = decideFront(l.lazy.Complete(), err == nil, v.set.size > 0, quota)
	if why != "" {
		return why
	}
	if err := BindSubvolume(v.data(), l.path, v.isView()); err != nil {
		return err.Error()
	}
	l.settle(&bind{tree: l.tree, path: l.path})
	return ""
}

// settle makes l one that is bound and has nothing to do in the background.
func (l *live) settle(b *bind) {
	l.fs, l.how = b, mountDirect
	close(l.done)
}

// adopt takes over the direct mount of a daemon before this one, in which containers go on: it needs no daemon. False: there is none, or nobody uses it.
//
// Docker takes the place of a mount away when it disables the plugin, and the containers' own mounts stay: then a new bind is put there.
func (m *Manager) adopt(v *vol, ids idsRecord) bool {
	path := filepath.Join(m.o.Mounts, v.name)
	if !v.set.direct || !v.has(v.data()) {
		return false
	}
	bound := isBound(v.data(), path)
	if !bound && !ids.Direct {
		return false
	}
	log := m.logger(v, "open")
	if ids.Boot == m.boot && len(ids.IDs) > 0 && len(ids.IDs) <= maxIDs {
		var err error
		if !bound {
			err = bindAgain(v, path)
		}
		var l *live
		if err == nil {
			l, err = m.openBound(v, path)
		}
		if err == nil {
			v.mutate(func() {
				for _, id := range ids.IDs {
					v.ids[id] = struct{}{}
				}
				v.live, v.since = l, m.now()
			})
			log.Info().Strs("ids", ids.IDs).Bool("again", !bound).Msg("took over the direct mount of the daemon before this one")
			return true
		}
		log.Error().Err(err).Msg("cannot take over the direct mount of the daemon before this one: who uses it goes on, and what it writes is published after the next mount")
	}
	for isBound(v.data(), path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			log.Warn().Err(err).Str("path", path).Msg("a direct mount of a daemon before this one stays behind")
			return false
		}
		log.Warn().Str("path", path).Msg("took away the direct mount of a daemon before this one, which nobody uses")
	}
	if err := removeEmpty(path); err != nil {
		log.Warn().Err(err).Msg("mount point stays behind")
	}
	return false
}

// bindAgain puts a bind of the volume in the place of one that is gone.
func bindAgain(v *vol, path string) error {
	if err := mountFolder(path); err != nil {
		return err
	}
	return BindSubvolume(v.data(), path, v.isView())
}

// openBound opens what belongs to a direct mount that is in place.
func (m *Manager) openBound(v *vol, path string) (*live, error) {
	tree, err := backing.OpenTree(v.data())
	if err != nil {
		return nil, err
	}
	l := &live{tree: tree, path: path, done: make(chan struct{})}
	l.lazy, err = lazy.Open(m.life, tree, m.storeOf(v), v.key.Sealer(), lazy.Options{Volume: v.name, Log: m.log})
	if err == nil && !l.lazy.Complete() {
		err = errors.Join(errors.New("the volume is not complete"), l.lazy.Close())
	}
	if err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	run, cancel := context.WithCancel(m.life)
	l.cancel = cancel
	l.limit(run, v, m.log.With().Str("volume", v.name).Logger())
	l.settle(&bind{tree: tree, path: path})
	return l, nil
}

// leave is what the end of the daemon does with a mount that somebody uses and that goes on without it: a direct one, as its users can neither
// be asked nor stopped, or one that a holder keeps. It stays, and the next daemon takes it over. What is written until now goes into a
// snapshot where final is set. False: there is no such mount.
//
// After a crash it is the same without the snapshot.
func (m *Manager) leave(ctx context.Context, v *vol, final bool) (left bool, err error) {
	held := m.d.Keep != nil && m.d.Keep.Outlives()
	if !v.set.direct && !held {
		return false, nil
	}
	if err := v.enter(ctx, stepSnapshot); err != nil {
		return false, err
	}
	defer v.leave()
	v.mu.Lock()
	left = v.live != nil && (v.live.how == mountDirect || held) && !v.closing && len(v.ids) > 0
	fenced := v.rec.Fence != nil
	v.mu.Unlock()
	if !left {
		return false, nil
	}
	m.logger(v, "close").Info().Msg("the mount stays: it is in use, and the next daemon takes it over")
	if v.isView() || !final {
		return true, nil
	}
	kind := kindPending
	if fenced {
		kind = kindDivergent
	}
	_, err = m.takeSnapshot(ctx, v, kind)
	return true, err
}

// letGo closes what a mount that stays held open here.
func (l *live) letGo() error {
	l.cancel()
	l.wg.Wait()
	return errors.Join(l.lazy.Close(), l.tree.Close())
}

// leftOut says what of a plain subvolume no snapshot of ours holds. Through FUSE none of it can be made.
func leftOut(data string) (what string, err error) {
	n, err := backing.Nested(data)
	if err != nil {
		return "", err
	}
	if n > 0 {
		what = fmt.Sprintf("%d subvolumes that were made inside the volume: copy their files into plain folders", n)
	}
	// While something is remote the folder is our own, and what is in it is known to all snapshots.
	tree, err := marks.GetTree(data)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(data, fusefs.HiddenName)); err == nil && tree == nil {
		if what != "" {
			what += "; and "
		}
		what += fusefs.HiddenName + " in the root folder, a name that is reserved: rename it"
	}
	return what, nil
}

// noteLeftOut has Info say what the snapshot just taken does not hold, and the log when that changes.
func (m *Manager) noteLeftOut(v *vol) {
	what, err := leftOut(v.data())
	if err != nil {
		m.logger(v, "snapshot").Warn().Err(err).Msg("cannot tell what the snapshot leaves out")
		return
	}
	var news bool
	v.mutate(func() { news, v.leftOut = what != v.leftOut, what })
	if news && what != "" {
		m.logger(v, "snapshot").Error().Str("left_out", what).Msg("snapshots do not hold everything: no other machine will have this")
	}
}
