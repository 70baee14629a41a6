package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// edit is one change of a file system, the same wherever it is applied: its times are its own.
type edit struct {
	kind     string
	path, to string
	off      int64
	size     int
	seed     uint64
	at       int64 // nanoseconds
}

// randomEdit is a change of what is in root.
func randomEdit(r *rand.Rand, root string) (edit, error) {
	files, dirs, err := paths(root)
	if err != nil {
		return edit{}, err
	}
	e := edit{seed: r.Uint64(), at: 1_600_000_000_000_000_000 + r.Int64N(1<<57)}
	fresh := func(kind string) string {
		return filepath.Join(dirs[r.IntN(len(dirs))], fmt.Sprintf("%s%d", kind, r.IntN(60)))
	}
	any := func() string {
		if len(files) == 0 {
			return "nothing"
		}
		return files[r.IntN(len(files))]
	}
	sizes := []int{0, 1, 100, 4000, 4096, 5000, 20_000, 70_000, 150_000, 300_000, 700_000, 1_300_000}
	e.size = sizes[r.IntN(len(sizes))]
	large, err := largeFiles(root, files)
	if err != nil {
		return edit{}, err
	}
	if len(large) >= maxLarge {
		e.size = min(e.size, 150_000)
	}
	e.off = []int64{0, 1, 4096, 65_536, 100_000, 262_144}[r.IntN(6)]
	kinds := []string{"write", "write", "write", "write", "pwrite", "pwrite", "pwrite", "append", "truncate", "truncate", "punch", "unlink", "unlink",
		"rename", "rename", "link", "symlink", "mkdir", "mkdir", "rmtree", "chmod", "chown", "setxattr", "removexattr", "fifo", "movedir"}
	e.kind = kinds[r.IntN(len(kinds))]
	if len(files) > 60 {
		e.kind = "rmtree"
	}
	if len(large) > 0 && r.IntN(3) == 0 { // in small places of what has several windows
		e.kind = pick(r, []string{"poke", "poke", "poke", "poke", "poke", "append", "truncate", "punch"})
		e.path = pick(r, large)
		if err := e.small(r, root); err != nil {
			return e, err
		}
		return e, e.whole(root)
	}
	switch e.kind {
	case "write":
		if e.path = fresh("f"); r.IntN(3) == 0 {
			e.path = any()
		}
	case "rename", "link":
		e.path = any()
		if e.to = fresh("f"); e.kind == "rename" && r.IntN(4) == 0 {
			e.to = any()
		}
	case "symlink", "fifo":
		e.path = fresh("s")
	case "mkdir":
		e.path = fresh("d")
	case "rmtree":
		e.path = dirs[r.IntN(len(dirs))]
		if e.path == "" {
			e.path, e.kind = any(), "unlink"
		}
	case "movedir":
		if e.path, e.to = dirs[r.IntN(len(dirs))], fresh("d"); e.path == "" {
			e.path, e.kind = fresh("d"), "mkdir" // a mount point cannot be moved
		}
	default:
		e.path = any()
	}
	return e, e.whole(root)
}

// whole moves an edge of a punch that is within a block of a hole to the block's begin: BTRFS makes such a block one of zeros, or leaves it a hole, as it happens to know it.
func (e *edit) whole(root string) error {
	if e.kind != "punch" {
		return nil
	}
	fd, err := unix.Open(filepath.Join(root, e.path), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // the edit says so, too
	}
	defer unix.Close(fd)
	move := func(at int64) int64 {
		begin := at &^ 4095
		if data, err := unix.Seek(fd, begin, unix.SEEK_DATA); err != nil || data >= begin+4096 {
			return begin
		}
		return at
	}
	end := move(e.off + int64(max(e.size, 1)))
	e.off = move(e.off)
	e.size = int(max(4096, end-e.off))
	if end-e.off > 0 {
		e.size = int(end - e.off)
	}
	return nil
}

// Large files have windows of every chunk size that the histories use.
const (
	largeSize = 256 << 10
	maxLarge  = 12
)

func largeFiles(root string, files []string) (found []string, err error) {
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, f), &st); err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > largeSize {
			found = append(found, f)
		}
	}
	return found, nil
}

