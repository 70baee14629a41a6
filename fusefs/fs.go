package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// rootIno is the inode number of a BTRFS subvolume's root directory, which the
// FUSE protocol calls 1. No file of a subvolume has a number below 257.
const rootIno = 256

const maxWrite = 1 << 20

// FS is a mounted file system. Its exported methods may be called from many goroutines at once.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what is left out; see ops.go

	tree       Tree
	res        Residency
	opt        Options
	mountpoint string
	server     *server
	ident      identity
	dev        uint64 // st_dev of the subvolume
	magic      bool   // the kernel negotiated FUSE_PASSTHROUGH
	noOpenDir  bool   // the kernel need not open directories
	table      *table
	unanswered map[uint64]uint64 // of the process before: request -> handle that it may not have told the kernel of; only read

	passOff atomic.Bool // passthrough was refused for good
	fenced  atomic.Bool

	conn atomic.Int64 // number of the connection, as Unmount saw it last; 0: not known

	// ctx ends when the connection is gone or given up: nothing waits longer.
	ctx    context.Context
	cancel context.CancelFunc
	calls  sync.WaitGroup // watchers of interrupted requests
	done   chan struct{}  // closed when serving has ended and everything is closed

	// gate is held shared by each change of the tree, only for as long as the
	// system calls of that change take, never while a fetch is waited for;
	// Freeze holds it alone. Innermost of all locks.
	gate sync.RWMutex

	handles handles
	nodes   nodes
	victims victims
	gone    gone
	behind  behind
	dirs    dirs
}

var _ fuse.RawFileSystem = (*FS)(nil)

// Mount shows tree at mountpoint, an existing directory, and serves it until it
// is unmounted. tree and res have to outlive the mount: close them after Wait.
// The calling process must not use files below mountpoint itself.
func Mount(tree Tree, res Residency, mountpoint string, opt Options) (*FS, error) {
	f, err := newFS(tree, res, mountpoint, opt)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if err := f.mount(); err != nil {
		f.cancel()
		return nil, fmt.Errorf("mount %s: %w", mountpoint, err)
	}
	return f, nil
}

func makeFS(tree Tree, res Residency, mountpoint string, opt Options, ident identity, root *unix.Statx_t) *FS {
	f := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		tree:          tree, res: res, opt: opt, mountpoint: mountpoint, ident: ident,
		dev:  unix.Mkdev(root.Dev_major, root.Dev_minor),
		done: make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.handles.byID = map[uint64]*handle{}
	f.nodes.byIno = map[uint64]*node{}
	f.behind.f, f.behind.seen, f.behind.mapped = f, map[uint64]uint64{}, map[uint64]uint64{}
	f.dirs.byIno, f.dirs.limit = map[uint64]*dirHandle{}, dirLimit
	if opt.Without.OpenDirectories {
		f.dirs.limit = 0
	}
	f.gone.kept, f.gone.hold, f.gone.log = map[uint64]int{}, opt.HoldRemoved, opt.Log
	f.passOff.Store(opt.NoPassthrough)
	return f
}

// mount makes the connection and begins to serve it.
//
// Order: 1. mount, and agree with the kernel; 2. Options.Hold gets what a next process needs; 3. requests are served. A crash before 2 leaves
// a dead mount that nobody has used.
func (f *FS) mount() (err error) {
	if f.table, err = newTable(); err != nil {
		return err
	}
	f.handles.table = f.table
	conn, err := f.mountFUSE()
	if err != nil {
		f.table.close()
		return err
	}
	defer conn.Close()
	held, err := f.beginConn(conn)
	if err == nil {
		if f.opt.Hold != nil {
			held.Table = f.table.file
			err = f.opt.Hold(held)
		}
		if err == nil {
			go f.serve()
			return nil
		}
		go f.serve() // ends with the unmount
		return errors.Join(err, f.Detach())
	}
	f.table.close()
	return errors.Join(err, unix.Unmount(f.mountpoint, unix.MNT_DETACH))
}

// serve runs until the kernel has let go of the connection.
func (f *FS) serve() {
	defer close(f.done)
	f.server.serve()
	f.cancel()
	f.calls.Wait()
	f.victims.close()
	f.gone.close()
	f.behind.close()
	f.dirs.close()
	f.closeAll()
	f.table.close()
}

func (f *FS) mountOptions() *fuse.MountOptions {
	o := &fuse.MountOptions{
		MaxBackground:            64,
		MaxWrite:                 maxWrite,
		EnableAcl:                true,
		EnableSymlinkCaching:     !f.opt.Without.SymlinkCache,
		ExplicitDataCacheControl: true,
		Debug:                    f.opt.Debug,
		Logger:                   log.New(logWriter{f}, "", 0),
		PanicHandler: func(v any) fuse.Status {
			f.opt.Log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Msg("a file system operation panicked")
			return fuse.EIO
		},
		// Not CAP_ASYNC_DIO: with it the kernel waits for an O_DIRECT read without looking at
		// signals, so a process that reads what cannot be fetched could not be killed.
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DONT_MASK | fuse.CAP_HANDLE_KILLPRIV_V2 |
			fuse.CAP_SETXATTR_EXT | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_EXPORT_SUPPORT,
	}
	if f.opt.NoPassthrough {
		o.DisabledCapabilities |= fuse.CAP_PASSTHROUGH
	}
	if f.opt.Without.ReadDirPlus {
		o.DisabledCapabilities |= fuse.CAP_READDIRPLUS | fuse.CAP_READDIRPLUS_AUTO
	}
	if f.opt.Without.ReadDirPlusAuto {
		o.DisabledCapabilities |= fuse.CAP_READDIRPLUS_AUTO
	}
	if f.opt.Without.KillPriv {
		o.DisabledCapabilities |= fuse.CAP_HANDLE_KILLPRIV_V2
	}
	return o
}

