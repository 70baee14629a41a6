package storm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

func init() { children["mapped"] = mappedChild }

const mappedSize = 6 << 20

// mappedChild stores through shared mappings of a file, and keeps outside the volume what has to be in it. A page that cannot be had ends it.
func mappedChild(what string, c child) (err error) {
	debug.SetPanicOnFault(true)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	path, kept := filepath.Join(c.dir, "file"), filepath.Join(c.state, "file")
	want, err := os.ReadFile(kept)
	if errors.Is(err, os.ErrNotExist) && what == "work" {
		want = make([]byte, mappedSize)
		err = os.WriteFile(path, nil, 0o644)
	}
	if err != nil {
		return err
	}
	m := &mapped{path: path, want: want}
	if what == "check" {
		return m.compare()
	}
	if err := c.until(m.round); err != nil {
		return err
	}
	return os.WriteFile(kept, want, 0o644)
}

type mapped struct {
	path string
	want []byte
}

// round stores at random places through one mapping, has some of it written, and looks at it through another one and by reading.
func (m *mapped) round(n int) error {
	fd, err := unix.Open(m.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(len(m.want))); err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, len(m.want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	defer unix.Munmap(mem)
	if n%2 == 0 {
		unix.Close(fd) // the mapping outlives its handle
		fd = -1
	}
	for i := range 100 {
		at, value := rand.IntN(len(m.want)), byte(rand.Uint32())
		end := min(len(m.want), at+1+rand.IntN(9000))
		for p := at; p < end; p++ {
			mem[p], m.want[p] = value, value
		}
		if i%20 == 0 {
			page := at &^ 4095
			if err := unix.Msync(mem[page:min(len(mem), page+64<<10)], unix.MS_SYNC); err != nil {
				return fmt.Errorf("msync: %w", err)
			}
		}
		if i%10 == 0 {
			if at := rand.IntN(len(m.want)); mem[at] != m.want[at] {
				return fmt.Errorf("the mapping has %d at %d, want %d", mem[at], at, m.want[at])
			}
		}
	}
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		return fmt.Errorf("msync of all: %w", err)
	}
	if n%4 == 0 {
		return m.compare()
	}
	return nil
}

// compare reads the file and holds it against what was stored, through a mapping of its own as well.
func (m *mapped) compare() error {
	f, err := os.Open(m.path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := os.ReadFile(m.path)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, len(m.want), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	for how, b := range map[string][]byte{"read": got, "mapped": mem} {
		if bytes.Equal(b, m.want) {
			continue
		}
		for i := range m.want {
			if i >= len(b) || b[i] != m.want[i] {
				return fmt.Errorf("%s: %d bytes, want %d; the first wrong one is at %d", how, len(b), len(m.want), i)
			}
		}
		return fmt.Errorf("%s: %d bytes, want %d", how, len(b), len(m.want))
	}
	return nil
}
