package kit

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Entry is what Describe tells of one name: all that has to survive, nothing
// that may differ (access, change and birth time, inode and device number, blocks,
// a directory's size and link count).
type Entry struct {
	Path   string // below the root; "." is the root
	Type   string // file, dir, symlink, fifo, socket, char, block
	Mode   uint32 // with setuid, setgid, sticky
	UID    uint32
	GID    uint32
	MTime  string   // seconds.nanoseconds
	Size   int64    // files and symlinks
	Rdev   string   // devices: major:minor
	Target string   // symlinks
	Nlink  uint32   // all but directories
	Links  []string // paths of the same inode, this one too, where there are several
	Hash   string   // files: see hashFile
	Data   string   // files: the data ranges by SEEK_DATA, where there are holes
	Xattrs map[string]string
	Flags  string // files and directories: as lsattr has them, or the error
}

// Names and xattrs that a volume's backing folder has and its mount does not.
const (
	hiddenName  = ".fractal-lazy"
	hiddenXattr = "trusted.fractal."
)

// Describe returns what is under root by path, in order. It goes step by step with
// descriptors, so paths may be of any length, and opens nothing but regular files and
// directories. Several may run at once.
func Describe(root string) ([]Entry, error) {
	d := &describer{inodes: map[[2]uint64][]int{}, slots: make(chan struct{}, max(2, runtime.NumCPU()))}
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", root, err)
	}
	defer unix.Close(fd)
	err = d.entry(fd, ".", ".")
	if err == nil {
		err = d.dir(fd, "")
	}
	d.wg.Wait()
	if err == nil {
		err = d.err
	}
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", root, err)
	}
	list := make([]Entry, len(d.list))
	for i, e := range d.list {
		list[i] = *e
	}
	for _, same := range d.inodes {
		var paths []string
		for _, i := range same {
			paths = append(paths, list[i].Path)
		}
		if sort.Strings(paths); len(paths) > 1 {
			for _, i := range same {
				list[i].Links = paths
			}
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

type describer struct {
	list   []*Entry
	inodes map[[2]uint64][]int // device, inode -> places in list, of those with several names
	slots  chan struct{}       // bounds how many files are read at once
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error // the first of a file's reading
}

// dir describes what is in the directory fd, whose path with a slash is prefix.
func (d *describer) dir(fd int, prefix string) error {
	names, err := dirNames(fd)
	if err != nil {
		return fmt.Errorf("%q: %w", prefix, err)
	}
	for _, name := range names {
		if prefix == "" && name == hiddenName {
			continue
		}
		if err := d.entry(fd, name, prefix+name); err != nil {
			return err
		}
	}
	return nil
}

func dirNames(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "directory")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

// entry describes name of the directory dir, and what is in it.
func (d *describer) entry(dir int, name, path string) error {
	fail := func(step string, err error) error { return fmt.Errorf("%s %.300q: %w", step, path, err) }
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail("stat", err)
	}
	e := &Entry{Path: path, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		MTime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)}
	d.list = append(d.list, e)
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR {
		e.Nlink = uint32(st.Nlink)
		if st.Nlink > 1 {
			key := [2]uint64{st.Dev, st.Ino}
			d.inodes[key] = append(d.inodes[key], len(d.list)-1)
		}
	}
	var err error
	// A link in the middle of a path is followed, one at its end is not.
	at := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	if e.Xattrs, err = xattrs(at); err != nil {
		return fail("read xattrs of", err)
	}
	switch kind {
	case unix.S_IFREG, unix.S_IFDIR:
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open", err)
		}
		e.Flags = flagString(fd)
		if kind == unix.S_IFREG {
			e.Type, e.Size = "file", st.Size
			d.content(fd, e)
			return nil
		}
		e.Type = "dir"
		defer unix.Close(fd)
		if name == "." {
			return nil
		}
		return d.dir(fd, path+"/")
	case unix.S_IFLNK:
		e.Type, e.Size = "symlink", st.Size
		b := make([]byte, 8192)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return fail("read link", err)
		}
		e.Target = string(b[:n])
	case unix.S_IFIFO:
		e.Type = "fifo"
	case unix.S_IFSOCK:
		e.Type = "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Type = map[uint32]string{unix.S_IFCHR: "char", unix.S_IFBLK: "block"}[kind]
		e.Rdev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	default:
		return fail("look at", fmt.Errorf("type %o is not known", kind))
	}
	return nil
}

// content reads the file fd, which it closes, beside what else goes on.
func (d *describer) content(fd int, e *Entry) {
	d.slots <- struct{}{}
	d.wg.Go(func() {
		defer func() { unix.Close(fd); <-d.slots }()
		data, err := dataRanges(fd, e.Size)
		if err == nil {
			e.Hash, err = hashFile(fd, e.Size, data)
		}
		if e.Size > 0 && (len(data) != 1 || data[0] != [2]int64{0, e.Size}) {
			e.Data = fmt.Sprint(data)
		}
		if err != nil {
			d.mu.Lock()
			if d.err == nil {
				d.err = fmt.Errorf("read %.300q: %w", e.Path, err)
			}
			d.mu.Unlock()
		}
	})
}

func xattrs(path string) (map[string]string, error) {
	var list []byte
	for {
		n, err := unix.Llistxattr(path, nil)
		if err == unix.ENOTSUP || n == 0 && err == nil {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		list = make([]byte, n)
		if n, err = unix.Llistxattr(path, list); err == nil {
			list = list[:n]
			break
		} else if err != unix.ERANGE {
			return nil, err
		}
	}
	found := map[string]string{}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" || strings.HasPrefix(name, hiddenXattr) {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found[name] = string(value[:n])
	}
	return found, nil
}

// flagString is what lsattr shows of fd, but for flags that say how the kernel
// keeps the file.
func flagString(fd int) string {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	var s []byte
	for _, f := range []struct {
		bit  int
		name byte
	}{{0x8, 'S'}, {flagImmutable, 'i'}, {flagAppend, 'a'}, {flagNoDump, 'd'}, {flagNoAtime, 'A'},
		{0x4, 'c'}, {0x400, 'm'}, {0x10000, 'D'}, {flagNoCow, 'C'}, {0x100000, 'V'}} {
		if flags&f.bit != 0 {
			s = append(s, f.name)
		}
	}
	return string(s)
}
