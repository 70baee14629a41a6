package fusefs

import (
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// A removed directory stays where a process is in it, or has it open, and so does a FIFO. Since the kernel opens none of these at this process, their descriptor
// is kept until the kernel forgets the inode, which it does at once where nobody uses it.
//
// Most are forgotten right after their removal. What is not is handed to Options.HoldRemoved, so that the next process finds it: a process that dies within
// goneWait of a removal takes what was removed along, and who has it open gets ESTALE for its attributes, which is all that there is to ask for.

const (
	goneWait = 20 * time.Millisecond
	// goneHeld is how many are handed over at most; the oldest give way. A process that dies may take the kernel's word that one is forgotten along.
	goneHeld = 128
)

// gone are removed inodes, but for regular files, that the kernel has not forgotten.
type gone struct {
	hold func(ino uint64, dir *os.File) error // Options.HoldRemoved
	log  zerolog.Logger

	mu     sync.Mutex
	kept   map[uint64]int
	held   []uint64 // those handed over, the oldest first
	young  []uint64 // removed since the timer was set
	old    []uint64 // removed before that
	timer  *time.Timer
	closed bool
}

// keep holds fd, the removed inode ino, until forget.
func (g *gone) keep(ino uint64, fd int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, twice := g.kept[ino]; twice || g.closed {
		unix.Close(fd)
		return
	}
	g.kept[ino] = fd
	if g.hold == nil {
		return
	}
	g.young = append(g.young, ino)
	if g.timer == nil {
		g.timer = time.AfterFunc(goneWait, g.handOver)
	}
}

// handOver hands over what was removed a while ago and is still in use.
func (g *gone) handOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer = nil
	if g.closed {
		return
	}
	for _, ino := range g.old {
		fd, ok := g.kept[ino]
		if !ok {
			continue
		}
		if len(g.held) >= goneHeld {
			g.letGoLocked(g.held[0])
		}
		if err := g.giveLocked(ino, fd); err != nil {
			g.log.Warn().Err(err).Uint64("ino", ino).Msg("what was removed while in use will not outlive this process")
			continue
		}
		g.held = append(g.held, ino)
	}
	g.old, g.young = g.young, nil
	if len(g.old) > 0 {
		g.timer = time.AfterFunc(goneWait, g.handOver)
	}
}

func (g *gone) giveLocked(ino uint64, fd int) error {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), "removed directory")
	defer dir.Close()
	return g.hold(ino, dir)
}

// letGoLocked has ino handed over no longer.
func (g *gone) letGoLocked(ino uint64) {
	i := slices.Index(g.held, ino)
	if i < 0 {
		return
	}
	g.held = slices.Delete(g.held, i, i+1)
	if err := g.hold(ino, nil); err != nil {
		g.log.Warn().Err(err).Uint64("ino", ino).Msg("what was removed is still held")
	}
}

// restore takes one back that the process before this one has handed over.
func (g *gone) restore(dir *os.File) error {
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kept[st.Ino] = fd
	g.held = append(g.held, st.Ino)
	return nil
}

// forget ends what keep began: the kernel has no use for ino any more.
func (g *gone) forget(ino uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if fd, ok := g.kept[ino]; ok {
		delete(g.kept, ino)
		unix.Close(fd)
		g.letGoLocked(ino)
	}
}

// close lets go of all of them, for good.
func (g *gone) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
	for len(g.held) > 0 {
		g.letGoLocked(g.held[0])
	}
	for ino, fd := range g.kept {
		unix.Close(fd)
		delete(g.kept, ino)
	}
}
