package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// request is one operation that an application is told to do. The process that
// serves a mount must not use it, so applications are processes of their own.
type request struct {
	Op   string
	ID   int    // of the file, where it is kept open
	Path string // below the mount
	To   string
	Off  uint64
	N    uint64
	Seed uint64
	Keep bool // leave the file open afterwards; for ZERO_RANGE: keep the size
}

type reply struct {
	Err  string
	Sum  uint32 // of what was read
	Size uint64
}

// app is the caller's side of an application.
type app struct {
	cmd *exec.Cmd
	in  *json.Encoder
	end io.Closer
	out *json.Decoder
}

const appEnv = "CRASH_APPLICATION"

// startApp starts an application on the mount at dir.
func startApp(dir string) (*app, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &app{cmd: exec.Command(self)}
	a.cmd.Env = append(os.Environ(), appEnv+"="+dir)
	a.cmd.Stderr = os.Stderr
	in, err := a.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.in, a.end, a.out = json.NewEncoder(in), in, json.NewDecoder(bufio.NewReader(out))
	return a, a.cmd.Start()
}

func (a *app) do(r request) (reply, error) {
	var got reply
	if err := a.in.Encode(r); err != nil {
		return got, fmt.Errorf("application: %w", err)
	}
	if err := a.out.Decode(&got); err != nil {
		return got, fmt.Errorf("application: %w", err)
	}
	if got.Err != "" {
		return got, fmt.Errorf("%s %s: %s", r.Op, r.Path, got.Err)
	}
	return got, nil
}

func (a *app) close() error {
	return errors.Join(a.end.Close(), a.cmd.Wait())
}

// serveApp is the process of an application.
func serveApp(dir string) error {
	s := &server{dir: dir, open: map[int]*os.File{}, held: map[int]int{}}
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var got reply
		if err := s.do(&r, &got); err != nil {
			got.Err = err.Error()
		}
		if err := out.Encode(got); err != nil {
			return err
		}
	}
}

type server struct {
	dir  string
	open map[int]*os.File
	held map[int]int // descriptors with O_PATH, which keep names of the mount in the kernel's memory
}

func (s *server) do(r *request, out *reply) error {
	path := filepath.Join(s.dir, r.Path)
	switch r.Op {
	case "mkdir":
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		return unix.Setxattr(path, idName, []byte(fmt.Sprint(r.ID)), 0)
	case "rename":
		return os.Rename(path, filepath.Join(s.dir, r.To))
	case "unlink":
		return unix.Unlink(path)
	case "rmdir":
		return unix.Rmdir(path)
	case "link":
		return os.Link(path, filepath.Join(s.dir, r.To))
	case "list":
		names, err := os.ReadDir(path)
		out.Size = uint64(len(names))
		return err
	case "fsyncdir":
		d, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	case "hold":
		if _, ok := s.held[r.ID]; ok {
			return nil
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			s.held[r.ID] = fd
		}
		return err
	case "close":
		return s.letGo(r.ID)
	}
	f := s.open[r.ID]
	if f == nil {
		flags := os.O_RDWR
		if r.Op == "create" {
			flags |= os.O_CREATE | os.O_EXCL
		}
		if r.Op == "read" && !r.Keep {
			flags = os.O_RDONLY
		}
		if fd, ok := s.held[r.ID]; ok {
			path = fmt.Sprint("/proc/self/fd/", fd)
		}
		var err error
		if f, err = os.OpenFile(path, flags, 0o644); err != nil {
			return err
		}
		if r.Keep {
			s.open[r.ID] = f
		} else {
			defer f.Close()
		}
	}
	return s.file(f, path, r, out)
}

func (s *server) letGo(id int) (err error) {
	if f := s.open[id]; f != nil {
		delete(s.open, id)
		err = f.Close()
	}
	if fd, ok := s.held[id]; ok {
		delete(s.held, id)
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

func (s *server) file(f *os.File, path string, r *request, out *reply) error {
	fd := int(f.Fd())
	switch r.Op {
	case "create":
		return unix.Fsetxattr(fd, idName, []byte(fmt.Sprint(r.ID)), 0)
	case "read":
		b := make([]byte, r.N)
		n, err := f.ReadAt(b, int64(r.Off))
		if errors.Is(err, io.EOF) {
			err = nil
		}
		out.Sum, out.Size = crc32.ChecksumIEEE(b[:n]), uint64(n)
		return err
	case "write":
		_, err := f.WriteAt(content(r.Seed, r.Off, r.N), int64(r.Off))
		return err
	case "mmap", "msync":
		at := r.Off &^ (page - 1)
		m, err := unix.Mmap(fd, int64(at), int(r.Off-at+r.N), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
		copy(m[r.Off-at:], content(r.Seed, r.Off, r.N))
		if r.Op == "msync" { // durable, without any request of FUSE where the file is passed through
			err = unix.Msync(m, unix.MS_SYNC)
		}
		return errors.Join(err, unix.Munmap(m))
	case "direct":
		return writeDirect(path, r)
	case "dsync":
		return writeSync(path, r)
	case "truncate":
		return f.Truncate(int64(r.Off))
	case "punch":
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(r.Off), int64(r.N))
	case "zero":
		mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
		if r.Seed == 0 {
			mode |= unix.FALLOC_FL_KEEP_SIZE
		}
		return unix.Fallocate(fd, mode, int64(r.Off), int64(r.N))
	case "fsync":
		return f.Sync()
	case "syncfs":
		return unix.Syncfs(fd)
	case "fdatasync":
		return unix.Fdatasync(fd)
	}
	return fmt.Errorf("unknown operation %q", r.Op)
}

// writeSync writes through a handle of its own with O_DSYNC.
func writeSync(path string, r *request) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DSYNC, 0)
	if err != nil {
		return fmt.Errorf("open with O_DSYNC: %w", err)
	}
	_, err = f.WriteAt(content(r.Seed, r.Off, r.N), int64(r.Off))
	return errors.Join(err, f.Close())
}

// writeDirect writes whole sectors through a handle of its own with O_DIRECT, beside one that may be open without.
func writeDirect(path string, r *request) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open with O_DIRECT: %w", err)
	}
	defer unix.Close(fd)
	// A mapping begins at a page, which is what O_DIRECT asks of the memory.
	m, err := unix.Mmap(-1, 0, int(r.N), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	copy(m, content(r.Seed, r.Off, r.N))
	for done := 0; done < len(m); {
		n, err := unix.Pwrite(fd, m[done:], int64(r.Off)+int64(done))
		if err != nil {
			return fmt.Errorf("write with O_DIRECT: %w", err)
		}
		done += n
	}
	return nil
}

// content is n bytes for offset off of a file, never zero, the same for the
// same seed and offset, and different from those of every other seed and sector. Half of
// the sectors compress well.
func content(seed, off, n uint64) []byte {
	first, last := off/page, (off+n+page-1)/page
	var b bytes.Buffer
	for s := first; s < last; s++ {
		var p [page]byte
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed)
		binary.LittleEndian.PutUint64(key[8:], s)
		some := p[:]
		if (seed+s)%2 == 0 {
			some = p[:64]
		}
		rand.NewChaCha8(key).Read(some)
		for i := range some {
			some[i] |= 1
		}
		for i := len(some); i < page; i += len(some) {
			copy(p[i:], some)
		}
		b.Write(p[:])
	}
	return b.Bytes()[off-first*page:][:n]
}

// idName is the extended attribute with the number of a file or directory.
const idName = "user.crash.id"
