package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// op is one operation. What its fields mean depends on Kind; see side.run.
type op struct {
	Kind         string
	Path, To     string // below the root
	H, H2        int    // open files
	Off, Off2, N int64
	Mode         uint32
	Flags        int
	UID, GID     int
	Seed         uint64 // of what is written
	Umask        int
	Again        bool // it is repeated after an EIO
}

func (o *op) String() string {
	var b strings.Builder
	b.WriteString(o.Kind)
	add := func(f string, v any, zero bool) {
		if !zero {
			fmt.Fprintf(&b, f, v)
		}
	}
	add(" %q", o.Path, o.Path == "")
	add(" to %q", o.To, o.To == "")
	add(" h%d", o.H, o.H == 0)
	add(" h%d", o.H2, o.H2 == 0)
	add(" off %d", o.Off, o.Off == 0)
	add(" off2 %d", o.Off2, o.Off2 == 0)
	add(" n %d", o.N, o.N == 0)
	add(" mode %o", o.Mode, o.Mode == 0)
	add(" flags %#x", o.Flags, o.Flags == 0)
	add(" uid %d", o.UID, o.UID == 0)
	add(" gid %d", o.GID, o.GID == 0)
	add(" seed %d", o.Seed, o.Seed == 0)
	add(" umask %o", o.Umask, o.Umask == 0)
	return b.String()
}

// result is what an operation gave: equal on both sides.
type result struct {
	err  syscall.Errno
	n    int64
	text string
}

func (r result) String() string {
	return fmt.Sprintf("%v, %d %.300s", errnoName(r.err), r.n, r.text)
}

func errnoName(e syscall.Errno) string {
	if e == 0 {
		return "ok"
	}
	return unix.ErrnoName(e)
}

// open is an open file of a side.
type open struct {
	fd    int
	flags int
	maps  []byte // a shared mapping that stays
}

// side is the mount, or the plain directory.
type side struct {
	name string
	root int
	open map[int]*open
	buf  []byte

	memory int // descriptor; see use
}

