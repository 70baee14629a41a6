package lazy

import (
	"errors"
	"fmt"
	"strconv"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/snapshot/wire"

	"golang.org/x/sys/unix"
)

const (
	capsName       = "security.capability"
	accessACL      = "system.posix_acl_access"
	defaultACL     = "system.posix_acl_default"
	protectedFlags = wire.FlagImmutable | wire.FlagAppend
)

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// lifted runs do with the inode's immutable and append-only flags lifted. No snapshot is taken meanwhile, and no fsync of an application logs the
// inode. It must not be nested.
func (t *Tree) lifted(fd int, do func() error) error {
	t.still.RLock()
	defer t.still.RUnlock()
	return t.quietLifted(fd, do)
}

// quietLifted is lifted for who holds Tree.still.
//
// Where nothing is to be lifted, do runs beside others, but not while one of them has the flags of this very inode lifted: they would come
// back in the middle of it.
//
// Order: 1 a mark at the root says whose flags they are, and which; 2 they go; 3 do; 4 they are back; 5 the mark goes. A crash between 1 and 5 leaves the mark, by
// which Open sets them, and who makes a snapshot reads them.
func (t *Tree) quietLifted(fd int, do func() error) error {
	ok, err := t.unlifted(fd, do)
	if ok || err != nil {
		return err
	}
	t.flags.Lock()
	defer t.flags.Unlock()
	flags, err := backing.GetFlags(fd)
	if err != nil {
		return err
	}
	noted, err := t.noteLifted(fd, flags)
	if err != nil {
		return err
	}
	if err := backing.SetFlags(fd, flags&^protectedFlags); err != nil {
		return errors.Join(err, noted())
	}
	err = do()
	if back := backing.SetFlags(fd, flags); back != nil {
		return errors.Join(err, back) // and the mark stays
	}
	return errors.Join(err, noted())
}

// noteLifted sets the mark of Lifted, and returns what removes it. There is none where the root directory itself is protected, and on a full disk: what is lifted
// then is not known after a crash.
func (t *Tree) noteLifted(fd int, flags uint32) (remove func() error, err error) {
	none := func() error { return nil }
	root := t.bt.RootFD()
	if own, err := backing.GetFlags(root); err != nil || own&protectedFlags != 0 {
		return none, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return none, err
	}
	err = mark.Set(mark.FD(root), &mark.Lifted{Ino: st.Ino, Flags: flags & protectedFlags})
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return none, nil
	}
	return func() error { return mark.Remove(mark.FD(root), mark.LiftedName) }, err
}

// putBack sets the flags that a process which died had lifted.
func (t *Tree) putBack() error {
	root := mark.FD(t.bt.RootFD())
	l, err := mark.GetLifted(root)
	if err != nil || l == nil {
		return err
	}
	fd, err := t.bt.Open(l.Ino, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err == nil {
		err = t.protect(fd, l.Flags)
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ESTALE) {
		return fmt.Errorf("protect inode %d again: %w", l.Ino, err)
	}
	return mark.Remove(root, mark.LiftedName)
}

// unlifted runs do where no flag protects the inode, and reports whether it did.
func (t *Tree) unlifted(fd int, do func() error) (bool, error) {
	t.flags.RLock()
	defer t.flags.RUnlock()
	flags, err := backing.GetFlags(fd)
	if err != nil || flags&protectedFlags != 0 {
		return false, err
	}
	return true, do()
}

// Steady implements fusefs.Flags.
func (t *Tree) Steady(do func() error) error {
	t.flags.RLock()
	defer t.flags.RUnlock()
	return do()
}

// Protected implements fusefs.Flags.
func (t *Tree) Protected(path string) (bool, error) {
	m, err := mark.GetDir(path)
	return m != nil && m.Flags&protectedFlags != 0, err
}

func getCaps(fd int) ([]byte, error) {
	b, err := backing.Getxattr(fd, capsName)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return b, err
}

// Caps implements fusefs.Caps.
func (t *Tree) Caps(path string) ([]byte, error) {
	m, err := mark.GetFile(path)
	if err != nil || m == nil || !m.Attributes() {
		return nil, err
	}
	return m.Caps, nil
}

func setCaps(fd int, caps []byte) error {
	if len(caps) == 0 {
		return nil
	}
	return backing.Setxattr(fd, capsName, caps, 0)
}

// setFlags makes the inode's flags want, as far as they are kept in snapshots
// and but for those that protect it, which would stop everything that follows.
func setFlags(fd int, want uint32) error {
	flags, err := backing.GetFlags(fd)
	if err != nil {
		return err
	}
	const mask = wire.KeptFlags &^ protectedFlags
	if (flags^want)&mask == 0 {
		return nil
	}
	return backing.SetFlags(fd, flags&^mask|want&mask)
}

// protect sets the immutable and append-only flags that want has.
func (t *Tree) protect(fd int, want uint32) error {
	if want&protectedFlags == 0 {
		return nil
	}
	t.flags.Lock()
	defer t.flags.Unlock()
	return protectLocked(fd, want)
}

func protectLocked(fd int, want uint32) error {
	flags, err := backing.GetFlags(fd)
	if err != nil || flags|want&protectedFlags == flags {
		return err
	}
	return backing.SetFlags(fd, flags|want&protectedFlags)
}

// setXattrs gives the inode at path, whose last component is not followed,
// exactly the attributes of a that a new inode might have otherwise: an ACL
// that it inherited from its directory goes, those of a come.
func setXattrs(path string, a *wire.Attr, inherits bool) error {
	set, remove := unix.Lsetxattr, unix.Lremovexattr
	if isMagic(path) {
		set, remove = unix.Setxattr, unix.Removexattr
	}
	if inherits {
		for _, name := range []string{accessACL, defaultACL} {
			err := remove(path, name)
			if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EACCES) {
				return fmt.Errorf("remove inherited %s: %w", name, err)
			}
		}
	}
	for _, x := range a.Xattrs {
		if err := set(path, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", x.Name, err)
		}
	}
	return nil
}

// isMagic tells the path of a descriptor from that of a name in it.
func isMagic(path string) bool {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i] == "/proc/self/fd"
		}
	}
	return false
}
