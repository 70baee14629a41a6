package fusefs

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel may be writing an inode behind our back as long as it is open for writing in passthrough mode, and longer: a mapping made
// through such a handle outlives it, and nobody tells us when it goes. But BTRFS knows: it gives a read lease on
// a file only while nobody has it open for writing, and a writable mapping counts as open.

// behindAgain is how long after the last look an inode that was still mapped is looked at again.
const behindAgain = time.Second

// behind are the inodes that the kernel may be writing without us.
type behind struct {
	f  *FS
	no atomic.Bool // there are no leases here

	forgotten atomic.Uint64 // how many inodes have left seen

	mu     sync.Mutex
	seen   map[uint64]uint64 // the number of the last add
	last   [64]uint64        // the inodes forgotten last, a ring
	adds   uint64
	mapped map[uint64]uint64 // inode -> its slot in the table, for those without a handle
	later  []uint64          // still mapped; looked at again when the timer fires
	timer  *time.Timer
	closed bool
}

// add notes ino, which is about to be opened for writing in passthrough mode.
func (b *behind) add(ino uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adds++
	b.seen[ino] = b.adds
}

// had reports whether the kernel may have written ino without us at any time since forgotten was what is given: attributes
// read since then may be older than the last store. With too many forgotten since it says so of all of them.
func (b *behind) had(ino, forgotten uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.forgotten.Load()
	if b.seen[ino] != 0 || now-forgotten > uint64(len(b.last)) {
		return true
	}
	for ; forgotten < now; forgotten++ {
		if b.last[forgotten%uint64(len(b.last))] == ino {
			return true
		}
	}
	return false
}

func (b *behind) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seen) > 0
}

// release comes after the last handle of ino, and our descriptors with it, are closed: it looks whether a mapping is left.
func (b *behind) release(ino uint64) {
	b.mu.Lock()
	number, closed := b.seen[ino], b.closed
	b.mu.Unlock()
	if number == 0 || closed {
		return
	}
	b.look(ino, number, b.f.openForWriting(ino))
}

// look forgets ino where nobody writes it, else has it looked at again. The kernel has kept no attributes of it so far (or for sizeAttr), and
// keeps none that were read before (had), so it need not be told.
func (b *behind) look(ino, number uint64, written bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.seen[ino] != number { // opened again meanwhile
		return
	}
	if !written {
		delete(b.seen, ino)
		b.last[b.forgotten.Load()%uint64(len(b.last))] = ino
		b.forgotten.Add(1)
		b.unmapLocked(ino)
		return
	}
	if b.mapped[ino] == 0 {
		b.mapped[ino] = b.f.handles.keep(slot{flags: slotMapped, ino: ino})
	}
	b.later = append(b.later, ino)
	if b.timer == nil {
		b.timer = time.AfterFunc(behindAgain, b.again)
	}
}

// unmapLocked forgets that ino is mapped without a handle.
func (b *behind) unmapLocked(ino uint64) {
	if fh := b.mapped[ino]; fh != 0 {
		b.f.handles.lost(fh)
		delete(b.mapped, ino)
	}
}

// restore takes over from the process before this one that ino was mapped without a handle.
func (b *behind) restore(ino, fh uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.adds++
	b.seen[ino], b.mapped[ino] = b.adds, fh
	b.later = append(b.later, ino)
	if b.timer == nil {
		b.timer = time.AfterFunc(behindAgain, b.again)
	}
}

func (b *behind) again() {
	b.mu.Lock()
	list := b.later
	b.later, b.timer = nil, nil
	b.mu.Unlock()
	for _, ino := range list {
		b.release(ino)
	}
}

// close ends the looking, for good.
func (b *behind) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
}

// openForWriting reports whether somebody has ino open for writing, or mapped so.
func (f *FS) openForWriting(ino uint64) bool {
	if f.behind.no.Load() {
		return false
	}
	fd, err := f.tree.Open(ino, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return false // gone
	}
	defer unix.Close(fd) // ends the lease, too
	lease := func() error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	}
	if err = lease(); err == unix.EACCES { // without CAP_LEASE it is the owner's to take
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil {
			err = f.as(st.Uid, st.Gid, lease)
		}
	}
	switch err {
	case nil:
		return false
	case unix.EAGAIN:
		return true
	}
	if !f.behind.no.Swap(true) {
		f.opt.Log.Warn().Err(err).Msg("no leases on this file system: times after a store through a mapping may be seen late")
	}
	return false
}