func newSide(name, dir string) (*side, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	memory, err := unix.MemfdCreate("model", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return &side{name: name, root: fd, memory: memory, open: map[int]*open{}, buf: make([]byte, 1<<20)}, nil
}

// close closes all files; errors do not matter where the mount is dead.
func (s *side) closeFiles() {
	for _, h := range s.open {
		h.close()
	}
	clear(s.open)
}

func (h *open) close() error {
	if h.maps != nil {
		_ = unix.Munmap(h.maps)
		h.maps = nil
	}
	return unix.Close(h.fd)
}

func (s *side) close() {
	s.closeFiles()
	unix.Close(s.root)
	unix.Close(s.memory)
}

// do runs an operation, as the user that it names.
func (s *side) do(o *op) (r result) {
	unix.Umask(o.Umask)
	if o.UID == 0 {
		return s.run(o)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.SetfsgidRetGid(o.GID)
	unix.SetfsuidRetUid(o.UID) // takes the capabilities of files away, too
	defer func() {
		unix.SetfsuidRetUid(0)
		unix.SetfsgidRetGid(0)
	}()
	return s.run(o)
}

func (r *result) fail(err error) {
	if err == nil {
		return
	}
	var e syscall.Errno
	if !errors.As(err, &e) {
		e = 999
	}
	r.err = e
}

// handle returns an open file; EBADF where it is not open on either side.
func (s *side) handle(n int) (*open, error) {
	if h := s.open[n]; h != nil {
		return h, nil
	}
	return nil, unix.EBADF
}

const openAlways = unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_LARGEFILE | unix.O_NOCTTY

// run is the operation itself.
func (s *side) run(o *op) (r result) {
	switch o.Kind {
	case "open":
		fd, err := unix.Openat(s.root, o.Path, o.Flags|openAlways, o.Mode)
		r.fail(err)
		if err == nil {
			s.open[o.H] = &open{fd: fd, flags: o.Flags}
		}
	case "tmpfile":
		fd, err := unix.Openat(s.root, o.Path, unix.O_TMPFILE|o.Flags|openAlways, o.Mode)
		r.fail(err)
		if err == nil {
			s.open[o.H] = &open{fd: fd, flags: o.Flags}
		}
	case "mkdir":
		r.fail(unix.Mkdirat(s.root, o.Path, o.Mode))
	case "mknod":
		r.fail(unix.Mknodat(s.root, o.Path, o.Mode, int(unix.Mkdev(1, 3))))
	case "symlink":
		r.fail(unix.Symlinkat(o.To, s.root, o.Path))
	case "link":
		r.fail(unix.Linkat(s.root, o.Path, s.root, o.To, o.Flags))
	case "unlink":
		r.fail(unix.Unlinkat(s.root, o.Path, 0))
	case "rmdir":
		r.fail(unix.Unlinkat(s.root, o.Path, unix.AT_REMOVEDIR))
	case "remove":
		r.fail(s.remove(s.root, o.Path))
	case "rename":
		r.fail(unix.Renameat2(s.root, o.Path, s.root, o.To, uint(o.Flags)))
	case "stat":
		var st unix.Stat_t
		r.fail(unix.Fstatat(s.root, o.Path, &st, o.Flags))
		r.text = fmt.Sprintf("%o", st.Mode)
	case "readlink":
		n, err := unix.Readlinkat(s.root, o.Path, s.buf)
		r.fail(err)
		r.text = string(s.buf[:max(n, 0)])
	case "access":
		r.fail(unix.Faccessat2(s.root, o.Path, o.Mode, unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW))
	case "list":
		fd, err := unix.Openat(s.root, o.Path, unix.O_RDONLY|unix.O_DIRECTORY|openAlways, 0)
		if err != nil {
			r.fail(err)
			break
		}
		defer unix.Close(fd)
		names, err := list(fd)
		r.fail(err)
		r.text = strings.Join(names, "/")
	case "chmod":
		r.fail(unix.Fchmodat(s.root, o.Path, o.Mode, 0))
	case "chown":
		r.fail(unix.Fchownat(s.root, o.Path, o.UIDArg(), o.GIDArg(), unix.AT_SYMLINK_NOFOLLOW))
	case "utimes":
		r.fail(unix.UtimesNanoAt(s.root, o.Path, o.times(), unix.AT_SYMLINK_NOFOLLOW))
	case "truncate":
		r.fail(s.truncate(o.Path, o.N))
	case "setxattr":
		r.fail(s.at(o.Path, func(path string) error { return unix.Lsetxattr(path, o.To, o.value(), o.Flags) }))
	case "removexattr":
		r.fail(s.at(o.Path, func(path string) error { return unix.Lremovexattr(path, o.To) }))
	case "getxattr":
		r.fail(s.at(o.Path, func(path string) error {
			n, err := unix.Lgetxattr(path, o.To, s.buf[:o.N])
			r.n = int64(n)
			if err == nil && o.N > 0 {
				r.text = sum(s.buf[:n])
			}
			return err
		}))
	case "chattr":
		fd, err := unix.Openat(s.root, o.Path, unix.O_RDONLY|unix.O_NOFOLLOW|openAlways, 0)
		if err != nil {
			r.fail(err)
			break
		}
		defer unix.Close(fd)
		r.fail(setFlags(fd, uint32(o.Flags), o.Mode))
	default:
		h, err := s.handle(o.H)
		if err != nil {
			r.fail(err)
			break
		}
		s.runOpen(o, h, &r)
	}
	return r
}

// runOpen is an operation on an open file.
func (s *side) runOpen(o *op, h *open, r *result) {
	direct := h.flags&unix.O_DIRECT != 0
	switch o.Kind {
	case "close":
		delete(s.open, o.H)
		r.fail(h.close())
	case "pread":
		b := s.aligned(int(o.N), direct)
		n, err := unix.Pread(h.fd, b, o.Off)
		r.fail(err)
		r.n, r.text = int64(n), sum(b[:max(n, 0)])
	case "pwrite":
		b := s.aligned(int(o.N), direct)
		noise(o.Seed, b)
		n, err := unix.Pwrite(h.fd, b, o.Off)
		r.fail(err)
		r.n = int64(n)
	case "append":
		_, err := unix.Seek(h.fd, 0, unix.SEEK_END)
		if err == nil {
			b := s.aligned(int(o.N), direct)
			noise(o.Seed, b)
			var n int
			n, err = unix.Write(h.fd, b)
			r.n = int64(n)
		}
		r.fail(err)
	case "ftruncate":
		r.fail(unix.Ftruncate(h.fd, o.N))
	case "fallocate":
		r.fail(unix.Fallocate(h.fd, o.Mode, o.Off, o.N))
	case "lseek":
		n, err := unix.Seek(h.fd, o.Off, o.Flags)
		r.fail(err)
		r.n = n
	case "copy":
		to, err := s.handle(o.H2)
		if err != nil {
			r.fail(err)
			return
		}
		off, off2 := o.Off, o.Off2
		for r.n < o.N { // a file system may do less at once
			n, err := unix.CopyFileRange(h.fd, &off, to.fd, &off2, int(o.N-r.n), 0)
			if err != nil {
				r.fail(err)
				return
			}
			if n == 0 {
				return
			}
			r.n += int64(n)
		}
	case "fsync":
		r.fail(unix.Fsync(h.fd))
	case "fdatasync":
		r.fail(unix.Fdatasync(h.fd))
	case "fchmod":
		r.fail(unix.Fchmod(h.fd, o.Mode))
	case "fchown":
		r.fail(unix.Fchown(h.fd, o.UIDArg(), o.GIDArg()))
	case "futimes":
		r.fail(unix.UtimesNanoAt(unix.AT_FDCWD, proc(h.fd), o.times(), 0))
	case "fsetxattr":
		r.fail(unix.Fsetxattr(h.fd, o.To, o.value(), o.Flags))
	case "linkat": // of a file that may have no name
		r.fail(unix.Linkat(h.fd, "", s.root, o.To, unix.AT_EMPTY_PATH))
	case "mmap", "mapkeep":
		s.mmap(o, h, r)
	case "store", "load":
		s.access(o, h, r)
	default:
		panic("no operation " + o.Kind)
	}
}

// mmap maps a part of the file, stores there and reads it all.
func (s *side) mmap(o *op, h *open, r *result) {
	m, err := unix.Mmap(h.fd, o.Off, int(o.N), int(o.Mode), o.Flags)
	if err != nil {
		r.fail(err)
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		r.fail(err)
	} else if end := min(st.Size-o.Off, o.N); end > 0 {
		s.use(r, m[:end], o)
		if o.Mode&unix.PROT_WRITE != 0 && o.Flags&unix.MAP_SHARED != 0 {
			r.fail(unix.Msync(m, unix.MS_SYNC))
		}
	}
	if o.Kind == "mapkeep" && h.maps == nil {
		h.maps = m
		return
	}
	r.fail(unix.Munmap(m))
}

// access uses a mapping that stayed.
func (s *side) access(o *op, h *open, r *result) {
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil || h.maps == nil {
		r.fail(unix.EBADF)
		return
	}
	m := h.maps[:min(int64(len(h.maps)), st.Size)] // it begins at 0
	if len(m) == 0 {
		return
	}
	s.use(r, m, o)
	if o.Kind == "store" {
		r.fail(unix.Msync(h.maps, unix.MS_SYNC))
	}
}

// use stores into m, where o is an operation that does, and reads it, by system calls:
// a page fault of our own would hold a part of the scheduler, and this process serves the blocks. A page that cannot be had is EFAULT.
func (s *side) use(r *result, m []byte, o *op) {
	if o.Kind == "store" || o.Kind != "load" && o.Mode&unix.PROT_WRITE != 0 {
		at := int(o.Seed % uint64(len(m)))
		part := m[at:min(len(m), at+3000)]
		noise(o.Seed, s.buf[:len(part)])
		if _, err := unix.Pwrite(s.memory, s.buf[:len(part)], 0); err != nil {
			r.fail(err)
			return
		}
		if n, err := unix.Pread(s.memory, part, 0); err != nil || n < len(part) {
			r.err = unix.EFAULT
			return
		}
	}
	if n, err := unix.Pwrite(s.memory, m, 0); err != nil || n < len(m) {
		r.err = unix.EFAULT
		return
	}
	n, err := unix.Pread(s.memory, s.buf[:len(m)], 0)
	r.fail(err)
	r.text += sum(s.buf[:n])
}

// remove is rm -rf, which goes on after an error.
func (s *side) remove(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|openAlways, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return unix.Unlinkat(dir, name, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := list(fd)
	for _, n := range names {
		if rerr := s.remove(fd, n[1:]); err == nil {
			err = rerr
		}
	}
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func (s *side) truncate(path string, size int64) error {
	return s.at(path, func(p string) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return unix.EINVAL
		}
		return unix.Truncate(p, size)
	})
}

// at calls do with a path from the root of the process, whose last part is not followed.
func (s *side) at(path string, do func(path string) error) error {
	return do(proc(s.root) + "/" + path)
}

func proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// list is the names of a directory, each after its type, in order.
func list(fd int) (names []string, err error) {
	err = backing.ReadDir(fd, func(name string, _ uint64, typ uint8) error {
		names = append(names, string('a'+rune(typ))+name)
		return nil
	})
	slices.Sort(names)
	return names, err
}

// UIDArg and GIDArg are the arguments of a chown, -1 for some.
func (o *op) UIDArg() int { return int(int32(o.Mode>>16&0xffff<<16) >> 16) }
func (o *op) GIDArg() int { return int(int32(o.Mode<<16) >> 16) }

func (o *op) times() []unix.Timespec {
	return []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: o.Off, Nsec: o.N}}
}

