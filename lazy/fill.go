package lazy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

// filling is the filling of one directory, shared by all who wait for it.
type filling struct {
	done chan struct{}
	err  error

	once   sync.Once
	urgent chan struct{} // closed when a reader waits
}

// hurry makes the filling a reader's.
func (f *filling) hurry() { f.once.Do(func() { close(f.urgent) }) }

// Fill implements fusefs.Residency. The filling runs on the volume's context
// and outlives a caller who gives up.
func (t *Tree) Fill(ctx context.Context, ino uint64) error {
	if t.filled.Load() {
		return nil
	}
	ctx, cancel := timeout(ctx, t.opt.FetchTimeout, t.opt.Volume)
	defer cancel()
	return t.fillAt(ctx, ino, reader)
}

// fillAt fills directory ino where its mark says so, at priority p. A filling
// that is under way is joined; one of the background is in no hurry, and gives
// up sooner than a reader does.
func (t *Tree) fillAt(ctx context.Context, ino uint64, p priority) error {
	for {
		f, err := t.fillingOf(ino, p)
		if f == nil || err != nil {
			return err
		}
		if p == reader {
			f.hurry()
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p == reader && errors.Is(f.err, fusefs.ErrRemote) && t.ctx.Err() == nil {
			continue
		}
		return f.err
	}
}

// fillingOf returns the filling of directory ino, a new one where none is
// under way; nil where it is filled.
func (t *Tree) fillingOf(ino uint64, p priority) (*filling, error) {
	t.mu.Lock()
	f := t.fills[ino]
	t.mu.Unlock()
	if f != nil {
		return f, nil
	}
	fd, err := t.bt.Open(ino, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("open directory %d of volume %s: %w", ino, t.opt.Volume, err)
	}
	m, err := mark.GetDir(mark.FD(fd))
	unix.Close(fd)
	if err != nil {
		return nil, fmt.Errorf("directory %d of volume %s: %w", ino, t.opt.Volume, err)
	}
	if m == nil {
		return nil, nil
	}
	return t.startFilling(ino, p), nil
}

func (t *Tree) startFilling(ino uint64, p priority) *filling {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.fills[ino]; f != nil {
		return f
	}
	f := &filling{done: make(chan struct{}), urgent: make(chan struct{})}
	started := t.spawnLocked(func() {
		f.err = t.fillDir(withUrgency(t.ctx, p, f.urgent), ino)
		t.mu.Lock()
		delete(t.fills, ino)
		t.mu.Unlock()
		close(f.done)
	})
	if !started {
		f.err = t.closed()
		close(f.done)
		return f
	}
	t.fills[ino] = f
	return f
}

// fillDir makes all names of a directory.
//
// Order: 1 the names, each with its mark, attributes and all; 2 the
// directory's own times; 3 its mark goes; 4 its protecting flags come. A
// crash before 3 leaves the mark, and filling again takes over the names that
// are there. A crash between 3 and 4 cannot be seen: both are in one
// transaction but for a moment that R6 keeps from every application.
func (t *Tree) fillDir(ctx context.Context, ino uint64) error {
	fd, err := t.bt.Open(ino, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open directory %d of volume %s: %w", ino, t.opt.Volume, err)
	}
	defer unix.Close(fd)
	m, err := mark.GetDir(mark.FD(fd))
	if err != nil || m == nil {
		return err // filled by somebody who was faster
	}
	began := time.Now()

	// The first page is waited for before the filling opens, so that no fsync
	// is slow because the network is.
	next, stop := iter.Pull2(t.reader.Dir(ctx, m.Ref))
	defer stop()
	e, err, more := next()
	if err != nil {
		return t.wrap(ino, err)
	}

	t.commit.begin()
	defer t.commit.end()
	if m.Flags != 0 {
		if err := lift(fd); err != nil {
			return err
		}
	}
	d := &maker{t: t, dir: fd, hidden: t.hidden, now: toWire(time.Now())}
	if _, err := backing.Getxattr(fd, defaultACL); err == nil {
		d.inherits = true
	}
	for ; more; e, err, more = next() {
		if err != nil {
			return t.wrap(ino, err)
		}
		if err := d.make(&e); err != nil {
			return fmt.Errorf("fill directory %d of volume %s: %q: %w", ino, t.opt.Volume, e.Name, err)
		}
	}
	if err := setMtime(fd, m.Mtime); err != nil {
		return fmt.Errorf("set times of directory %d: %w", ino, err)
	}
	if err := t.unmark(fd, m.Flags); err != nil {
		return err
	}
	t.count.filled(&m.Ref, d.count)
	t.opt.Log.Debug().Str("volume", t.opt.Volume).Str("op", "fill").Uint64("ino", ino).Dur("took", time.Since(began)).Msg("directory filled")
	return nil
}

// unmark takes the mark of a filled directory away, and gives it its flags. Who looks at one of the two (Protected) finds it protected throughout.
func (t *Tree) unmark(fd int, flags uint32) error {
	if flags&protectedFlags == 0 {
		return mark.Remove(mark.FD(fd), mark.DirName)
	}
	t.flags.Lock()
	defer t.flags.Unlock()
	if err := mark.Remove(mark.FD(fd), mark.DirName); err != nil {
		return err
	}
	return protectLocked(fd, flags)
}

// lift clears the protecting flags of a directory that is to be filled.
func lift(fd int) error {
	flags, err := backing.GetFlags(fd)
	if err != nil || flags&protectedFlags == 0 {
		return err
	}
	return backing.SetFlags(fd, flags&^protectedFlags)
}

// maker makes the entries of one directory.
type maker struct {
	t        *Tree
	dir      int       // descriptor of the directory
	hidden   int       // descriptor of the hidden folder
	inherits bool      // the directory has a default ACL, which new inodes take over
	now      wire.Time // change time to show for new files
	count    tally
}

// tally is what a filling added that is still remote.
type tally struct{ files, bytes uint64 }

func (d *maker) make(e *wire.Entry) error {
	if e.Link != 0 {
		return d.makeLinked(e)
	}
	var st unix.Stat_t
	err := unix.Fstatat(d.dir, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && st.Mode&unix.S_IFMT != e.Mode&unix.S_IFMT:
		return fmt.Errorf("is there already, as a file of another type")
	case err == nil && e.Mode&unix.S_IFMT == unix.S_IFREG:
		return d.takeOver(e)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	}
	return d.create(e, err == nil)
}

// create makes the inode of e with its one name. again: a filling before this
// one made it, perhaps not with all attributes.
func (d *maker) create(e *wire.Entry, again bool) error {
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return d.createFile(e, func(fd int) error {
			return unix.Linkat(unix.AT_FDCWD, fdPath(fd), d.dir, e.Name, unix.AT_SYMLINK_FOLLOW)
		}, nil)
	case unix.S_IFDIR:
		return d.createDir(e, again)
	default:
		return d.createSpecial(d.dir, e.Name, e, again)
	}
}

