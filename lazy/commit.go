package lazy

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// committer keeps R6: no fsync is acknowledged while the filling of a
// directory is under way or not committed. BTRFS answers an fsync by logging
// the inode and the names around it; replayed over a filling that the last
// commit does not hold, such a log leaves a directory with that one name, and
// without its mark.
//
// While a filling is open, fsync becomes syncfs: it commits everything, and
// writes no log. In the background the transaction that holds a filling is
// committed at once, so that this does not last.
type committer struct {
	fd int // any descriptor of the file system

	// gate is held shared by an fsync that logs, and exclusively for the
	// moment in which a filling begins.
	gate sync.RWMutex

	mu        sync.Mutex
	active    int    // fillings under way
	ended     uint64 // fillings that ended so far
	committed uint64 // of those, how many are surely on disk
	wake      chan struct{}
	stop      context.CancelFunc
	done      chan struct{}
	err       error // of the last commit
}

// dirty: a process before this one may have filled something that is not committed yet.
func newCommitter(fd int, dirty bool) *committer {
	ctx, stop := context.WithCancel(context.Background())
	c := &committer{fd: fd, wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	if dirty {
		c.ended = 1
		c.wake <- struct{}{}
	}
	go c.run(ctx)
	return c
}

func (c *committer) close() error {
	c.stop()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// begin opens a filling. It waits for fsyncs that are logging.
func (c *committer) begin() {
	c.gate.Lock()
	defer c.gate.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active++
}

// end closes a filling, complete or not, and has it committed soon.
func (c *committer) end() {
	c.mu.Lock()
	c.active--
	c.ended++
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *committer) dirty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active > 0 || c.committed < c.ended
}

// sync runs do, an fsync, or a syncfs in its place. fd is of the file system.
func (c *committer) sync(fd int, do func() error) error {
	c.gate.RLock()
	if !c.dirty() || omit(r6) {
		defer c.gate.RUnlock()
		return do()
	}
	c.gate.RUnlock()
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	c.reached(ended)
	return nil
}

func (c *committer) reached(ended uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed = max(c.committed, ended)
}

// run commits after fillings, one commit for all that ended before it began.
func (c *committer) run(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		ended := c.ended
		c.mu.Unlock()
		// Not BTRFS's START_SYNC, which would leave delayed data alone: now and
		// then it waits for the commit that the kernel makes every 30 s.
		var err error
		if !omit(r6) {
			err = unix.Syncfs(c.fd)
		}
		if err == nil {
			c.reached(ended)
		}
		// After an error the fillings stay dirty, and every fsync a syncfs,
		// which then reports what is wrong to those who ask.
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
	}
}

// Sync implements fusefs.Residency.
func (t *Tree) Sync(_ context.Context, fd int, do func() error) error {
	if t.complete.Load() {
		return do()
	}
	return t.Steady(func() error { return t.commit.sync(fd, do) })
}

// Filling implements fusefs.Fillings.
func (t *Tree) Filling() bool { return !t.complete.Load() && t.commit.dirty() && !omit(r6) }
