package fusefs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An inode whose last name goes is gone from BTRFS at once, unless somebody has it open. On BTRFS
// itself a process that has just resolved the name holds it, and its open succeeds. Through us the
// name and the open are two requests, and the open would fail with ESTALE when a rename or unlink comes in between; programs that
// replace files by rename while others open them would see it. So what loses a name stays open for a moment longer.

const (
	victimKeep  = time.Second
	victimLimit = 256
)

// victims are descriptors of inodes that have just lost a name, the oldest first. Closing one takes BTRFS longer than removing the name did, if
// that was the last one. So it is not done by those who answer requests, as long as they are not much faster than it is.
type victims struct {
	closers sync.WaitGroup // who closes without the lock

	mu      sync.Mutex
	queue   []victim
	timer   *time.Timer
	closing bool // there are too many, and somebody closes the older half
	closed  bool
}

type victim struct {
	fd    int
	until time.Time
}

// keepVictim opens what name in dirfd stands for, without opening its content; -1 where that fails.
func (f *FS) keepVictim(dirfd int, name string) int {
	fd, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1 // the removal itself says what is wrong
	}
	return fd
}

// removed is told what keepVictim opened, and whether it lost its name.
func (f *FS) removed(fd int, ok bool) {
	var st unix.Stat_t
	if fd < 0 || !ok || unix.Fstat(fd, &st) != nil {
		f.victims.add(fd, ok)
		return
	}
	switch typ := st.Mode & unix.S_IFMT; {
	case typ == unix.S_IFDIR:
		f.dirs.forget(st.Ino)
	case typ == unix.S_IFREG, st.Nlink > 1: // an open file is held by its node; the one name that is left may be the hidden one
		f.victims.add(fd, ok)
		return
	}
	f.gone.keep(st.Ino, fd)
}

// add keeps fd for a while if the inode lost its name, else closes it.
func (v *victims) add(fd int, removed bool) {
	if fd < 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !removed || v.closed {
		unix.Close(fd)
		return
	}
	v.queue = append(v.queue, victim{fd, time.Now().Add(victimKeep)})
	switch {
	case len(v.queue) <= victimLimit:
	case v.closing:
		unix.Close(v.queue[0].fd)
		v.queue = v.queue[1:]
	default:
		v.closing = true
		v.closers.Add(1)
		go v.shorten(v.takeLocked(victimLimit / 2))
	}
	if v.timer == nil {
		v.timer = time.AfterFunc(victimKeep, v.expire)
	}
}

// takeLocked takes the oldest n out of the queue.
func (v *victims) takeLocked(n int) []victim {
	old := v.queue[:n:n]
	v.queue = append([]victim(nil), v.queue[n:]...)
	return old
}

func closeVictims(old []victim) {
	for _, k := range old {
		unix.Close(k.fd)
	}
}

// shorten closes old, which was taken because there were too many.
func (v *victims) shorten(old []victim) {
	defer v.closers.Done()
	closeVictims(old)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closing = false
}

// expire closes those whose time has come, and comes again for the rest.
func (v *victims) expire() {
	v.mu.Lock()
	v.timer = nil
	if v.closed {
		v.mu.Unlock()
		return
	}
	v.closers.Add(1)
	defer v.closers.Done()
	now, n := time.Now(), 0
	for n < len(v.queue) && !v.queue[n].until.After(now) {
		n++
	}
	old := v.takeLocked(n)
	if len(v.queue) > 0 {
		v.timer = time.AfterFunc(time.Until(v.queue[0].until), v.expire)
	}
	v.mu.Unlock()
	closeVictims(old)
}

// close closes all of them, for good.
func (v *victims) close() {
	v.mu.Lock()
	defer v.closers.Wait()
	defer v.mu.Unlock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
	closeVictims(v.queue)
	v.queue = nil
}