func (o *op) value() []byte {
	switch o.To {
	case "system.posix_acl_access", "system.posix_acl_default":
		return acl(o.Mode)
	case "security.capability":
		b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
		return append(binary.LittleEndian.AppendUint32(b, o.Mode), make([]byte, 12)...)
	}
	b := make([]byte, o.N)
	noise(o.Seed, b)
	return b
}

// acl has a named user and a named group; the bits of mode are their permissions.
func acl(mode uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	const none = 0xffffffff
	for i, e := range []struct {
		tag uint16
		id  uint32
	}{{1, none}, {2, 1001}, {4, none}, {8, 1002}, {0x10, none}, {0x20, none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(mode>>(3*i)&7))
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// setFlags sets, with on != 0, or clears the flags.
func setFlags(fd int, flags, on uint32) error {
	have, err := backing.GetFlags(fd)
	if err != nil {
		return err
	}
	if on != 0 {
		have |= flags
	} else {
		have &^= flags
	}
	return backing.SetFlags(fd, have)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) string { return strconv.FormatUint(uint64(crc32.Checksum(b, castagnoli)), 16) }

// noise fills b with bytes that follow from seed.
func noise(seed uint64, b []byte) {
	x := seed*0x9e3779b97f4a7c15 | 1
	for len(b) >= 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b, x)
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(x>>(8*i)) | 1
	}
}

// aligned is n bytes of the side's buffer, where O_DIRECT wants them.
func (s *side) aligned(n int, direct bool) []byte {
	if !direct {
		return s.buf[:n]
	}
	at := (4096 - int(uintptr(unsafe.Pointer(&s.buf[0]))%4096)) % 4096
	return s.buf[at : at+n]
}
