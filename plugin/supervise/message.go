package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	protocol   = 1
	maxMessage = 32 << 10
	maxFDs     = 8
	maxKey     = 512
	maxItems   = 10_000
)

// Kinds of messages.
const (
	kindHello = "hello" // supervisor: protocol, and how many items come
	kindItem  = "item"  // supervisor: one item
	kindEnd   = "end"   // supervisor: that was all
	kindPut   = "put"   // worker: keep this item, in the place of one with the same key
	kindDrop  = "drop"  // worker: forget the item of this key
	kindReady = "ready" // worker: everything that was kept is served

	kindHolder = "holder" // supervisor: whether items that block others outlive it from now on
)

// message is what is sent, without the descriptors that come with it.
type message struct {
	Kind     string `json:"kind"`
	Protocol int    `json:"protocol,omitempty"`
	Count    int    `json:"count,omitempty"`
	Key      string `json:"key,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Blocks   bool   `json:"blocks,omitempty"`
	Holder   bool   `json:"holder,omitempty"`
	Carry    int    `json:"carry,omitempty"` // of ready: up to which version a supervisor of this program reads what another one hands over
}

// Item is something that is kept.
type Item struct {
	Key   string
	Data  []byte     // at most MaxData
	Files []*os.File // at most eight
	// Blocks says that processes wait, and cannot be killed, as long as nobody serves it.
	Blocks bool
}

// MaxData bounds Item.Data.
const MaxData = 16 << 10

var errMessage = errors.New("not a message of the supervisor's protocol")

// check holds an item against the bounds.
func (i *Item) check() error {
	switch {
	case i.Key == "" || len(i.Key) > maxKey:
		return fmt.Errorf("%w: a key of %d bytes", errMessage, len(i.Key))
	case len(i.Data) > MaxData:
		return fmt.Errorf("%w: %d bytes of data", errMessage, len(i.Data))
	case len(i.Files) > maxFDs:
		return fmt.Errorf("%w: %d descriptors", errMessage, len(i.Files))
	}
	return nil
}

func (i *Item) close() {
	for _, f := range i.Files {
		f.Close()
	}
}

// send writes one message; it waits while the other end reads slowly.
func send(fd int, m message, files []*os.File) error { return sendFlags(fd, m, files, 0) }

// sendNow writes one message, unless that would have to wait.
func sendNow(fd int, m message) error { return sendFlags(fd, m, nil, unix.MSG_DONTWAIT) }

func sendFlags(fd int, m message, files []*os.File, flags int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = number(f); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	defer runtime.KeepAlive(files)
	for {
		err := unix.Sendmsg(fd, b, rights, nil, unix.MSG_NOSIGNAL|flags)
		if err != unix.EINTR {
			return err
		}
	}
}

// receive reads one message. io.EOF is told as ok == false with a nil error.
func receive(fd int) (m message, files []*os.File, ok bool, err error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(maxFDs*4))
	var n, o, flags int
	for {
		n, o, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.ECONNRESET {
		return m, nil, false, nil // the other end died with something unread
	}
	if err != nil {
		return m, nil, false, err
	}
	if n == 0 && o == 0 {
		return m, nil, false, nil
	}
	if files, err = filesOf(oob[:o]); err != nil {
		return m, nil, true, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("%w: too long", errMessage)
	} else if m, err = decode(b[:n]); err == nil {
		return m, files, true, nil
	}
	for _, f := range files {
		f.Close()
	}
	return m, nil, true, err
}

func decode(b []byte) (m message, err error) {
	if err := json.Unmarshal(b, &m); err != nil || m.Kind == "" {
		return m, errMessage
	}
	if len(m.Key) > maxKey || len(m.Data) > MaxData || m.Count < 0 || m.Count > maxItems {
		return m, errMessage
	}
	return m, nil
}

func filesOf(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "kept"))
		}
	}
	return files, nil
}

// number is f.Fd() that leaves it non-blocking, which all who share it have in common.
func number(f *os.File) (int, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = c.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

func duplicate(f *os.File) (int, error) {
	fd, err := number(f)
	if err != nil {
		return -1, err
	}
	defer runtime.KeepAlive(f)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}
