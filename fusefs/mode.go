package fusefs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The mode of an inode's handles.
//
// The kernel lets either cached handles or passthrough handles of one backing file be open on
// an inode, never both: an open that breaks this fails with EIO. No handle can
// change its mode. So the handles that are open decide:
//
//	passthrough handles open      the next one is passthrough, with the same backing id
//	cached handles open           the next one is cached
//	none open                     passthrough if the file is local for ever, else cached
//
// Who writes in passthrough mode makes things durable without asking us: by msync, by RWF_DSYNC, by O_DSYNC. BTRFS then logs the inode, its names and the new
// directories above it, and of a directory whose filling is not committed that would be a part (R6). So while a filling is not committed
// a writer is cached, or waits for the commit where others of the inode have passthrough. Then all that is above the inode is committed, and stays so:
// a rename to another directory and a link wait for the commit as well (names.go). Readers are not held up: msync through a descriptor without the right to write does nothing.
//
// A file that becomes local while it is open thus turns to passthrough at the first open that finds no other handle.
//
// The kernel's pages of a cached inode stay valid from one open to the next, for nobody
// changes the file behind it, except passthrough. So a cached handle keeps the pages
// if the file cannot have been passed through yet, or other cached handles are open; else it drops them. At the turn to
// passthrough the pages are given back, as nobody reads them any more.

// nearlyFull is the free space below which a volume with a limit gives no new
// passthrough to writers: the kernel would meet the quota without asking, where we can measure anew and write again.
const nearlyFull = 64 << 20

// enterMode decides on the mode of h, a new handle with the open(2) flags, and sets out.
func (f *FS) enterMode(c *call, h *handle, flags uint32, out *fuse.OpenOut) {
	n := h.node
	local := f.res.Complete() || n.remote() == nil
	settled := !h.write || !f.filling()
	notify := false
	n.mu.Lock()
	if !settled && n.pass > 0 { // beside those it has to be one of them
		n.mu.Unlock()
		if err := f.settle(c); err != nil { // the disk fails: nothing is logged any more either
			f.opt.Log.Error().Err(err).Uint64("ino", n.ino).Msg("what was filled cannot be committed")
		}
		settled = true
		n.mu.Lock()
	}
	switch {
	case n.pass > 0:
		h.pass = true
	case n.cached > 0:
	default:
		h.pass = local && settled && f.mayPass(h, flags) && f.registerLocked(n, true)
		notify = h.pass && n.file != nil
	}
	if h.pass {
		n.pass++
		out.OpenFlags = fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH
		out.BackingID = n.backing
	} else {
		n.cached++
		if h.write {
			n.storers++
		}
		// Not to pass anything through: the kernel holds the file open, beyond this process too, so that it can be opened by number
		// again when it has lost its name.
		if !f.passOff.Load() {
			f.registerLocked(n, false)
		}
		if !local || n.cached > 1 || f.opt.NoPassthrough {
			out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		}
	}
	n.mu.Unlock()
	if notify {
		f.server.invalidate(inoToNode(n.ino), 0, 0)
	}
	if h.pass && h.write {
		f.behind.add(n.ino)
		if h.made == 0 {
			f.forgetAttr(n.ino)
		}
	}
}

// filling reports whether something was filled that is not committed.
func (f *FS) filling() bool {
	t, ok := f.res.(Fillings)
	return ok && !f.res.Complete() && t.Filling()
}

// settle returns when all that was filled so far is committed.
func (f *FS) settle(c *call) error {
	if !f.filling() {
		return nil
	}
	return f.res.Sync(c, f.tree.RootFD(), func() error { return nil })
}

// forgetAttr has the kernel ask for the attributes of ino at their next use, whatever attrTimeout said of them: a writer got
// passthrough, whose stores through a mapping change the times, or flags were set, which changes the ctime.
func (f *FS) forgetAttr(ino uint64) {
	f.server.invalidate(inoToNode(ino), -1, 0)
}

// leaveMode ends what enterMode began.
func (f *FS) leaveMode(h *handle) {
	n := h.node
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.pass {
		n.pass--
	} else {
		n.cached--
		if h.write {
			n.storers--
		}
	}
	if n.pass == 0 && n.cached == 0 {
		f.unregisterLocked(n)
	}
}

// mayPass reports whether the first handle of a local file may be passed through.
func (f *FS) mayPass(h *handle, flags uint32) bool {
	if f.passOff.Load() {
		return false
	}
	// Passthrough writes always clear setuid and setgid bits; through us a privileged writer keeps them, as on BTRFS. A
	// reader who is passed through would make the next writer so.
	mode := h.made
	if mode == 0 {
		var st unix.Stat_t
		if unix.Fstat(h.node.fdR, &st) != nil {
			return false
		}
		mode = st.Mode
	}
	if mode&suidBits != 0 {
		return false
	}
	if !h.write {
		return true
	}
	// While something is still to be fetched no quota stands behind the limit: all writes have to come by here.
	if free, limited := f.free(); limited && (free < nearlyFull || !f.res.Complete()) {
		return false
	}
	// Each write of such a handle is an fsync, which the Residency has to see as long as it fills directories.
	if syncs(flags) && !f.res.Complete() {
		return false
	}
	return true
}

// registerLocked makes the node's file known to the kernel as backing file. To pass through to it, the kernel opens
// and writes it with the credentials of the thread that registers it: one without
// CAP_FSETID, so that writes clear setuid and setgid bits.
func (f *FS) registerLocked(n *node, through bool) bool {
	if n.backing != 0 {
		return true
	}
	fd := n.fdW
	if fd < 0 {
		fd = n.fdR
	}
	var id int32
	register := func() error {
		i, err := f.server.register(fd)
		if err != nil {
			return err
		}
		id = i
		f.table.doubt(id)
		return nil
	}
	var err error
	if through {
		err = f.plain(nobody, register)
	} else {
		err = register()
	}
	if err == nil && id > 0 {
		n.backing = id
		return true
	}
	// Out of memory or of descriptors passes; that the kernel does not want to does not.
	for _, forever := range []error{unix.EPERM, unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.ELOOP, unix.EINVAL} {
		if errors.Is(err, forever) && !f.passOff.Swap(true) {
			f.opt.Log.Warn().Err(err).Msg("the kernel refuses passthrough: all data goes through this process")
		}
	}
	return false
}

func (f *FS) unregisterLocked(n *node) {
	if n.backing == 0 {
		return
	}
	// After an unmount the connection has dropped all ids by itself.
	f.server.unregister(n.backing)
	n.backing = 0
}

// syncs reports whether writes through a handle with the open(2) flags return only when the data is durable.
func syncs(flags uint32) bool { return flags&(unix.O_SYNC|unix.O_DSYNC) != 0 }
