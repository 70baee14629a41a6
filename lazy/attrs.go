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

// lifted runs do with the inode's immutable and append-only flags lifted. A
// crash meanwhile loses the flags; the mark keeps them, and finishing sets them.
// No snapshot is taken meanwhile. It must not be nested.
func (t *Tree) lifted(fd int, do func() error) error {
	t.still.RLock()
	defer t.still.RUnlock()
	return t.quietLifted(fd, do)
}

// quietLifted is lifted for who holds Tree.still.
//
// Where nothing is to be lifted, do runs beside others, but not while one of them has the flags of this very inode lifted: they would come
// back in the middle of it.
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
	if err := backing.SetFlags(fd, flags&^protectedFlags); err != nil {
		return err
	}
	return errors.Join(do(), backing.SetFlags(fd, flags))
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
