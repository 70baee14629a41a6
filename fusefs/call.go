package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// killCheck is how often a waiting, interrupted request looks whether its
// process is being killed.
const killCheck = 100 * time.Millisecond

// call is one request: its context, and what its end is reported with.
//
// A FUSE INTERRUPT says only that a signal arrived. Go programs send
// themselves SIGURG all the time, and a read(2) of a regular file that fails with EINTR
// is something that no program expects. So the context ends only when the caller is being killed.
type call struct {
	f      *FS
	op     string
	ino    uint64
	pid    uint32
	gid    uint32 // of the caller, for file systems
	unique uint64 // of the request; replay.go
	start  time.Time
	// forgotten is behind.forgotten before the call looked at anything.
	forgotten uint64
	cancel    <-chan struct{}

	watch sync.Once
	done  chan struct{} // closed when the call is to be given up
	over  chan struct{} // closed when the call has ended; nil unless watched

	mu  sync.Mutex
	err error
}

var _ context.Context = (*call)(nil)

func (f *FS) begin(op string, cancel <-chan struct{}, h *fuse.InHeader) *call {
	c := &call{f: f, op: op, ino: nodeToIno(h.NodeId), pid: h.Pid, gid: h.Gid, unique: h.Unique, cancel: cancel, forgotten: f.behind.forgotten.Load()}
	if f.opt.Observe != nil {
		c.start = time.Now()
	}
	return c
}

// end closes the call and says what the kernel is to be told.
func (c *call) end(err error) fuse.Status {
	c.watch.Do(func() {}) // from here on no watcher starts
	if c.over != nil {
		close(c.over)
	}
	if c.f.opt.Observe != nil {
		c.f.opt.Observe(c.op, time.Since(c.start))
	}
	if err == nil {
		return fuse.OK
	}
	return c.f.status(c.op, c.ino, err)
}

// Done starts to watch the caller at its first use: most requests never wait.
func (c *call) Done() <-chan struct{} {
	c.watch.Do(func() {
		c.done = make(chan struct{})
		c.over = make(chan struct{})
		c.f.calls.Add(1)
		go c.run()
	})
	return c.done
}

// run gives the call up when the file system ends or the caller dies.
func (c *call) run() {
	defer c.f.calls.Done()
	select {
	case <-c.over:
		return
	case <-c.f.ctx.Done():
		c.giveUp()
		return
	case <-c.cancel:
	}
	tick := time.NewTicker(killCheck)
	defer tick.Stop()
	for {
		if beingKilled(c.pid) {
			c.giveUp()
			return
		}
		select {
		case <-c.over:
			return
		case <-c.f.ctx.Done():
			c.giveUp()
			return
		case <-tick.C:
		}
	}
}

func (c *call) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = context.Canceled
	close(c.done)
}

// Err is part of context.Context.
func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.f.ctx.Err() != nil {
		return context.Canceled
	}
	return c.err
}

// Deadline is part of context.Context: there is none.
func (c *call) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value is part of context.Context: there are none.
func (c *call) Value(any) any { return nil }

const sigkillBit = 1 << 8 // signal 9 in the masks of /proc/<pid>/status

// beingKilled reports that the thread pid (the protocol's pid is a thread id) is
// gone, a zombie, or has a SIGKILL pending. 0 is a thread of another pid
// name space, of which nothing can be known: it counts as killed, for else it could not be killed at all.
func beingKilled(pid uint32) bool {
	if pid == 0 {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	if s := statusField(b, "State:"); len(s) > 0 && (s[0] == 'Z' || s[0] == 'X') {
		return true
	}
	return (statusMask(b, "SigPnd:")|statusMask(b, "ShdPnd:"))&sigkillBit != 0
}

// statusField returns the value of a line of /proc/<pid>/status.
func statusField(status []byte, key string) []byte {
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte(key)); ok {
			return bytes.TrimSpace(v)
		}
	}
	return nil
}

func statusMask(status []byte, key string) uint64 {
	v, err := strconv.ParseUint(string(statusField(status, key)), 16, 64)
	if err != nil {
		return 0
	}
	return v
}
