package main

import (
	"errors"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

const (
	maxFile  = 1 << 20 // where files stop growing
	maxOpen  = 10
	maxPaths = 500
)

// gen draws operations. It knows the names from the plain side, so that nothing of
// the mount is looked at for it.
type gen struct {
	r      *rand.Rand
	plain  *side
	paths  []string // all, directories too
	dirs   []string // "." is the root
	focus  []string // paths that most operations go to, for a while
	slots  map[int]*slot
	next   int // number of the next open file
	frozen []string
	steps  int
}

type slot struct {
	ino  uint64
	reg  bool
	dir  bool
	maps bool
}

func newGen(r *rand.Rand, plain *side) *gen {
	g := &gen{r: r, plain: plain, slots: map[int]*slot{}}
	g.rescan()
	return g
}

// rescan lists the plain side anew.
func (g *gen) rescan() {
	g.paths, g.dirs = g.paths[:0], append(g.dirs[:0], ".")
	g.scan(g.plain.root, "")
	g.refocus()
}

func (g *gen) scan(dir int, prefix string) {
	names, err := list(dir)
	if err != nil {
		return
	}
	for _, n := range names {
		p := prefix + n[1:]
		g.paths = append(g.paths, p)
		if n[0] != 'a'+unix.DT_DIR {
			continue
		}
		g.dirs = append(g.dirs, p)
		if fd, err := unix.Openat(dir, n[1:], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			g.scan(fd, p+"/")
			unix.Close(fd)
		}
	}
}

func (g *gen) refocus() {
	g.focus = g.focus[:0]
	for range 8 {
		if len(g.paths) > 0 {
			g.focus = append(g.focus, g.paths[g.r.IntN(len(g.paths))])
		}
	}
}

func (g *gen) chance(percent int) bool { return g.r.IntN(100) < percent }

// there draws a path that is probably there.
func (g *gen) there() string {
	if g.chance(65) && len(g.focus) > 0 {
		return g.focus[g.r.IntN(len(g.focus))]
	}
	if len(g.paths) == 0 {
		return "."
	}
	return g.paths[g.r.IntN(len(g.paths))]
}

func (g *gen) dir() string { return g.dirs[g.r.IntN(len(g.dirs))] }

// fresh draws a path that is probably not there.
func (g *gen) fresh() string {
	return path.Join(g.dir(), "n"+strconv.Itoa(g.r.IntN(12)))
}

func (g *gen) any() string {
	if g.chance(80) {
		return g.there()
	}
	return g.fresh()
}

// handle draws an open file; 0 where there is none.
func (g *gen) handle(want func(*slot) bool) int {
	var all []int
	for n, s := range g.slots {
		if want(s) {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[g.r.IntN(len(all))]
}

func regular(s *slot) bool { return s.reg }

// offset draws an offset in or about the open file n.
func (g *gen) offset(n int) int64 {
	size := int64(20_000)
	if h := g.plain.open[n]; h != nil {
		var st unix.Stat_t
		if unix.Fstat(h.fd, &st) == nil {
			size = st.Size
		}
	}
	return g.about(size)
}

func (g *gen) about(size int64) int64 {
	var at int64
	switch g.r.IntN(10) {
	case 0:
		return 0
	case 1:
		at = size
	case 2:
		at = size + g.r.Int64N(40_000)
	default:
		at = g.r.Int64N(size + 4096)
	}
	switch g.r.IntN(4) {
	case 0:
		at = at &^ 4095
	case 1:
		at = at&^4095 + 4096 - g.r.Int64N(3)
	}
	return min(at, maxFile)
}

func (g *gen) length() int64 {
	switch g.r.IntN(10) {
	case 0, 1, 2:
		return 1 + g.r.Int64N(100)
	case 3, 4, 5:
		return 4096 * (1 + g.r.Int64N(4))
	case 6, 7, 8:
		return 1 + g.r.Int64N(20_000)
	}
	return 1 + g.r.Int64N(200_000)
}

var kinds = []struct {
	kind   string
	weight int
}{
	{"open", 130}, {"close", 110}, {"pread", 90}, {"pwrite", 110}, {"append", 20}, {"ftruncate", 25}, {"truncate", 25},
	{"fallocate", 45}, {"copy", 30}, {"lseek", 35}, {"fsync", 4}, {"fdatasync", 4}, {"mmap", 35}, {"mapkeep", 6}, {"store", 12}, {"load", 6},
	{"tmpfile", 8}, {"linkat", 10}, {"mkdir", 25}, {"mknod", 12}, {"symlink", 10}, {"link", 35}, {"unlink", 45}, {"rmdir", 15}, {"remove", 4},
	{"rename", 60}, {"stat", 50}, {"readlink", 8}, {"access", 15}, {"list", 20},
	{"chmod", 30}, {"chown", 25}, {"utimes", 20}, {"setxattr", 30}, {"removexattr", 12}, {"getxattr", 20}, {"chattr", 18},
	{"fchmod", 8}, {"fchown", 8}, {"futimes", 8}, {"fsetxattr", 8},
}

var totalWeight = func() (n int) {
	for _, k := range kinds {
		n += k.weight
	}
	return n
}()

// draw returns the next operation.
func (g *gen) draw() *op {
	g.steps++
	if g.steps%64 == 0 {
		g.rescan()
	}
	for {
		n := g.r.IntN(totalWeight)
		kind := ""
		for _, k := range kinds {
			if n -= k.weight; n < 0 {
				kind = k.kind
				break
			}
		}
		if o := g.fill(kind); o != nil {
			return o
		}
	}
}

func (g *gen) fill(kind string) *op {
	o := &op{Kind: kind, Umask: []int{0o22, 0o22, 0, 0o77}[g.r.IntN(4)], Seed: g.r.Uint64N(1 << 30)}
	if g.chance(12) {
		o.UID, o.GID = 1000+g.r.IntN(2), 1000+g.r.IntN(2)
	}
	if g.named(o) {
		if g.device(o) {
			return nil
		}
		return o
	}
	if !g.opened(o) {
		return nil
	}
	return o
}

// named fills the operations on names.
func (g *gen) named(o *op) bool {
	switch o.Kind {
	case "open":
		if len(g.slots) >= maxOpen {
			o.Kind = "close"
			return false
		}
		g.next++
		o.Path, o.H, o.Mode = g.any(), g.next, g.mode()
		o.Flags = []int{unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY}[g.r.IntN(4)]
		for _, f := range []struct{ percent, flag int }{{25, unix.O_CREAT}, {4, unix.O_EXCL | unix.O_CREAT}, {5, unix.O_TRUNC}, {8, unix.O_APPEND},
			{10, unix.O_DIRECT}, {8, unix.O_NOFOLLOW}, {3, unix.O_DSYNC}, {2, unix.O_SYNC}, {2, unix.O_DIRECTORY}} {
			if g.chance(f.percent) && !(f.flag == unix.O_DIRECTORY && o.Flags&unix.O_CREAT != 0) {
				o.Flags |= f.flag
			}
		}
	case "tmpfile":
		if len(g.slots) >= maxOpen {
			o.Kind = "close"
			return false
		}
		g.next++
		o.Path, o.H, o.Mode, o.Flags = g.dir(), g.next, g.mode(), unix.O_RDWR
		if g.chance(20) {
			o.Flags |= unix.O_EXCL
		}
	case "mkdir":
		o.Path, o.Mode = g.fresh(), g.mode()
		if len(g.paths) > maxPaths {
			o.Kind, o.Path = "remove", g.dir()
			if o.Path == "." {
				o.Path = "n0"
			}
		}
	case "mknod":
		o.Path = g.fresh()
		o.Mode = []uint32{unix.S_IFIFO, unix.S_IFREG, unix.S_IFCHR, unix.S_IFSOCK}[g.r.IntN(4)] | g.mode()
	case "symlink":
		o.Path, o.To = g.fresh(), []string{"f0", "nowhere", "n1", "n2"}[g.r.IntN(4)]
	case "link":
		o.Path, o.To = g.there(), g.fresh()
		if g.chance(10) {
			o.To = g.there()
		}
	case "unlink", "rmdir", "stat", "readlink", "list":
		o.Path = g.any()
		if o.Kind == "rmdir" || o.Kind == "list" {
			o.Path = g.dir()
		}
		if o.Kind == "stat" && g.chance(50) {
			o.Flags = unix.AT_SYMLINK_NOFOLLOW
		}
	case "remove":
		o.Path = g.dir()
		if o.Path == "." {
			o.Path = g.fresh()
		}
	case "rename":
		o.Path, o.To = g.there(), g.fresh()
		if g.chance(20) {
			o.Path = g.dir()
		}
		if g.chance(35) {
			o.To = g.there()
		}
		o.Flags = []int{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT}[g.r.IntN(6)]
	case "access":
		o.Path, o.Mode, o.UID, o.GID = g.any(), uint32(g.r.IntN(8)), 1000+g.r.IntN(2), 1000+g.r.IntN(2)
	case "chmod":
		o.Path, o.Mode = g.any(), g.mode()
		if g.chance(15) && !g.isOpen(o.Path) {
			o.Mode |= []uint32{unix.S_ISUID, unix.S_ISGID, unix.S_ISVTX}[g.r.IntN(3)]
		}
	case "chown":
		o.Path, o.Mode = g.any(), g.owner()
	case "utimes":
		o.Path, o.Off, o.N = g.any(), 1_000_000_000+g.r.Int64N(500_000_000), g.r.Int64N(1_000_000_000)
	case "truncate":
		o.Path = g.any()
		o.N = g.about(30_000)
	case "setxattr", "removexattr", "getxattr":
		o.Path = g.any()
		g.xattr(o)
	case "chattr":
		g.chattr(o)
	default:
		return false
	}
	return true
}

// device reports whether o would open a device: the pool is mounted nodev, the volume is not.
func (g *gen) device(o *op) bool {
	if o.Kind != "open" && o.Kind != "chattr" {
		return false
	}
	var st unix.Stat_t
	return unix.Fstatat(g.plain.root, o.Path, &st, 0) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR
}

func (g *gen) mode() uint32 {
	return []uint32{0o644, 0o755, 0o600, 0o777, 0o666, 0o700, 0o444, 0o770, 0}[g.r.IntN(9)]
}

// owner is the argument of a chown, see op.UIDArg: not -1 for both.
func (g *gen) owner() uint32 {
	uid, gid := uint32(1000+g.r.IntN(3)), uint32(1000+g.r.IntN(3))
	switch g.r.IntN(5) {
	case 0:
		uid = 0xffff
	case 1:
		gid = 0xffff
	case 2:
		uid, gid = 0, 0
	}
	return uid<<16 | gid
}

func (g *gen) xattr(o *op) {
	o.To = []string{"user.a", "user.a", "user.b", "user.large", "trusted.t", "security.capability", "system.posix_acl_access", "system.posix_acl_default"}[g.r.IntN(8)]
	switch o.Kind {
	case "setxattr", "fsetxattr":
		o.N = g.r.Int64N(60)
		if o.To == "user.large" {
			o.N = g.r.Int64N(8000)
		}
		o.Mode = uint32(g.r.IntN(1 << 18))
		o.Flags = []int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[g.r.IntN(4)]
	case "getxattr":
		o.N = []int64{10_000, 10_000, 0, 5}[g.r.IntN(4)]
	}
}

const maxFrozen = 5

func (g *gen) chattr(o *op) {
	if len(g.frozen) > 0 && (len(g.frozen) >= maxFrozen || g.chance(50)) {
		i := g.r.IntN(len(g.frozen))
		o.Path, o.Flags = g.frozen[i], flImmutable|flAppend
		g.frozen = append(g.frozen[:i:i], g.frozen[i+1:]...)
		o.UID, o.GID = 0, 0
		return
	}
	o.Path = g.there()
	o.Flags = []int{flImmutable, flAppend, flNoDump, flNoAtime, flNoCow}[g.r.IntN(5)]
	if g.chance(80) {
		o.Mode = 1
	}
}

// Inode flags of include/uapi/linux/fs.h.
const (
	flImmutable = 0x10
	flAppend    = 0x20
	flNoDump    = 0x40
	flNoAtime   = 0x80
	flNoCow     = 0x800000
)

// opened fills the operations on open files; false where none fits.
func (g *gen) opened(o *op) bool {
	all := func(*slot) bool { return true }
	switch o.Kind {
	case "close", "fsync", "fdatasync", "fchmod", "fchown", "futimes", "fsetxattr", "linkat":
		o.H = g.handle(all)
		switch o.Kind {
		case "close":
			if len(g.slots) < 4 && g.chance(50) {
				return false
			}
		case "fchmod":
			o.Mode = g.mode()
		case "fchown":
			o.Mode = g.owner()
		case "futimes":
			o.Off, o.N = 1_000_000_000+g.r.Int64N(500_000_000), g.r.Int64N(1_000_000_000)
		case "fsetxattr":
			g.xattr(o)
		case "linkat":
			o.To = g.fresh()
			o.UID, o.GID = 0, 0
		}
		return o.H != 0
	case "store", "load":
		o.H = g.handle(func(s *slot) bool { return s.maps })
		return o.H != 0
	}
	if o.H = g.handle(regular); o.H == 0 {
		return false
	}
	o.UID, o.GID = 0, 0 // the file is open already
	if o.Kind != "copy" && g.chance(6) && !g.direct(o.H) {
		o.UID, o.GID = 1000, 1000 // still, who writes may lose setuid bits
	}
	o.Off, o.N = g.offset(o.H), g.length()
	if g.direct(o.H) {
		o.Off, o.N = o.Off&^4095, (o.N+4095)&^4095
	}
	switch o.Kind {
	case "ftruncate":
		o.N, o.Off = o.Off, 0
	case "append":
		o.Off = 0
		if h := g.plain.open[o.H]; h != nil {
			var st unix.Stat_t
			if unix.Fstat(h.fd, &st) == nil && (st.Size > maxFile || g.direct(o.H) && st.Size%4096 != 0) {
				return false
			}
		}
	case "fallocate":
		o.Mode = []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_UNSHARE_RANGE}[g.r.IntN(9)]
		if o.Mode&unix.FALLOC_FL_PUNCH_HOLE != 0 && g.isHole(g.plain.open[o.H].fd, o.Off, o.N) {
			return false // BTRFS looks at nothing then, and the kernel has taken the capabilities of a FUSE file away before it asks
		}
	case "lseek":
		o.Flags, o.N = []int{unix.SEEK_DATA, unix.SEEK_HOLE}[g.r.IntN(2)], 0
	case "copy":
		o.H2 = g.handle(regular)
		o.Off2 = g.offset(o.H2)
		if g.chance(50) {
			o.Off, o.Off2, o.N = o.Off&^4095, o.Off2&^4095, (o.N+4095)&^4095
		}
	case "mmap", "mapkeep":
		if f, err := backing.GetFlags(g.plain.open[o.H].fd); err != nil || f&flAppend != 0 {
			return false // the kernel knows of no such flag on a FUSE mount
		}
		o.Off &^= 4095
		o.Mode = []uint32{unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE}[g.r.IntN(2)]
		o.Flags = []int{unix.MAP_SHARED, unix.MAP_PRIVATE}[g.r.IntN(2)]
		if o.Kind == "mapkeep" {
			if g.slots[o.H].maps {
				return false
			}
			o.Off, o.N, o.Mode, o.Flags = 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED
		}
	}
	return true
}

// isHole reports whether a range that lies in a hole, or behind the end, is to be punched in a file with capabilities or setuid bits.
func (g *gen) isHole(fd int, off, n int64) bool {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || off >= st.Size {
		return err == nil
	}
	_, err := unix.Fgetxattr(fd, "security.capability", nil)
	if err != nil && st.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return false
	}
	data, err := unix.Seek(fd, off, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && data >= off+n
}

func (g *gen) direct(n int) bool {
	h := g.plain.open[n]
	return h != nil && h.flags&unix.O_DIRECT != 0
}

func (g *gen) isOpen(path string) bool {
	var st unix.Stat_t
	if unix.Fstatat(g.plain.root, path, &st, 0) != nil {
		return false
	}
	for _, s := range g.slots {
		if s.ino == st.Ino {
			return true
		}
	}
	return false
}

// note learns what an operation that succeeded made.
func (g *gen) note(o *op) {
	switch o.Kind {
	case "open", "tmpfile":
		var st unix.Stat_t
		if h := g.plain.open[o.H]; h != nil && unix.Fstat(h.fd, &st) == nil {
			g.slots[o.H] = &slot{ino: st.Ino, reg: st.Mode&unix.S_IFMT == unix.S_IFREG, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
		}
		if o.Kind == "open" && o.Flags&unix.O_CREAT != 0 {
			g.paths = append(g.paths, o.Path)
		}
	case "close":
		delete(g.slots, o.H)
	case "mapkeep":
		g.slots[o.H].maps = true
	case "mknod", "symlink":
		g.paths = append(g.paths, o.Path)
	case "mkdir":
		g.paths, g.dirs = append(g.paths, o.Path), append(g.dirs, o.Path)
	case "link", "linkat":
		g.paths = append(g.paths, o.To)
	case "rename":
		g.paths = append(g.paths, o.To)
		for i, f := range g.focus {
			if f == o.Path {
				g.focus[i] = o.To
			}
		}
	case "chattr":
		if o.Mode != 0 && o.Flags&(flImmutable|flAppend) != 0 {
			g.frozen = append(g.frozen, o.Path)
		}
	}
}

func (g *gen) closedAll() { clear(g.slots) }
