package lazy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"fractal-lazy/fusefs"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

const sector = wire.Sector

var _ fusefs.File = (*file)(nil)

// file is a regular file with a pending mark, in memory while somebody has it
// open or it is being fetched. Closing all of it loses nothing.
type file struct {
	t       *Tree
	ino     uint64
	content *wire.Content // of the mark; does not change
	local   atomic.Bool   // the mark is not pending any more
	here    bitmap        // windows that are not missing; only a disk that fails makes it untrue

	refs   int           // guarded by t.mu
	loaded chan struct{} // closed when fd and m, or err, are set
	err    error

	// mu is held shared by the application's operations on the backing file,
	// exclusively while holes are filled and while the mark changes. It is
	// never held while a block is on its way.
	mu sync.RWMutex
	fd int // of the backing file, O_RDWR; -1 after the Tree was closed
	m  *mark.File

	follow sequential

	// origins are the file's counterparts in older states of the volume that are here. Closed with fd.
	origins struct {
		mu       sync.RWMutex // shared by who reads from them
		tried    bool
		complete bool // nothing more is to be found
		list     []origin
	}
}

// File implements fusefs.Residency.
func (t *Tree) File(_ context.Context, ino uint64) (fusefs.File, error) {
	f, err := t.acquire(ino)
	if f == nil || err != nil {
		return nil, err
	}
	return f, nil
}

// acquire returns the file of a pending inode with one reference more; nil
// where it is local for good.
func (t *Tree) acquire(ino uint64) (*file, error) {
	if t.complete.Load() {
		return nil, nil
	}
	t.mu.Lock()
	if t.ctx.Err() != nil {
		t.mu.Unlock()
		return nil, t.closed()
	}
	f := t.files[ino]
	if f == nil {
		f = &file{t: t, ino: ino, fd: -1, refs: 1, loaded: make(chan struct{})}
		t.files[ino] = f
		t.mu.Unlock()
		// Who began to read attributes before now does not know of f.
		look := &t.looks[ino%lookShards]
		look.Lock()
		look.Unlock() //nolint:staticcheck // only to wait
		f.err = f.load()
		close(f.loaded)
	} else {
		f.refs++
		t.mu.Unlock()
		<-f.loaded
	}
	if f.err == nil && !f.local.Load() {
		return f, nil
	}
	err := f.err
	f.Close()
	return nil, err
}

