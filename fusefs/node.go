package fusefs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// node is a regular file that is open, or in use by one operation. There is at most one per inode, and none for
// inodes that are merely known: the tables grow with open files only.
type node struct {
	ino  uint64
	refs int // under nodes.mu

	mu sync.Mutex
	// fdR is open for reading at least from the first acquire to the last release, so the
	// inode stays reachable by its number also when it has no name. fdW
	// is open for writing, the same descriptor where possible; -1 until then.
	fdR, fdW int
	asked    bool // file is what the Residency said, for ever

	// made by us, and its capabilities have not been set since: it has none. The kernel asks at the first write and at each chown.
	noCaps atomic.Bool
	// toldTo is one more than the thread that was told last, by a size alone, that there are capabilities; see sparesCaps.
	toldTo atomic.Uint64

	anchored atomic.Bool  // fdW is one of Tree.OpenNamed, or as good
	fetching atomic.Int32 // reads that may be waiting for remote content
	file     File         // nil: local

	// The mode of the open handles; see mode.go.
	cached, pass int
	storers      int   // of the handles in cached, those open for writing: what they map may be dirty in the kernel's pages
	backing      int32 // 0: none
}

// handle is one open file description of a regular file. Directories have none (dirs.go).
type handle struct {
	id    uint64
	node  *node
	pass  bool
	write bool
	made  uint32 // the mode of a file that the open itself made: the kernel has no attributes of it yet; 0: it was there

	append bool // opened with O_APPEND
}

type nodes struct {
	mu    sync.Mutex
	byIno map[uint64]*node
}

type handles struct {
	mu    sync.RWMutex
	byID  map[uint64]*handle
	table *table // keeps them beyond this process
	next  uint64 // of those that the table has no room for
}

// add gives h, which the request unique opens, its number.
func (t *handles) add(h *handle, unique uint64) {
	s := h.node.slot(h, unique)
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ok := t.table.put(s)
	if !ok {
		t.next++
		id = replayBit | t.next // no slot has so high a generation within any mount's life; this one is lost with the process
	}
	h.id = id
	t.byID[id] = h
}

// keep has the table remember s, which is no handle; 0 where there is no room.
func (t *handles) keep(s slot) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	fh, _ := t.table.put(s)
	return fh
}

// slot describes h for the table.
func (n *node) slot(h *handle, unique uint64) slot {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := slot{ino: n.ino, unique: unique, backing: n.backing}
	if h.pass {
		s.flags |= slotPass
	}
	if h.write {
		s.flags |= slotWrite
	}
	if h.append {
		s.flags |= slotAppend
	}
	return s
}

// restore takes a handle of the table as it is.
func (t *handles) restore(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[h.id] = h
}

// lost takes a handle out of the table.
func (t *handles) lost(fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.table.drop(fh)
}

func (t *handles) get(id uint64) (*handle, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if h := t.byID[id]; h != nil {
		return h, nil
	}
	return nil, unix.EBADF
}

func (t *handles) remove(id uint64) *handle {
	t.mu.Lock()
	h := t.byID[id]
	delete(t.byID, id)
	t.mu.Unlock()
	if h == nil {
		return nil
	}
	// From here to the end of leaveMode the kernel may have a backing id that no handle tells of.
	h.node.mu.Lock()
	backing := h.node.backing
	h.node.mu.Unlock()
	t.table.doubt(backing)
	t.lost(h.id)
	return h
}

// held returns the node of ino if it is in the table, with one more reference.
func (f *FS) held(ino uint64) *node {
	f.nodes.mu.Lock()
	defer f.nodes.mu.Unlock()
	n := f.nodes.byIno[ino]
	if n != nil {
		n.refs++
	}
	return n
}

func (f *FS) reference(ino uint64) *node {
	f.nodes.mu.Lock()
	defer f.nodes.mu.Unlock()
	n := f.nodes.byIno[ino]
	if n == nil {
		n = &node{ino: ino, fdR: -1, fdW: -1}
		f.nodes.byIno[ino] = n
	}
	n.refs++
	return n
}

// acquire returns the node of the regular file ino, open (for writing too if
// write), with its residency known. Each is given back with drop.
func (f *FS) acquire(ctx context.Context, ino uint64, write, append bool) (*node, error) {
	n := f.reference(ino)
	if err := n.open(f.tree, write, append); err != nil {
		f.drop(n)
		return nil, err
	}
	if err := f.askResidency(ctx, n); err != nil {
		f.drop(n)
		return nil, err
	}
	return n, nil
}

