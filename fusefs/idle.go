package fusefs

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// A reader that waits has a room of 1 MiB, all of it present (buffers.go), and a machine may have a thousand mounts that nobody uses at the moment. To
// poll before each read would cost a system call for each request. So where nobody has asked for a while, we have the kernel make a request, which wakes
// a reader: it ends where others wait as well, and the last one gives its room back and polls for the next request without one. A new mount begins so.
//
// The kernel makes such a request for a regular file that it remembers. Where the one that was opened last is forgotten, or there was none, the rooms are kept.
//
// At any time there is one of: a timer that is going to look, such a request on its way, a reader that polls.

// idleAfter is how long nobody has asked before a reader gives its room back, and up to twice that.
var idleAfter = 10 * time.Second

// look has a reader woken where nobody has asked since the last look.
func (s *server) look() {
	if s.asleep.Load() {
		return // it looks when it wakes
	}
	if s.asked.Swap(false) || s.wake() != nil {
		s.lookLater()
	}
}

func (s *server) lookLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers > 0 {
		s.looks = time.AfterFunc(idleAfter, s.look)
	}
}

// wake has the kernel make a request that changes nothing: it "retrieves" no bytes of the file opened last (FUSE_NOTIFY_RETRIEVE, 5), for which it sends a
// FUSE_NOTIFY_REPLY that wants no answer. We never ask for it for another reason.
func (s *server) wake() error {
	var msg [48]byte // struct fuse_out_header, and struct fuse_notify_retrieve_out: unique, node, offset, size
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], 5)
	binary.NativeEndian.PutUint64(msg[24:], s.lastFile.Load()) // 0 is no node
	return s.notify(msg[:])
}

// sleeper makes a reader that has been woken the one that waits, unless another one does.
func (s *server) sleeper() bool {
	s.asleep.Store(true) // first: others do not wait beside it (again)
	if s.waiting.Add(1) == 1 {
		return true
	}
	s.asleep.Store(false)
	s.waiting.Add(-1)
	return false
}

// sleep returns when there is something to read: a request, or the end of the connection.
func (s *server) sleep() {
	p := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(p, -1); err != unix.EINTR {
			break
		}
	}
	s.asleep.Store(false)
	s.lookLater()
}
