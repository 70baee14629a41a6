package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// What a supervisor hands to the program that takes its place, in a file in memory; docs/FORMAT.md has its fields. Descriptors are told by number: the
// process stays the same one.

const (
	carryVersion = 1
	maxCarry     = 64 << 20
)

// carried is that file's content.
type carried struct {
	Version int           `json:"version"`
	Path    string        `json:"path"` // what an upgrade starts
	Worker  carriedWorker `json:"worker"`
	Linked  bool          `json:"linked,omitempty"` // there has been a holder
	Link    int           `json:"link,omitempty"`   // the socket to it; 0: none
	Items   []carriedItem `json:"items"`
}

// carriedWorker is the child, which is ready.
type carriedWorker struct {
	Pid int `json:"pid"`
	FD  int `json:"fd"`
}

type carriedItem struct {
	Key    string `json:"key"`
	Data   []byte `json:"data,omitempty"`
	Blocks bool   `json:"blocks,omitempty"`
	FDs    []int  `json:"fds,omitempty"`
}

var errCarry = errors.New("not what a supervisor of this kind hands over")

func decodeCarried(b []byte) (c carried, err error) {
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%w: %w", errCarry, err)
	}
	switch {
	case c.Version != carryVersion:
		return c, fmt.Errorf("%w: version %d", errCarry, c.Version)
	case c.Path == "" || c.Worker.Pid <= 0 || c.Worker.FD < 3 || len(c.Items) > maxItems:
		return c, fmt.Errorf("%w: worker %d, descriptor %d, %d items", errCarry, c.Worker.Pid, c.Worker.FD, len(c.Items))
	}
	if c.Link < 0 || c.Link > 0 && (c.Link < 3 || c.Link == c.Worker.FD) {
		return c, fmt.Errorf("%w: descriptor %d to the holder", errCarry, c.Link)
	}
	seen := map[int]bool{c.Worker.FD: true, c.Link: true}
	for _, i := range c.Items {
		item := Item{Key: i.Key, Data: i.Data, Files: make([]*os.File, len(i.FDs))}
		if err := item.check(); err != nil {
			return c, fmt.Errorf("%w: %w", errCarry, err)
		}
		for _, fd := range i.FDs {
			if fd < 3 || seen[fd] {
				return c, fmt.Errorf("%w: descriptor %d of %q", errCarry, fd, i.Key)
			}
			seen[fd] = true
		}
	}
	return c, nil
}

// carry is what s hands over.
func (s *supervisor) carry() (c carried, err error) {
	c = carried{Version: carryVersion, Path: s.path, Worker: carriedWorker{s.worker.pid, s.worker.fd}, Linked: s.linked, Items: []carriedItem{}}
	if s.link != nil {
		c.Link = s.link.fd
	}
	for key, i := range s.items {
		ci := carriedItem{Key: key, Data: i.Data, Blocks: i.Blocks}
		for _, f := range i.Files {
			fd, err := number(f)
			if err != nil {
				return c, err
			}
			ci.FDs = append(ci.FDs, fd)
		}
		c.Items = append(c.Items, ci)
	}
	return c, nil
}

// write puts c into a new file in memory, at its beginning.
func (c *carried) write() (*os.File, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if len(b) > maxCarry {
		return nil, fmt.Errorf("%w: %d bytes", errCarry, len(b))
	}
	fd, err := unix.MemfdCreate("fractal-lazy supervisor", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "handed over")
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readCarried(f *os.File) (c carried, err error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxCarry+1))
	if err != nil {
		return c, err
	}
	if len(b) > maxCarry {
		return c, errCarry
	}
	return decodeCarried(b)
}

// descriptors are all that c names.
func (c *carried) descriptors() []int {
	all := []int{c.Worker.FD}
	if c.Link > 0 {
		all = append(all, c.Link)
	}
	for _, i := range c.Items {
		all = append(all, i.FDs...)
	}
	return all
}

// outlive says whether descriptors stay open in the program that takes this one's place.
func outlive(fds []int, yes bool) error {
	flag := unix.FD_CLOEXEC
	if yes {
		flag = 0
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return nil
}
