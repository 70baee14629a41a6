package fusefs

import (
	"container/list"
	"sync"

	"golang.org/x/sys/unix"
)

// The directories used last stay open, so that work in one directory opens it once and not for each name. There are few
// of them: what is kept follows from dirLimit, not from the size of the volume. A directory that is removed leaves at once.

// dirLimit is how many directories stay open that no operation uses.
const dirLimit = 128

// dirs are open directories by inode number.
type dirs struct {
	mu     sync.Mutex
	byIno  map[uint64]*dirHandle
	limit  int       // of idle
	idle   list.List // of those without users, the one used last in front
	closed bool
}

// directory is an open directory with all of its names there. The caller gives it back with release.
func (f *FS) directory(c *call, ino uint64) (*dirHandle, error) {
	if !f.res.Complete() {
		if err := f.res.Fill(c, ino); err != nil {
			return nil, err
		}
	}
	return f.openDir(ino)
}

// openDir is directory for one whose names do not matter.
func (f *FS) openDir(ino uint64) (*dirHandle, error) {
	if d := f.dirs.get(ino); d != nil {
		return d, nil
	}
	fd, err := f.tree.Open(ino, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return f.dirs.add(&dirHandle{all: &f.dirs, ino: ino, fd: fd}), nil
}

// get returns the directory ino if it is open, with one more user.
func (t *dirs) get(ino uint64) *dirHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.byIno[ino]
	if d != nil {
		t.useLocked(d)
	}
	return d
}

func (t *dirs) useLocked(d *dirHandle) {
	if d.idle != nil {
		t.idle.Remove(d.idle)
		d.idle = nil
	}
	d.users++
}

// add puts d in, just opened, and returns it with its first user; or the one that somebody else put in meanwhile.
func (t *dirs) add(d *dirHandle) *dirHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.byIno[d.ino]; other != nil {
		unix.Close(d.fd)
		d = other
	} else if t.closed {
		d.gone = true
	} else {
		t.byIno[d.ino] = d
	}
	t.useLocked(d)
	return d
}

// release ends one use.
func (d *dirHandle) release() {
	t := d.all
	t.mu.Lock()
	defer t.mu.Unlock()
	d.users--
	if d.users > 0 {
		return
	}
	if d.gone {
		unix.Close(d.fd)
		return
	}
	d.idle = t.idle.PushFront(d)
	if t.idle.Len() > t.limit {
		t.dropLocked(t.idle.Back().Value.(*dirHandle))
	}
}

// dropLocked takes d out; the last user closes it.
func (t *dirs) dropLocked(d *dirHandle) {
	delete(t.byIno, d.ino)
	d.gone = true
	if d.idle != nil {
		t.idle.Remove(d.idle)
		d.idle = nil
		unix.Close(d.fd)
	}
}

// forget takes ino out, which was removed.
func (t *dirs) forget(ino uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.byIno[ino]; d != nil {
		t.dropLocked(d)
	}
}

// close takes out all of them, for good.
func (t *dirs) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, d := range t.byIno {
		t.dropLocked(d)
	}
}

// aclChanged notes that attr of ino was set or removed.
func (t *dirs) aclChanged(ino uint64, attr string) {
	if attr != defaultACL {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.byIno[ino]; d != nil {
		d.noACL.Store(false)
	}
}
