package backing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendArgs is struct btrfs_ioctl_send_args.
type sendArgs struct {
	fd           int64
	cloneSources uint64 // count
	sources      uint64 // pointer
	parentRoot   uint64
	flags        uint64
	version      uint32
	_            [28]byte
}

var iocSend = ioc(iocWrite, 38, unsafe.Sizeof(sendArgs{}))

const (
	sendNoFileData = 1 << 0
	sendVersion    = 1 << 3 // the version field counts; since Linux 6.0
	sendPipe       = 1 << 20
)

// SendChanges calls fn for every command of the stream that turns the
// read-only snapshot parent into the read-only snapshot path of the same
// subvolume, without the files' bytes: SendUpdateExtent and SendClone say which changed.
// A command is valid during its call.
//
// It needs CAP_SYS_ADMIN. While it runs neither snapshot can be deleted. When
// ctx ends, or fn returns an error, which is returned as it is, the pipe is
// closed: the kernel ends at the next command that it writes, and
// SendChanges returns after it has. ErrStream where the kernel's stream is not understood.
func SendChanges(ctx context.Context, parent *Tree, path *Tree, fn func(*SendCommand) error) error {
	// Version 2 has nothing that a stream without data needs, but what a later
	// kernel tells of only there is not missed.
	err := sendChanges(ctx, parent, path, sendNoFileData|sendVersion, 2, fn)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTO) { // before Linux 6.0
		err = sendChanges(ctx, parent, path, sendNoFileData, 0, fn)
	}
	return err
}

func sendChanges(ctx context.Context, parent, t *Tree, flags uint64, version uint32, fn func(*SendCommand) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("send: pipe: %w", err)
	}
	// Only the reader's end is non-blocking: so that closing it wakes its
	// reader, while the kernel waits where the pipe is full.
	if err := unix.SetNonblock(p[0], true); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return fmt.Errorf("send: pipe: %w", err)
	}
	_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, sendPipe) // fewer switches; the default works too
	r := os.NewFile(uintptr(p[0]), "send stream")
	args := sendArgs{fd: int64(p[1]), parentRoot: parent.RootID(), flags: flags, version: version}
	sent := make(chan error, 1)
	go func() {
		err := sendUninterrupted(t.RootFD(), &args)
		unix.Close(p[1])
		sent <- err
	}()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	err := readCommands(r, fn)
	stop()
	r.Close()
	kernel := <-sent
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case kernel != nil && !errors.Is(kernel, unix.EPIPE): // EPIPE: the reader was the first to end
		return pathError("send the changes of", t.path, kernel)
	case err != nil:
		return err
	}
	return nil
}

func readCommands(r io.Reader, fn func(*SendCommand) error) error {
	s, err := NewSendReader(r)
	if err != nil {
		return err
	}
	for {
		c, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
	}
}

// sendUninterrupted calls the ioctl on a thread that takes no signals: one that
// comes while the pipe is full (the Go runtime sends them all the time) would make the kernel begin
// again from the start, in the middle of what is in the pipe.
func sendUninterrupted(fd int, args *sendArgs) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocSend, uintptr(unsafe.Pointer(args)))
	if e != 0 {
		return e
	}
	return nil
}
