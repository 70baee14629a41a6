package fusefs

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Resume goes on with a mount whose process has ended, from what Options.Hold was given then. Processes that use the mount notice
// nothing but the pause: their open files are open again, and what they were waiting for is done. tree has to be the same subvolume, mountpoint the same place. held stays
// the caller's, and may be closed.
//
// ErrGone where the mount is no longer there; ErrDialect where this program cannot go on with it.
func Resume(tree Tree, res Residency, mountpoint string, opt Options, held Held) (*FS, error) {
	f, err := newFS(tree, res, mountpoint, opt)
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	if err := f.resume(held); err != nil {
		f.cancel()
		return nil, fmt.Errorf("resume %s: %w", mountpoint, err)
	}
	return f, nil
}

// Order: 1. the library agrees to what was negotiated; 2. handles are opened again, backing ids without a handle given back; 3. the kernel
// sends again what was not answered; 4. requests are served. After a crash in between the next Resume finds what this one found.
func (f *FS) resume(held Held) (err error) {
	if !alive(int(held.Conn.Fd())) {
		return ErrGone
	}
	if f.table, err = openTable(held.Table); err != nil {
		return err
	}
	f.handles.table = f.table
	if err = f.continueConn(held); err != nil {
		f.table.close()
		return err
	}
	f.reopenAll()
	for _, dir := range held.Removed {
		if err := f.gone.restore(dir); err != nil {
			f.opt.Log.Warn().Err(err).Msg("a removed directory cannot be taken over")
		}
	}
	if err = resend(int(held.Conn.Fd())); err != nil {
		f.opt.Log.Error().Err(err).Msg("requests of the process before are lost: who waits for them has to be killed")
	}
	go f.serve()
	return nil
}

func (f *FS) reopenAll() {
	f.unanswered = map[uint64]uint64{}
	lost := 0
	f.table.each(func(fh uint64, s slot) {
		if s.flags&slotMapped != 0 {
			f.behind.restore(s.ino, fh)
			return
		}
		if err := f.reopen(fh, s); err != nil {
			lost++
			f.opt.Log.Warn().Err(err).Uint64("ino", s.ino).Uint32("flags", s.flags).Msg("an open file cannot be opened again")
			f.handles.lost(fh)
			return
		}
		f.unanswered[s.unique] = fh
	})
	if !f.opt.NoPassthrough {
		for _, id := range f.table.doubtful() {
			f.server.unregister(id)
		}
	}
	f.opt.Log.Debug().Int("handles", len(f.unanswered)).Int("lost", lost).Msg("open files taken over")
}

// reopen opens one handle again, as it was.
func (f *FS) reopen(fh uint64, s slot) error {
	h := &handle{id: fh, pass: s.flags&slotPass != 0, write: s.flags&slotWrite != 0}
	n, err := f.acquire(f.ctx, s.ino, h.write, s.flags&slotAppend != 0)
	if err != nil && h.write {
		// Made immutable meanwhile, perhaps: the kernel writes through its own handle where this is passthrough.
		n, err = f.acquire(f.ctx, s.ino, false, false)
	}
	if err != nil {
		return err
	}
	h.node = n
	n.mu.Lock()
	if h.pass {
		n.pass++
	} else {
		n.cached++
		if h.write {
			n.storers++
		}
	}
	if s.backing != 0 {
		n.backing = s.backing
	}
	n.mu.Unlock()
	if h.pass && h.write {
		f.behind.add(n.ino)
	}
	f.handles.restore(h)
	return nil
}

// newFS is what Mount and Resume have in common.
func newFS(tree Tree, res Residency, mountpoint string, opt Options) (*FS, error) {
	opt = opt.withDefaults()
	mountpoint, err := filepath.Abs(mountpoint)
	if err != nil {
		return nil, err
	}
	ident, err := loadIdentity()
	if err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err := unix.Statx(tree.RootFD(), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return nil, fmt.Errorf("root of the tree: %w", err)
	}
	if st.Ino != rootIno {
		return nil, fmt.Errorf("inode %d is not the root of a BTRFS subvolume: %w", st.Ino, unix.EINVAL)
	}
	return makeFS(tree, res, mountpoint, opt, ident, &st), nil
}