// createFile makes a regular file without a name, complete in all but its
// content, and then names it: so no crash leaves a name without its mark.
func (d *maker) createFile(e *wire.Entry, name func(fd int) error, link *mark.Link) error {
	fd, err := unix.Openat(d.dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make inode: %w", err)
	}
	defer unix.Close(fd)
	if err := setFlags(fd, e.Flags); err != nil { // nodatacow can only be set on an empty file
		return err
	}
	if e.Content.Size > 0 {
		if err := unix.Ftruncate(fd, int64(e.Content.Size)); err != nil {
			return fmt.Errorf("set size: %w", err)
		}
	}
	if err := d.attributes(fdPath(fd), e, fd); err != nil {
		return err
	}
	if e.Content.Data > 0 || link != nil { // or else nobody would bring its other names before it is changed
		if err := mark.Set(mark.FD(fd), d.pending(e)); err != nil {
			return err
		}
		d.count.add(e)
	}
	if link != nil {
		if err := mark.Set(mark.FD(fd), link); err != nil {
			return err
		}
	}
	if err := setMtime(fd, e.Mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	if err := name(fd); err != nil {
		return fmt.Errorf("name inode: %w", err)
	}
	return d.t.protect(fd, e.Flags)
}

func (d *maker) pending(e *wire.Entry) *mark.File {
	m := &mark.File{
		State: mark.Pending, Content: *e.Content, Valid: e.Content.Size,
		Kept: true, Mtime: e.Mtime, Ctime: d.now, Flags: e.Flags & protectedFlags,
	}
	for _, x := range e.Xattrs {
		if x.Name == capsName {
			m.Caps = x.Value
		}
	}
	return m
}

// takeOver looks at a regular file that an interrupted filling left, perhaps
// without its mark or its protecting flags.
func (d *maker) takeOver(e *wire.Entry) error {
	fd, err := unix.Openat(d.dir, e.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if e.Content.Data > 0 {
		m, err := mark.GetFile(mark.FD(fd))
		if err != nil {
			return err
		}
		if m == nil {
			if err := d.t.lifted(fd, func() error { return mark.Set(mark.FD(fd), d.pending(e)) }); err != nil {
				return err
			}
		}
		if m == nil || m.State == mark.Pending {
			d.count.add(e)
		}
	}
	return d.t.protect(fd, e.Flags)
}

func (d *maker) createDir(e *wire.Entry, again bool) error {
	if !again {
		if err := unix.Mkdirat(d.dir, e.Name, 0o700); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(d.dir, e.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if again {
		if err := lift(fd); err != nil {
			return err
		}
	}
	m := &mark.Dir{Ref: *e.Dir, Mtime: e.Mtime, Flags: e.Flags & protectedFlags}
	if err := mark.Set(mark.FD(fd), m); err != nil {
		return err
	}
	if err := setFlags(fd, e.Flags); err != nil {
		return err
	}
	if err := d.attributes(fdPath(fd), e, fd); err != nil {
		return err
	}
	if err := setMtime(fd, e.Mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	d.count.files += e.Dir.Files
	d.count.bytes += e.Dir.Bytes
	return d.t.protect(fd, e.Flags)
}

// createSpecial makes a symbolic link, FIFO, socket or device as name in dir.
func (d *maker) createSpecial(dir int, name string, e *wire.Entry, again bool) error {
	var err error
	switch {
	case again:
	case e.Mode&unix.S_IFMT == unix.S_IFLNK:
		err = unix.Symlinkat(e.Target, dir, name)
	default:
		err = unix.Mknodat(dir, name, e.Mode&unix.S_IFMT|0o600, int(e.Rdev))
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := d.attributes(mark.At(dir, name), e, fd); err != nil {
		return err
	}
	ts := []unix.Timespec{timespec(e.Mtime), timespec(e.Mtime)}
	return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// attributes sets owner, mode and extended attributes, in the order in which
// they do not undo each other: a change of owner clears setuid and
// capabilities, a mode changes an inherited ACL. fd may be O_PATH.
func (d *maker) attributes(path string, e *wire.Entry, fd int) error {
	if err := unix.Fchownat(fd, "", int(e.UID), int(e.GID), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	link := e.Mode&unix.S_IFMT == unix.S_IFLNK
	if err := setXattrs(path, &e.Attr, d.inherits && !link); err != nil {
		return err
	}
	if link { // has no mode of its own
		return nil
	}
	if err := unix.Chmod(fdPath(fd), e.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return nil
}

func (c *tally) add(e *wire.Entry) {
	c.files++
	c.bytes += e.Content.Data
}
