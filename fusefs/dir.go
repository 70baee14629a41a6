package fusefs

import (
	"container/list"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dirHandle is an open directory (dirs.go). Offsets are BTRFS's own, which belong to the
// names: they stay the same while other names come and go, and mean the same to everyone who lists it.
type dirHandle struct {
	all *dirs
	ino uint64
	fd  int

	users int           // under all.mu
	gone  bool          // under all.mu: no longer in all
	idle  *list.Element // under all.mu: in all.idle, while there are no users

	noACL atomic.Bool // it has no default ACL

	mu   sync.Mutex
	buf  []byte // names read from fd and not yet sent
	room []byte // where buf lies
	next uint64 // offset at which buf begins
}

// dirBuffer is how much of a directory is read at once.
const dirBuffer = 32 << 10

// seek makes off the next offset to be read. Offset 0 always goes down to BTRFS, which then sees names made since (rewinddir).
func (d *dirHandle) seek(off uint64) error {
	if off != 0 && off == d.next {
		return nil
	}
	d.buf, d.next = nil, off
	_, err := unix.Seek(d.fd, int64(off), unix.SEEK_SET)
	return err
}

// peek returns the next name; ok is false at the end.
func (d *dirHandle) peek() (e fuse.DirEntry, size int, ok bool, err error) {
	if len(d.buf) == 0 {
		if d.room == nil {
			d.room = make([]byte, dirBuffer)
		}
		n, err := unix.Getdents(d.fd, d.room)
		if err != nil || n == 0 {
			return e, 0, false, err
		}
		d.buf = d.room[:n]
	}
	// struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name to the 0.
	b := d.buf
	size = int(binary.NativeEndian.Uint16(b[16:]))
	name := b[19:size]
	for i, ch := range name {
		if ch == 0 {
			name = name[:i]
			break
		}
	}
	return fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(b),
		Off:  binary.NativeEndian.Uint64(b[8:]),
		Mode: uint32(b[18]) << 12,
		Name: string(name),
	}, size, true, nil
}

// take goes past the name that peek returned.
func (d *dirHandle) take(e *fuse.DirEntry, size int) {
	d.buf = d.buf[size:]
	d.next = e.Off
}

// OpenDir is FUSE_OPENDIR. Listings name their directory by its node id, so nothing has to be opened, and ENOSYS makes the kernel stop
// asking. It then keeps each listing from one opendir(3) to the next: every change of it goes through the kernel.
func (f *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c := f.begin("opendir", cancel, &in.InHeader)
	if f.noOpenDir {
		return c.end(unix.ENOSYS)
	}
	if !f.opt.Without.ListingCache {
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return c.end(nil)
}

// ReadDir is FUSE_READDIR.
func (f *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	c := f.begin("readdir", cancel, &in.InHeader)
	return c.end(f.readdir(c, in, func(d *dirHandle, e fuse.DirEntry) bool { return out.AddDirEntry(e) }))
}

// ReadDirPlus is FUSE_READDIRPLUS: each name with its attributes, as if looked up.
func (f *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	c := f.begin("readdirplus", cancel, &in.InHeader)
	return c.end(f.readdir(c, in, func(d *dirHandle, e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		// Without attributes the kernel looks the name up when it is used, and then gets the error that there is.
		var st unix.Statx_t
		c.forgotten = f.behind.forgotten.Load() // a listing is long
		if err := f.stat(d.fd, e.Name, &st); err == nil {
			f.fillEntry(c, entry, &st)
			out.FixMode(uint32(st.Mode))
		}
		return true
	}))
}

// readdir gives add the names from in.Offset on until it returns false.
func (f *FS) readdir(c *call, in *fuse.ReadIn, add func(*dirHandle, fuse.DirEntry) bool) error {
	d, err := f.directory(c, c.ino)
	if err != nil {
		return err
	}
	defer d.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.seek(in.Offset); err != nil {
		return err
	}
	for sent := false; ; {
		e, size, ok, err := d.peek()
		if err != nil && sent {
			return nil // the next call meets it again
		}
		if err != nil || !ok {
			return err
		}
		if d.ino == rootIno && e.Name == ".." {
			e.Ino = rootIno // what lies above the subvolume is not shown
		}
		if !hidden(d.ino, e.Name) {
			if !add(d, e) {
				return nil
			}
			sent = true
		}
		d.take(&e, size)
	}
}
