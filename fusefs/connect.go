package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kernel's INIT and what it was answered are kept, so that a later process can begin with the same two on a connection that has long
// been negotiated.

// fuseType is the type of our mounts in /proc/self/mountinfo.
const fuseType = "fuse.fractal-lazy"

// Held is what a process needs to go on with the mount of another one that has ended; see Resume.
type Held struct {
	Conn  *os.File // the connection to the kernel; the mount lives as long as a descriptor of it
	Table *os.File // open handles and what was begun: table.go
	Init  []byte   // the kernel's INIT request, with its header
	Reply []byte   // what it was answered
	// Removed is what Options.HoldRemoved was given since then.
	Removed []*os.File
}

// maxInit bounds Init and Reply.
const maxInit = 1024

// mostReaders is how many readers of a connection wait at the same time, on a machine with as many processors or more.
const mostReaders = 16

// ErrGone says that a held connection has no mount any more.
var ErrGone = errors.New("the mount is gone")

// ErrDialect says that this program would talk to the kernel in another way than it was agreed on for a mount.
var ErrDialect = errors.New("the mount was negotiated by a program that is too different")

// mountFUSE opens a connection and mounts it. Neither nosuid nor nodev: the volume shows what is in it.
func (f *FS) mountFUSE() (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d,default_permissions,allow_other", fd, maxWrite)
	var flags uintptr
	if f.opt.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(f.opt.FSName, f.mountpoint, fuseType, flags, data); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// beginConn agrees with the kernel on a new connection, and returns what was said.
func (f *FS) beginConn(conn *os.File) (h Held, err error) {
	buf := make([]byte, roomSize) // the kernel refuses to be read into less than a request may have
	n, err := readConn(int(conn.Fd()), buf)
	if err != nil {
		return h, fmt.Errorf("read INIT: %w", err)
	}
	if n > maxInit {
		return h, fmt.Errorf("INIT of %d bytes", n)
	}
	h = Held{Conn: conn, Init: append([]byte(nil), buf[:n]...)}
	h.Reply, err = f.attach(conn, h.Init, func(reply []byte) error {
		_, err := unix.Write(int(conn.Fd()), reply)
		return err
	})
	return h, err
}

// continueConn takes over a connection that another process began. What this program would take beyond what was taken then is not offered to it.
func (f *FS) continueConn(h Held) error {
	if len(h.Init) < initFlags2+4 || len(h.Init) > maxInit || len(h.Reply) < replyMinimum || len(h.Reply) > maxInit {
		return fmt.Errorf("%w: INIT of %d bytes, answered with %d", ErrDialect, len(h.Init), len(h.Reply))
	}
	if f.opt.NoPassthrough = noPassthrough(h.Reply); f.opt.NoPassthrough {
		f.passOff.Store(true)
	}
	init := append([]byte(nil), h.Init...)
	var more uint64
	compare := func(reply []byte) (err error) {
		more, err = sameTerms(h.Reply, reply)
		return err
	}
	_, err := f.attach(h.Conn, init, compare)
	if err != nil && more != 0 {
		offered := flags64(init, initFlags, initFlags2) &^ more
		binary.NativeEndian.PutUint32(init[initFlags:], uint32(offered))
		binary.NativeEndian.PutUint32(init[initFlags2:], uint32(offered>>32))
		_, err = f.attach(h.Conn, init, compare)
	}
	return err
}

// attach lets the protocol library answer init, gives the answer to said, and then makes f.server serve conn, which stays the caller's.
func (f *FS) attach(conn *os.File, init []byte, said func(reply []byte) error) ([]byte, error) {
	proto := fuse.NewProtocolServer(f, f.mountOptions())
	reply := make([]byte, maxInit)
	n, status := proto.HandleRequest([][]byte{init}, [][]byte{reply})
	if status.Ok() && n >= replyHeader {
		status = fuse.Status(-int32(binary.NativeEndian.Uint32(reply[4:])))
	}
	if !status.Ok() || n < replyMinimum {
		return nil, fmt.Errorf("INIT is answered with %v, in %d bytes", status, n)
	}
	reply = reply[:n:n]
	if err := said(reply); err != nil {
		return nil, fmt.Errorf("INIT: %w", err)
	}
	f.negotiated(flags64(init, initFlags, initFlags2))
	server, err := newServer(f, int(conn.Fd()), proto, max(2, min(mostReaders, runtime.GOMAXPROCS(0))))
	if err != nil {
		return nil, err
	}
	f.server = server
	return reply, nil
}

// Where the parts of INIT and its answer are, behind headers of 40 and 16 bytes: struct fuse_init_in and fuse_init_out of linux/fuse.h.
const (
	initHeader   = 40
	initFlags    = initHeader + 12
	initFlags2   = initHeader + 16
	replyHeader  = 16
	replyFlags   = replyHeader + 12
	replyWrite   = replyHeader + 20
	replyFlags2  = replyHeader + 32
	replyMinimum = replyHeader + 64
)

func flags64(b []byte, low, high int) uint64 {
	return uint64(binary.NativeEndian.Uint32(b[low:])) | uint64(binary.NativeEndian.Uint32(b[high:]))<<32
}

func noPassthrough(reply []byte) bool {
	return flags64(reply, replyFlags, replyFlags2)&fuse.CAP_PASSTHROUGH == 0
}

// sameTerms compares what decides on the form of requests, and on who does what. more are the flags that is has and was has not.
func sameTerms(was, is []byte) (more uint64, err error) {
	if len(is) < replyMinimum {
		return 0, fmt.Errorf("%w: an answer of %d bytes", ErrDialect, len(is))
	}
	if a, b := flags64(was, replyFlags, replyFlags2), flags64(is, replyFlags, replyFlags2); a != b {
		return b &^ a, fmt.Errorf("%w: flags %#x, not %#x", ErrDialect, b, a)
	}
	if a, b := binary.NativeEndian.Uint32(was[replyWrite:]), binary.NativeEndian.Uint32(is[replyWrite:]); a != b {
		return 0, fmt.Errorf("%w: writes of %d bytes, not %d", ErrDialect, b, a)
	}
	return 0, nil
}

// alive reports whether a connection still has its mount.
func alive(conn int) bool {
	p := []unix.PollFd{{Fd: int32(conn), Events: unix.POLLOUT}}
	for {
		_, err := unix.Poll(p, 0)
		if err != syscall.EINTR {
			return err == nil && p[0].Revents&unix.POLLERR == 0
		}
	}
}

// resend has the kernel ask again what was asked of a process that has ended (FUSE_NOTIFY_RESEND, 7).
func resend(conn int) error {
	var msg [16]byte // struct fuse_out_header: length, error (the kind of notification), unique
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], 7)
	if _, err := unix.Write(conn, msg[:]); err != nil {
		return fmt.Errorf("have requests sent again: %w", err)
	}
	return nil
}