func (f *file) load() error {
	fd, err := f.t.openForFilling(f.ino)
	if err != nil {
		return fmt.Errorf("open inode %d of volume %s: %w", f.ino, f.t.opt.Volume, err)
	}
	m, err := mark.GetFile(mark.FD(fd))
	if err != nil || m == nil || m.State != mark.Pending {
		f.local.Store(err == nil)
		return errors.Join(err, unix.Close(fd))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fd, f.m, f.content = fd, m, &m.Content
	return nil
}

// openForFilling opens an inode for writing, also an immutable one, whose
// flags are lifted for that moment; a write through a descriptor that is open does not ask for them.
func (t *Tree) openForFilling(ino uint64) (int, error) {
	fd, err := t.bt.Open(ino, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	ro, err := t.bt.Open(ino, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ro)
	err = t.lifted(ro, func() error {
		var err error
		fd, err = t.bt.Open(ino, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK)
		return err
	})
	return fd, err
}

// Close implements fusefs.File.
func (f *file) Close() {
	f.t.mu.Lock()
	f.refs--
	last := f.refs == 0
	if last && f.t.files[f.ino] == f {
		delete(f.t.files, f.ino)
	}
	f.t.mu.Unlock()
	if last {
		f.closeFD()
	}
}

func (f *file) closeFD() {
	f.origins.mu.Lock()
	closeOrigins(f.origins.list)
	f.origins.list, f.origins.complete = nil, true
	f.origins.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		unix.Close(f.fd) // all that had to be durable was synced before
		f.fd = -1
	}
}

// Local implements fusefs.File.
func (f *file) Local() bool { return f.local.Load() }

// Read implements fusefs.File.
func (f *file) Read(ctx context.Context, off, n uint64) error {
	if f.local.Load() || n == 0 {
		return nil
	}
	ctx, cancel := timeout(withPriority(ctx, reader), f.t.opt.FetchTimeout, f.t.opt.Volume)
	defer cancel()
	end := off + n
	if end < off {
		end = wire.MaxFileSize
	}
	if f.t.opt.Used != nil {
		f.t.opt.Used(f.ino, off, end-off)
	}
	f.readAhead(off, end)
	return f.bring(ctx, off, end)
}

// Whole implements fusefs.File.
func (f *file) Whole(ctx context.Context) error {
	ctx, cancel := timeout(withPriority(ctx, reader), f.t.opt.FetchTimeout, f.t.opt.Volume)
	defer cancel()
	return f.bring(ctx, 0, f.content.Size)
}

// Write implements fusefs.File.
func (f *file) Write(ctx context.Context, off, n uint64, do func() error) error {
	return f.change(ctx, false, func(size uint64) (needs, error) {
		return needs{
			edges:  [2]uint64{off, off + n},
			extend: off+n > size,
		}, nil
	}, do)
}

// Truncate implements fusefs.File. A truncation to the middle of a sector
// zeroes the rest of that sector, which would make a missing one look local.
func (f *file) Truncate(ctx context.Context, size uint64, do func() error) error {
	return f.change(ctx, true, func(old uint64) (needs, error) {
		return needs{edges: [2]uint64{size, size}, extend: size > old}, nil
	}, do)
}

// Punch implements fusefs.File.
func (f *file) Punch(ctx context.Context, off, n uint64, do func() error) error {
	return f.change(ctx, true, func(size uint64) (needs, error) {
		end := off + n
		zero := wire.Range{Off: roundUp(off)}
		if stop := end &^ (sector - 1); end >= size {
			zero.Len = roundUp(size) - min(zero.Off, roundUp(size)) // nothing lies behind the end
		} else {
			zero.Len = stop - min(zero.Off, stop)
		}
		return needs{edges: [2]uint64{off, end}, extend: end > size, zero: zero}, nil
	}, do)
}

// Modify implements fusefs.File.
func (f *file) Modify(ctx context.Context, do func() error) error {
	return f.change(ctx, true, func(uint64) (needs, error) { return needs{}, nil }, do)
}

// needs is what has to be true before an operation may touch the file.
type needs struct {
	edges  [2]uint64  // the sectors that these offsets cut are not missing (R4)
	extend bool       // R1 and R2: the end of the file moves up
	zero   wire.Range // R3: in the zero-list
}

// change runs do, an operation of the application, when what it needs is
// true, and makes it true where it is not: it never holds mu over a fetch, so
// it looks again after each step. exclusive: do makes holes or changes attributes, and must
// not meet a filling.
func (f *file) change(ctx context.Context, exclusive bool, ask func(size uint64) (needs, error), do func() error) error {
	ctx, cancel := timeout(withPriority(ctx, reader), f.t.opt.FetchTimeout, f.t.opt.Volume)
	defer cancel()
	for {
		lock, unlock := f.mu.RLock, f.mu.RUnlock
		if exclusive {
			lock, unlock = f.mu.Lock, f.mu.Unlock
		}
		lock()
		step, zero, err := f.stepLocked(ask)
		if err == nil && step == nil && !f.local.Load() && f.m.Attributes() {
			if !exclusive {
				exclusive = true // the hand-over and do are one: or else one window after the other could come between
				unlock()
				continue
			}
			err = f.unkeepLocked()
		}
		if err == nil && step == nil {
			err = f.zeroedLocked(zero, do)
			unlock()
			return err
		}
		unlock()
		if err == nil {
			err = step(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// stepLocked returns what is still to be done before an operation, nil when
// nothing is but to put zero on the zero-list. mu is held, shared or exclusively.
func (f *file) stepLocked(ask func(size uint64) (needs, error)) (step func(context.Context) error, zero wire.Range, err error) {
	if f.local.Load() {
		return nil, zero, nil
	}
	if f.m.Kept {
		if f.fd < 0 {
			return nil, zero, f.t.closed()
		}
		pending, err := f.namesPending()
		if pending || err != nil {
			return f.fillNames, zero, err
		}
	}
	size, err := f.sizeLocked()
	if err != nil {
		return nil, zero, err
	}
	n, err := ask(size)
	if err != nil {
		return nil, zero, err
	}
	cut := make([]uint64, 0, 3)
	for _, at := range n.edges {
		if at < size && !omit(r4) { // behind the end there is nothing to keep
			cut = append(cut, at)
		}
	}
	if n.extend && !omit(r1) {
		cut = append(cut, size) // R1
	}
	for _, at := range cut {
		if at%sector == 0 {
			continue
		}
		from := at &^ (sector - 1)
		missing, err := f.isMissingLocked(from)
		if err != nil {
			return nil, zero, err
		}
		if missing {
			return func(ctx context.Context) error { return f.bring(ctx, from, from+1) }, zero, nil
		}
	}
	if n.extend && f.m.Valid > size && !omit(r2) {
		return func(context.Context) error { return f.lowerValid() }, zero, nil
	}
	if z := clip(n.zero, 0, f.m.Valid); z.Len > 0 && !covers(f.m.Zero, z) && !omit(r3) {
		if zero = n.zero; f.zeroFullLocked(zero) {
			list := f.m.Zero
			return func(ctx context.Context) error { return f.joinZero(ctx, narrowest(list, zeroGaps)) }, zero, nil
		}
	}
	return nil, zero, nil
}

// unkeepLocked hands the attributes over to the inode: what the
// application sets from now on counts, until a fetch has the mark hold what it finds. mu is held exclusively.
//
// Order: 1 flags, times, capabilities on the inode; 2 the mark. A crash between
// leaves a mark that says the same as the inode.
func (f *file) unkeepLocked() error {
	if f.fd < 0 {
		return f.t.closed()
	}
	if err := f.t.protect(f.fd, f.m.Flags); err != nil { // a crash may have lost them
		return err
	}
	return f.t.lifted(f.fd, func() error {
		if err := f.restoreLocked(); err != nil {
			return err
		}
		m := *f.m
		m.Kept, m.Held = false, false
		return f.writeMarkLocked(&m)
	})
}

// restoreLocked gives the inode the attributes that its mark keeps for it.
func (f *file) restoreLocked() error {
	if err := setMtime(f.fd, f.m.Mtime); err != nil {
		return fmt.Errorf("set times of inode %d: %w", f.ino, err)
	}
	return setCaps(f.fd, f.m.Caps)
}

// lowerValid keeps R2.
func (f *file) lowerValid() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.local.Load() {
		return nil
	}
	size, err := f.sizeLocked()
	if err != nil || f.m.Valid <= size {
		return err
	}
	m := *f.m
	m.Valid = size
	return f.setMarkLocked(&m)
}

// setMarkLocked writes the mark, also where the application made the file append-only and goes on writing it.
func (f *file) setMarkLocked(m *mark.File) error {
	return f.t.lifted(f.fd, func() error { return f.writeMarkLocked(m) })
}

// writeMarkLocked is setMarkLocked for who has the flags lifted.
func (f *file) writeMarkLocked(m *mark.File) error {
	if err := mark.Set(mark.FD(f.fd), m); err != nil {
		return fmt.Errorf("inode %d of volume %s: %w", f.ino, f.t.opt.Volume, err)
	}
	f.m = m
	return nil
}

func (f *file) sizeLocked() (uint64, error) {
	if f.fd < 0 {
		return 0, f.t.closed()
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, fmt.Errorf("stat inode %d: %w", f.ino, err)
	}
	return uint64(st.Size), nil
}
