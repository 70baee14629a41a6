package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

var errNone = errors.New("no error")

// pair is what is known of an inode on both sides.
type pair struct {
	ino          uint64 // on the mount; 0: not seen there
	plain, mount unix.Timespec
	loose        bool // it was stored to through a mapping: the time may come late
	last         bool // but not again after the next look, for all files were closed
	zeros        bool // zeros were punched since it was seen: the time of either side may have moved
}

// compare compares the objects of the two sides.
type compare struct {
	plain, mount *side
	pairs        map[uint64]*pair  // by inode number on the plain side
	inos         map[uint64]uint64 // the same, by that on the mount
	full         time.Time         // when everything was compared last
	count        uint64
	inexact      bool // the snapshot may count names that were removed while others were not filled
}

func newCompare(plain, mount *side) *compare {
	return &compare{plain: plain, mount: mount, pairs: map[uint64]*pair{}, inos: map[uint64]uint64{}, full: time.Now()}
}

// another says that the mount is another volume with the same content.
func (c *compare) another(mount *side) {
	c.mount = mount
	clear(c.inos)
	for _, p := range c.pairs {
		p.ino = 0
	}
}

// closed says that no file is open any more on either side: what was stored through mappings has its time.
func (c *compare) closed() {
	for _, p := range c.pairs {
		p.last = p.loose
	}
}

// tick is how late the clock may be that inodes are stamped with.
const tick = 20 * time.Millisecond