// small makes the edit one of a few bytes, somewhere in its file or at its end.
func (e *edit) small(r *rand.Rand, root string) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(root, e.path), &st); err != nil {
		return err
	}
	e.size = 1 + r.IntN([]int{1, 16, 512, 4096, 9000}[r.IntN(5)])
	e.off = r.Int64N(st.Size)
	if r.IntN(2) == 0 { // as databases do
		e.off, e.size = e.off&^4095, (e.size+4095)&^4095
	}
	if e.kind == "truncate" {
		e.off = max(0, st.Size-r.Int64N(3*int64(e.size)))
	}
	return nil
}

func (e edit) String() string {
	return fmt.Sprintf("%s %q %q %d+%d seed %d", e.kind, e.path, e.to, e.off, e.size, e.seed)
}

// apply does the edit below root. The error is an errno, or tells that the test itself is wrong.
func (e edit) apply(root string) error {
	p, to := filepath.Join(root, e.path), filepath.Join(root, e.to)
	var err error
	switch e.kind {
	case "write":
		err = e.write(p, os.O_CREATE|os.O_TRUNC, 0)
	case "pwrite":
		err = e.write(p, 0, e.off)
	case "poke":
		err = e.poke(p)
	case "append":
		err = e.write(p, os.O_APPEND, -1)
	case "truncate":
		err = e.onFile(p, func(fd int) error { return unix.Ftruncate(fd, e.off+int64(e.size)) })
	case "punch":
		err = e.onFile(p, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.off, int64(max(e.size, 1)))
		})
	case "unlink":
		err = unix.Unlink(p)
	case "rename":
		err = unix.Rename(p, to)
	case "movedir":
		err = unix.Rename(p, to)
	case "link":
		err = unix.Linkat(unix.AT_FDCWD, p, unix.AT_FDCWD, to, 0)
	case "symlink":
		err = unix.Symlink(fmt.Sprintf("to-%d", e.seed), p)
	case "fifo":
		err = unix.Mkfifo(p, 0o640)
	case "mkdir":
		err = unix.Mkdir(p, 0o755)
	case "rmtree":
		err = os.RemoveAll(p)
	case "chmod":
		err = unix.Fchmodat(unix.AT_FDCWD, p, []uint32{0o600, 0o644, 0o755, 0o4755, 0o2750}[e.seed%5], 0)
	case "chown":
		err = unix.Lchown(p, int(e.seed%3)*1000, int(e.seed>>8%3)*1000)
	case "setxattr":
		err = unix.Lsetxattr(p, fmt.Sprintf("trusted.x%d", e.seed%3), noise(e.seed, 1+int(e.seed%300)), 0)
	case "removexattr":
		err = unix.Lremovexattr(p, fmt.Sprintf("trusted.x%d", e.seed%3))
	default:
		return fmt.Errorf("no such edit: %s", e.kind)
	}
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return fmt.Errorf("%v: %w", e, err)
	}
	if terr := e.setTimes(root); terr != nil {
		return terr
	}
	if err != nil {
		return errno
	}
	return nil
}

// setTimes sets what "now" has touched.
func (e edit) setTimes(root string) error {
	touched := []string{e.path, filepath.Dir(e.path), "."}
	if e.to != "" {
		touched = append(touched, e.to, filepath.Dir(e.to))
	}
	for _, p := range touched {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, p), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(e.at)}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("set times of %q: %w", p, err)
		}
	}
	return nil
}

func (e edit) onFile(p string, do func(fd int) error) error {
	fd, err := unix.Open(p, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENXIO
	}
	return do(fd)
}

// poke writes a few bytes at the edit's place, and at up to four others before it.
func (e edit) poke(p string) error {
	return e.onFile(p, func(fd int) error {
		for i := range e.seed % 5 {
			if _, err := unix.Pwrite(fd, noise(e.seed+i, 1+e.size/2), int64((e.seed>>8+i*977)%uint64(e.off+1))); err != nil {
				return err
			}
		}
		_, err := unix.Pwrite(fd, noise(e.seed, e.size), e.off)
		return err
	})
}

func (e edit) write(p string, flags int, off int64) error {
	fd, err := unix.Open(p, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := noise(e.seed, e.size)
	if off < 0 {
		_, err = unix.Write(fd, b)
	} else {
		_, err = unix.Pwrite(fd, b, off)
	}
	return err
}

// noise is n bytes of which none is zero: half of them compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	var w [8]byte
	for i := range b {
		if i%8 == 0 {
			binary.LittleEndian.PutUint64(w[:], r.Uint64())
		}
		if b[i] = w[i%8] | 1; i/4096%2 == 1 {
			b[i] = 'a'
		}
	}
	return b
}