const leaseTries = 1000

// open makes fdR, and fdW if write. A file whose descriptor could write is opened so from the start;
// some cannot be (immutable, running as a program, read-only), and are opened for reading until somebody insists.
func (n *node) open(tree Tree, write, append bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fdR >= 0 && (n.fdW >= 0 || !write) {
		return nil
	}
	byNumber := tree.Open
	if write { // perhaps passed through
		byNumber = tree.OpenNamed
	}
	const common = unix.O_LARGEFILE | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := byNumber(n.ino, unix.O_RDWR|common)
	for i := 0; err == unix.EAGAIN && i < leaseTries; i++ { // openForWriting holds its lease for a moment
		time.Sleep(time.Millisecond)
		fd, err = byNumber(n.ino, unix.O_RDWR|common)
	}
	if errors.Is(err, unix.EPERM) && append {
		// An append-only file. The kernel sends the offset of the end, so it is the same write.
		fd, err = byNumber(n.ino, unix.O_RDWR|unix.O_APPEND|common)
	}
	if err == nil {
		n.anchored.Store(write)
		n.fdW = fd
		if n.fdR < 0 {
			n.fdR = fd
		}
		return nil
	}
	if write || n.fdR >= 0 {
		return err
	}
	n.fdR, err = byNumber(n.ino, unix.O_RDONLY|common)
	return err
}

// frozen returns EPERM where the file is immutable or append-only, which ends new opens, not those that are
// there: it may have become so after fdW was opened.
func (n *node) frozen(append bool) error {
	n.mu.Lock()
	fd := n.fdR
	n.mu.Unlock()
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &st); err != nil {
		return err
	}
	if st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0 || st.Attributes&unix.STATX_ATTR_APPEND != 0 && !append {
		return unix.EPERM
	}
	return nil
}

// askResidency sets n.file once. It may wait for the network, so no lock is held meanwhile.
func (f *FS) askResidency(ctx context.Context, n *node) error {
	n.mu.Lock()
	known := n.asked
	n.mu.Unlock()
	if known || f.res.Complete() {
		return nil
	}
	file, err := f.res.File(ctx, n.ino)
	if err != nil {
		return err
	}
	n.mu.Lock()
	again := n.asked
	if !again {
		n.asked, n.file = true, file
	}
	n.mu.Unlock()
	if again && file != nil {
		file.Close()
	}
	return nil
}

// adopt is acquire for a file just made, open as fd, which becomes the node's.
func (f *FS) adopt(ino uint64, fd int) *node {
	n := f.reference(ino)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = true // nothing of it can be remote
	n.noCaps.Store(true)
	if n.fdR >= 0 {
		unix.Close(fd) // a lookup by number was faster
		return n
	}
	n.fdR, n.fdW = fd, fd
	n.anchored.Store(true)
	return n
}

// remote returns the residency of n as long as something may be missing, else nil.
func (n *node) remote() File {
	n.mu.Lock()
	file := n.file
	n.mu.Unlock()
	if file == nil || file.Local() {
		return nil
	}
	return file
}

// drop gives back one reference; the last one closes everything. By then the kernel has forgotten
// the mode of the inode, which ends before it sends RELEASE.
func (f *FS) drop(n *node) {
	f.nodes.mu.Lock()
	n.refs--
	last := n.refs == 0
	if last {
		delete(f.nodes.byIno, n.ino)
	}
	f.nodes.mu.Unlock()
	if last {
		f.closeNode(n)
		f.behind.release(n.ino)
	}
}

func (f *FS) closeNode(n *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f.unregisterLocked(n)
	if n.file != nil {
		n.file.Close()
		n.file = nil
	}
	if n.fdW >= 0 && n.fdW != n.fdR {
		unix.Close(n.fdW)
	}
	if n.fdR >= 0 {
		unix.Close(n.fdR)
	}
	n.fdR, n.fdW = -1, -1
}

// closeAll closes what the kernel did not release before the connection ended.
func (f *FS) closeAll() {
	f.handles.mu.Lock()
	all := f.handles.byID
	f.handles.byID = map[uint64]*handle{}
	f.handles.mu.Unlock()
	for _, h := range all {
		f.closeHandle(h)
	}
}

func (f *FS) closeHandle(h *handle) {
	f.leaveMode(h)
	f.drop(h.node)
}