// logWriter carries the protocol library's few messages to our log.
type logWriter struct{ f *FS }

func (w logWriter) Write(p []byte) (int, error) {
	w.f.opt.Log.Debug().Msg(strings.TrimSpace(string(p)))
	return len(p), nil
}

// String names the file system type for the protocol library.
func (f *FS) String() string { return "fractal-lazy" }

// negotiated is told what the kernel offered in INIT.
func (f *FS) negotiated(flags uint64) {
	f.noOpenDir = flags&fuse.CAP_NO_OPENDIR_SUPPORT != 0 && !f.opt.Without.NoOpenDir && !f.opt.Without.ListingCache
	f.magic = flags&fuse.CAP_PASSTHROUGH != 0
	if !f.magic && !f.opt.NoPassthrough {
		f.passOff.Store(true)
		f.opt.Log.Warn().Msg("this kernel has no FUSE passthrough: all data goes through this process")
	}
}

// Mountpoint is where the file system was mounted, as an absolute path.
func (f *FS) Mountpoint() string { return f.mountpoint }

// Unmount takes the mount away and waits until everything is closed. EBUSY
// where a process still uses it; then it stays mounted. What copies of the mount in other
// name spaces keep open ends after a few seconds (cut.go). Calls after the first success do nothing.
func (f *FS) Unmount() error {
	select {
	case <-f.done:
		return nil
	default:
	}
	if n := connection(f.mountpoint); n != 0 {
		f.conn.Store(int64(n))
	}
	err := unix.Unmount(f.mountpoint, unix.UMOUNT_NOFOLLOW)
	for try := time.Duration(1); err == unix.EBUSY && try <= unmountTries; try++ {
		time.Sleep(try * unmountPause) // a process may just be ending
		err = unix.Unmount(f.mountpoint, unix.UMOUNT_NOFOLLOW)
	}
	if err != nil && err != unix.EINVAL {
		return fmt.Errorf("unmount %s: %w", f.mountpoint, err)
	}
	return f.endHeld(int(f.conn.Load()))
}

// How often, and how soon, a busy mount is tried again: about 300 ms in all.
const (
	unmountTries = 7
	unmountPause = 10 * time.Millisecond
)

// Detach takes the mount out of the name space at once. Processes that use it
// go on; serving ends, and Wait returns, after the last of them has closed its files.
func (f *FS) Detach() error {
	select {
	case <-f.done:
		return nil
	default:
	}
	if err := unix.Unmount(f.mountpoint, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		return fmt.Errorf("detach %s: %w", f.mountpoint, err)
	}
	return nil
}

// Abort is Detach that also ends with EINTR every operation that waits for the Residency, now and later.
func (f *FS) Abort() error {
	f.cancel()
	return f.Detach()
}

// Wait returns when serving has ended and all descriptors are closed.
func (f *FS) Wait() { <-f.done }

// Fence makes every change fail with EROFS from now on (true), or allows them
// again. Files that are already open for writing in passthrough mode are out
// of its reach: the kernel writes those without asking.
func (f *FS) Fence(on bool) { f.fenced.Store(on) }

// Freeze runs do while no change that goes through this process is under way.
// A snapshot taken in do holds each write that completed before the call; for
// those that the kernel passed through, dirty data is flushed first, since a
// BTRFS snapshot may skip a block that is being rewritten. Reads go on; changes
// wait, and hold locks of the Residency meanwhile: do must neither change the
// tree through the mount nor ask the Residency.
func (f *FS) Freeze(do func() error) error {
	// The first flush takes the bulk while nobody has to wait.
	if f.behind.any() {
		if err := unix.Syncfs(f.tree.RootFD()); err != nil {
			return fmt.Errorf("freeze: flush: %w", err)
		}
	}
	f.gate.Lock()
	defer f.gate.Unlock()
	if f.behind.any() {
		if err := unix.Syncfs(f.tree.RootFD()); err != nil {
			return fmt.Errorf("freeze: flush: %w", err)
		}
	}
	if still, ok := f.res.(Still); ok && !f.res.Complete() {
		return still.Freeze(do)
	}
	return do()
}

// change runs do, the system calls of one change of the tree, behind the gate. It must not be nested.
func (f *FS) change(do func() error) error {
	if f.opt.ReadOnly || f.fenced.Load() {
		return ErrFenced
	}
	f.gate.RLock()
	defer f.gate.RUnlock()
	return f.steady(do)
}

// steady runs do, for which the protecting flags of inodes count.
func (f *FS) steady(do func() error) error {
	if flags, ok := f.res.(Flags); ok && !f.res.Complete() {
		return flags.Steady(do)
	}
	return do()
}

// unprotected returns EPERM for a directory that is protected and being filled. It is called in do of change.
func (f *FS) unprotected(path string) error {
	flags, ok := f.res.(Flags)
	if !ok || f.res.Complete() {
		return nil
	}
	if is, err := flags.Protected(path); is && err == nil {
		return unix.EPERM
	}
	return nil // what cannot be read is met by the change itself
}

func nodeToIno(node uint64) uint64 {
	if node == fuse.FUSE_ROOT_ID {
		return rootIno
	}
	return node
}

func inoToNode(ino uint64) uint64 {
	if ino == rootIno {
		return fuse.FUSE_ROOT_ID
	}
	return ino
}

// hidden reports that name in directory ino is one of ours, which nobody sees.
func hidden(ino uint64, name string) bool { return ino == rootIno && name == HiddenName }

// checkName refuses what is no single name; the kernel sends none of these.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 {
		return syscall.EINVAL
	}
	return nil
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