// attributes compares one object, which an operation of both sides may have touched after since.
func (c *compare) attributes(p, m *unix.Stat_t, since time.Time) error {
	var wrong []string
	say := func(what string, a, b any) {
		if a != b {
			wrong = append(wrong, fmt.Sprintf("%s is %v, plain %v", what, b, a))
		}
	}
	say("mode", fmt.Sprintf("%o", p.Mode), fmt.Sprintf("%o", m.Mode))
	say("uid", p.Uid, m.Uid)
	say("gid", p.Gid, m.Gid)
	if !c.inexact || m.Nlink < p.Nlink || p.Mode&unix.S_IFMT == unix.S_IFDIR {
		say("nlink", p.Nlink, m.Nlink)
	}
	say("rdev", p.Rdev, m.Rdev)
	if p.Mode&unix.S_IFMT != unix.S_IFDIR {
		say("size", p.Size, m.Size)
	}
	if p.Mode&unix.S_IFMT == unix.S_IFREG {
		// Preallocation is not in a snapshot, and what was punched still counts until it is complete.
		if p.Blocks == 0 && p.Size == 0 && m.Blocks > maxFile/512 || m.Blocks*512 > (p.Blocks*512+p.Size+maxFile) {
			say("blocks", p.Blocks, m.Blocks)
		}
	}
	k := c.pairs[p.Ino]
	if k == nil {
		k = &pair{plain: p.Mtim, mount: m.Mtim}
		c.pairs[p.Ino] = k
		if !c.together(p.Mtim, m.Mtim, c.full) {
			say("mtime", p.Mtim, m.Mtim)
		}
	}
	if k.ino == 0 {
		if other, ok := c.inos[m.Ino]; ok && other != p.Ino {
			say("the file", p.Ino, other)
		}
		k.ino = m.Ino
		c.inos[m.Ino] = p.Ino
	}
	say("inode number", k.ino, m.Ino)
	switch {
	case k.plain == p.Mtim && k.mount == m.Mtim:
	case c.together(p.Mtim, m.Mtim, since):
	case k.plain != p.Mtim && k.mount != m.Mtim && c.together(p.Mtim, m.Mtim, c.full): // by an operation on another name
	case k.loose && !before(m.Mtim, k.mount) && !before(unix.NsecToTimespec(time.Now().UnixNano()), m.Mtim):
	case k.zeros && (k.plain == p.Mtim || fresh(p.Mtim, since)) && (k.mount == m.Mtim || fresh(m.Mtim, since)):
	default:
		wrong = append(wrong, fmt.Sprintf("mtime went from %v to %v, plain from %v to %v", at(k.mount), at(m.Mtim), at(k.plain), at(p.Mtim)))
	}
	k.plain, k.mount, k.zeros = p.Mtim, m.Mtim, false
	if k.last {
		k.loose, k.last = false, false
	}
	c.count++
	if wrong != nil {
		return fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// together reports whether both times are the same, or both "now" of an operation after since.
func (c *compare) together(p, m unix.Timespec, since time.Time) bool {
	if p == m {
		return true
	}
	return fresh(p, since) && fresh(m, since)
}

// fresh reports whether t is the "now" of an operation after since.
func fresh(t unix.Timespec, since time.Time) bool {
	from := unix.NsecToTimespec(since.Add(-tick).UnixNano())
	to := unix.NsecToTimespec(time.Now().UnixNano())
	return !before(t, from) && !before(to, t)
}

func before(a, b unix.Timespec) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

func at(t unix.Timespec) string { return time.Unix(t.Unix()).Format("15:04:05.000000") }

// path compares what a path stands for. deep: with all that the object has.
func (c *compare) path(path string, since time.Time, deep bool) error {
	var p, m unix.Stat_t
	perr := unix.Fstatat(c.plain.root, path, &p, unix.AT_SYMLINK_NOFOLLOW)
	merr := unix.Fstatat(c.mount.root, path, &m, unix.AT_SYMLINK_NOFOLLOW)
	if perr != merr {
		return fmt.Errorf("%q: stat gives %w, plain %v", path, cmp.Or(merr, errNone), perr) // EIO may be for a fetch that timed out
	}
	if perr != nil {
		return nil
	}
	err := c.attributes(&p, &m, since)
	if err == nil && deep {
		err = c.deep(path, &p)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return nil
}

// handle compares an open file. deep: its content as well.
func (c *compare) handle(n int, since time.Time, deep bool) error {
	hp, hm := c.plain.open[n], c.mount.open[n]
	if hp == nil || hm == nil {
		return nil
	}
	var p, m unix.Stat_t
	if err := unix.Fstat(hp.fd, &p); err != nil {
		return err
	}
	if err := unix.Fstat(hm.fd, &m); err != nil {
		return fmt.Errorf("open file %d: stat: %w", n, err)
	}
	err := c.attributes(&p, &m, since)
	if err == nil && deep && p.Mode&unix.S_IFMT == unix.S_IFREG && hp.flags&unix.O_ACCMODE != unix.O_WRONLY {
		err = c.content(hp.fd, hm.fd, p.Size)
	}
	if err != nil {
		return fmt.Errorf("open file %d: %w", n, err)
	}
	return nil
}

// deep compares the rest of the object at path, whose type is the same.
func (c *compare) deep(path string, st *unix.Stat_t) error {
	p, err := xattrs(proc(c.plain.root) + "/" + path)
	if err != nil {
		return err
	}
	m, err := xattrs(proc(c.mount.root) + "/" + path)
	if err != nil {
		return fmt.Errorf("xattrs: %w", err)
	}
	if p != m {
		return fmt.Errorf("xattrs are %q, plain %q", m, p)
	}
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NOATIME | openAlways
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		o := &op{Kind: "readlink", Path: path}
		if p, m := c.plain.run(o), c.mount.run(o); p != m {
			return fmt.Errorf("target is %v, plain %v", m, p)
		}
		return nil
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return nil
	}
	fp, err := unix.Openat(c.plain.root, path, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fp)
	fm, err := unix.Openat(c.mount.root, path, flags, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fm)
	a, err := backing.GetFlags(fp)
	if err != nil {
		return err
	}
	b, err := backing.GetFlags(fm)
	if err != nil || a != b {
		return fmt.Errorf("flags are %#x, plain %#x: %v", b, a, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return c.content(fp, fm, st.Size)
	}
	return nil
}

// content compares bytes and holes.
func (c *compare) content(fp, fm int, size int64) error {
	for off := int64(0); off <= size; {
		np, err := unix.Pread(fp, c.plain.buf, off)
		if err != nil {
			return err
		}
		nm, err := unix.Pread(fm, c.mount.buf, off)
		if err != nil {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		p, m := c.plain.buf[:np], c.mount.buf[:nm]
		if nm > 0 && nm < np {
			p = p[:nm] // a fetch that timed out ends a read early: the next one says why
		}
		if !bytes.Equal(p, m) {
			return differs(p, m, off)
		}
		if len(p) == 0 {
			break
		}
		off += int64(len(p))
	}
	p, err := holes(fp, size)
	if err != nil {
		return err
	}
	m, err := holes(fm, size)
	if err != nil {
		return err
	}
	if slices.Equal(p, m) {
		return nil
	}
	// Where a hole is cut in the middle of a sector that is one, BTRFS may write zeros, or not, by what lies beside it. So
	// a hole may stand for zeros, but for nothing else.
	all := append(append([]int64{0, size}, p...), m...)
	slices.Sort(all)
	for i := 1; i < len(all); i++ {
		from, to := all[i-1], min(all[i], size)
		if from >= to || isData(p, from) == isData(m, from) {
			continue
		}
		b := c.plain.buf[:min(to-from, int64(len(c.plain.buf)))]
		n, err := unix.Pread(fp, b, from)
		if err != nil {
			return err
		}
		if len(bytes.Trim(b[:n], "\x00")) > 0 {
			return fmt.Errorf("data is at %v, plain at %v", m, p)
		}
	}
	return nil
}

// isData reports whether off is in data, by what holes returned.
func isData(at []int64, off int64) bool {
	n := 0
	for n < len(at) && at[n] <= off {
		n++
	}
	return n%2 == 1
}

func differs(p, m []byte, off int64) error {
	n := min(len(p), len(m))
	i := 0
	for i < n && p[i] == m[i] {
		i++
	}
	wrong, zero := 0, 0
	for k := i; k < n; k++ {
		if p[k] != m[k] {
			wrong++
			if m[k] == 0 {
				zero++
			}
		}
	}
	return fmt.Errorf("%d bytes, plain %d; %d differ from offset %d on, %d of them zeros", len(m), len(p), wrong, off+int64(i), zero)
}

// holes is where data begins and ends, in turns.
func holes(fd int, size int64) (at []int64, err error) {
	for off := int64(0); off < size; {
		whence := unix.SEEK_DATA
		if len(at)%2 == 1 {
			whence = unix.SEEK_HOLE
		}
		off, err = unix.Seek(fd, off, whence)
		if err == unix.ENXIO {
			return at, nil
		}
		if err != nil {
			return at, fmt.Errorf("seek: %w", err)
		}
		at = append(at, off)
	}
	return at, nil
}

// xattrs is all of them, in order; the last part of path is not followed.
func xattrs(path string) (string, error) {
	var list, value [16 << 10]byte
	n, err := unix.Llistxattr(path, list[:])
	if err != nil || n == 0 {
		if err == unix.EOPNOTSUPP {
			err = nil
		}
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, value[:])
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(&b, "%s=%x ", name, value[:n])
	}
	return b.String(), nil
}

// everything compares the two trees.
func (c *compare) everything() error {
	began := time.Now()
	err := c.tree(".", "")
	if err == nil {
		c.full = began
	}
	return err
}

func (c *compare) tree(path, prefix string) error {
	if err := c.path(path, c.full, true); err != nil {
		return err
	}
	o := &op{Kind: "list", Path: path}
	p, m := c.plain.run(o), c.mount.run(o)
	if p != m {
		return fmt.Errorf("%q: listing is %v, plain %v", path, m, p)
	}
	for _, name := range strings.Split(p.text, "/") {
		if name == "" { // of an empty directory
			continue
		}
		n := name[1:]
		var err error
		if name[0] == 'a'+unix.DT_DIR {
			err = c.tree(prefix+n, prefix+n+"/")
		} else {
			err = c.path(prefix+n, c.full, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
