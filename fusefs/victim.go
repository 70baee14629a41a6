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

// victims are descriptors of inodes that have just lost a name, the oldest first.
type victims struct {
	mu     sync.Mutex
	queue  []victim
	timer  *time.Timer
	closed bool
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
	if len(v.queue) > victimLimit {
		unix.Close(v.queue[0].fd)
		v.queue = v.queue[1:]
	}
	if v.timer == nil {
		v.timer = time.AfterFunc(victimKeep, v.expire)
	}
}

// expire closes those whose time has come, and comes again for the rest.
func (v *victims) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.timer = nil
	if v.closed {
		return
	}
	now := time.Now()
	for len(v.queue) > 0 && !v.queue[0].until.After(now) {
		unix.Close(v.queue[0].fd)
		v.queue = v.queue[1:]
	}
	if len(v.queue) > 0 {
		v.timer = time.AfterFunc(time.Until(v.queue[0].until), v.expire)
	} else {
		v.queue = nil
	}
}

// close closes all of them, for good.
func (v *victims) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
	for _, k := range v.queue {
		unix.Close(k.fd)
	}
	v.queue = nil
}
