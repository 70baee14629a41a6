package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/sys/unix"
)

// fsx does random operations on one file and checks each read against a model,
// as the program of that name does; but the file may exist, and its content be remote.
type fsx struct {
	path string
	r    *rand.Rand
	max  int // size the file may reach

	m      model
	fd     int
	direct int // the same file with O_DIRECT, while it is open; else -1
	last   []string
	missed map[string]bool // operations that the file system does not have
}

// kept is how many operations a failure shows.
const kept = 25

// fsxOps are the operations, each with how often it comes.
var fsxOps = []struct {
	name   string
	weight int
	do     func(*fsx) error
}{
	{"read", 10, (*fsx).read},
	{"mapread", 6, (*fsx).mapRead},
	{"write", 10, (*fsx).write},
	{"append", 2, (*fsx).append},
	{"mapwrite", 6, (*fsx).mapWrite},
	{"truncate", 4, (*fsx).truncate},
	{"punch", 5, (*fsx).punch},
	{"zero", 5, (*fsx).zero},
	{"fallocate", 4, (*fsx).fallocate},
	{"collapse", 2, (*fsx).collapse},
	{"insert", 2, (*fsx).insert},
	{"copy", 5, (*fsx).copyRange},
	{"clone", 3, (*fsx).clone},
	{"dedupe", 2, (*fsx).dedupe},
	{"directread", 3, (*fsx).directRead},
	{"directwrite", 3, (*fsx).directWrite},
	{"seek", 3, (*fsx).seek},
	{"sync", 1, (*fsx).sync},
	{"reopen", 1, (*fsx).reopen},
	{"drop", 1, (*fsx).drop},
}

// newFsx opens path, which has the content p.
func newFsx(path string, p []byte, max int, seed uint64) (*fsx, error) {
	x := &fsx{path: path, r: rand.New(rand.NewPCG(seed, 11)), max: max, m: model{p}, fd: -1, direct: -1, missed: map[string]bool{}}
	return x, x.open()
}

func (x *fsx) open() (err error) {
	x.fd, err = unix.Open(x.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	return err
}

func (x *fsx) close() error {
	var err error
	if x.direct >= 0 {
		err = unix.Close(x.direct)
		x.direct = -1
	}
	return errors.Join(err, unix.Close(x.fd))
}

// run does n operations.
func (x *fsx) run(n int) error {
	total := 0
	for _, o := range fsxOps {
		total += o.weight
	}
	for i := range n {
		k := x.r.IntN(total)
		for _, o := range fsxOps {
			if k -= o.weight; k >= 0 {
				continue
			}
			if x.missed[o.name] {
				break
			}
			x.note("%d %s", i, o.name)
			err := o.do(x)
			if lacks(err) {
				x.missed[o.name] = true
				err = nil
			}
			if err == nil {
				err = x.size()
			}
			if err != nil {
				return fmt.Errorf("operation %d, %s: %w; the last ones:\n  %s", i, o.name, err, strings.Join(x.last, "\n  "))
			}
			break
		}
	}
	return x.compare(0, len(x.m.p)+1)
}

func lacks(err error) bool { return err == unix.EOPNOTSUPP || err == unix.ENOTTY }

func (x *fsx) note(format string, args ...any) {
	if len(x.last) == kept {
		x.last = append(x.last[:0], x.last[1:]...)
	}
	x.last = append(x.last, fmt.Sprintf(format, args...))
}

// detail adds to the last note.
func (x *fsx) detail(format string, args ...any) {
	x.last[len(x.last)-1] += fmt.Sprintf(format, args...)
}

// size holds the file's size against the model.
func (x *fsx) size() error {
	var st unix.Stat_t
	if err := unix.Fstat(x.fd, &st); err != nil {
		return err
	}
	if st.Size != int64(len(x.m.p)) {
		return fmt.Errorf("size %d, want %d", st.Size, len(x.m.p))
	}
	return nil
}

// compare reads and holds against the model.
func (x *fsx) compare(off, n int) error {
	p := make([]byte, n)
	k, err := unix.Pread(x.fd, p, int64(off))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return same("read", off, p[:k], x.m.at(off, n))
}

func same(what string, off int, got, want []byte) error {
	if i := differs(got, want); i >= 0 {
		var g, w byte
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		return fmt.Errorf("%s %d bytes at %d: got %d; byte %d is %#x, want %#x", what, len(want), off, len(got), off+i, g, w)
	}
	return nil
}

// span draws a range below limit, near a page's boundary as often as not.
func (x *fsx) span(limit, longest int) (off, n int) {
	if limit < 1 {
		limit = 1
	}
	off, n = x.r.IntN(limit), 1+x.r.IntN(longest)
	switch x.r.IntN(4) {
	case 0:
		off &^= page - 1
	case 1:
		off &^= page - 1
		n = (n + page - 1) &^ (page - 1)
	case 2:
		n = 1 + n%(2*page)
	}
	n = min(n, max(limit-off, 1))
	x.detail(" %d+%d", off, n)
	return off, n
}

const longest = 64 << 10

func (x *fsx) noise(n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], x.r.Uint64())
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}
