package fusefs

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// server reads requests from the connection, has the protocol library decode and execute them, and writes the answers.
//
// A request costs waking a thread that waits in read(2), and where another one waits beside it, the two take turns and each wakes on another processor.
// So as long as one thread of one program asks for what takes no time (alone), one reader does all of it, and nobody waits meanwhile. In every other
// case somebody waits while a request is worked on. What takes time although it should not is noticed by watch.
type server struct {
	f     *FS
	file  *os.File // the connection
	conn  syscall.RawConn
	fd    int // of file, for readers only: it is closed after the last of them
	proto *fuse.ProtocolServer
	most  int32 // readers that wait at the same time, where several programs ask

	waiting atomic.Int32  // readers that wait for a request, or are on their way there
	asker   atomic.Uint32 // the thread that asked last
	streak  atomic.Int32  // how many requests it has made without another one in between

	// What watch looks at.
	numbers atomic.Uint64 // how many requests were worked on alone
	alone   atomic.Uint64 // the number of the one that is; 0: none
	watched atomic.Bool   // watch runs
	watches sync.WaitGroup
	over    chan struct{} // closed after the last reader

	asked    atomic.Bool   // since the last look (idle.go)
	asleep   atomic.Bool   // the last reader waits without a room
	lastFile atomic.Uint64 // the inode opened last

	mu      sync.Mutex
	readers int
	looks   *time.Timer
}

// newServer serves conn, which stays the caller's, as proto was told in INIT.
func newServer(f *FS, conn int, proto *fuse.ProtocolServer, most int) (*server, error) {
	fd, err := unix.FcntlInt(uintptr(conn), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep the connection: %w", err)
	}
	s := &server{f: f, file: os.NewFile(uintptr(fd), "/dev/fuse"), fd: fd, proto: proto, most: int32(most), over: make(chan struct{})}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// serve runs until the kernel has let go of the connection, and all requests are answered.
func (s *server) serve() {
	s.readers = 1
	s.waiting.Store(1)
	s.asleep.Store(true)
	s.sleep()
	s.read()
	<-s.over
	s.looks.Stop()
	s.watches.Wait()
	s.file.Close()
}

// another makes one more reader.
func (s *server) another() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers == 0 {
		return // the connection has ended
	}
	s.readers++
	s.waiting.Add(1)
	go s.read()
}

// again reports whether a reader that has answered a request shall wait for the next one.
func (s *server) again() bool {
	most := s.most
	if s.streak.Load() >= aloneAfter || s.asleep.Load() {
		most = 1
	}
	for {
		n := s.waiting.Load()
		if n >= most {
			return false
		}
		if s.waiting.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// read answers requests until others do.
func (s *server) read() {
	r := readerPool.Get().(*reader)
	defer func() {
		readerPool.Put(r)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.readers--; s.readers == 0 {
			close(s.over)
		}
	}()
	room := takeRoom()
	defer func() { giveRoom(room) }()
	for {
		n, err := readConn(s.fd, room)
		left := s.waiting.Add(-1)
		if err == unix.ENOENT { // the request was given up meanwhile
			s.waiting.Add(1)
			continue
		}
		if err != nil {
			if err != unix.ENODEV {
				s.f.opt.Log.Error().Err(err).Msg("requests cannot be read any more")
			}
			s.f.cancel()
			return
		}
		request := room[:n]
		if n < headerSize {
			s.f.opt.Log.Error().Int("bytes", n).Msg("a request without a header")
			s.waiting.Add(1)
			continue
		}
		if opcode(request) == opNotifyReply {
			if !s.sleeper() {
				if s.wake() != nil {
					s.lookLater()
				}
				return
			}
			giveRoom(room)
			room = nil
			s.sleep()
			room = takeRoom()
			continue
		}
		if !s.asked.Load() {
			s.asked.Store(true)
		}
		if s.mayBeAlone(request) {
			if left > 0 {
				s.answer(r, request)
			} else {
				s.answerAlone(r, request)
			}
		} else {
			// It may wait for long, and many may wait at the same time.
			if n <= len(r.request) {
				request = r.request[:copy(r.request[:], request)]
				giveRoom(room)
				room = nil
			}
			if left == 0 {
				s.another()
			}
			s.answer(r, request)
		}
		if !s.again() {
			return
		}
		if room == nil {
			room = takeRoom()
		}
	}
}

func readConn(fd int, p []byte) (n int, err error) {
	for {
		if n, err = unix.Read(fd, p); err != unix.EINTR {
			return n, err
		}
	}
}

// answer has the library execute request, and writes what it says.
func (s *server) answer(r *reader, request []byte) {
	size := answerSize(request)
	room, give := r.answerRoom(size)
	defer give()
	r.in[0], r.out[0] = request, room[:size]
	n, status := s.proto.HandleRequest(r.in[:], r.out[:])
	r.in[0], r.out[0] = nil, nil
	if n == 0 && !status.Ok() && answered(request) {
		n = failure(room, request) // the library could not even begin
	}
	if n == 0 {
		return
	}
	err := s.write(room[:n])
	if err == unix.EINVAL {
		s.f.opt.Log.Error().Uint32("opcode", opcode(request)).Int("bytes", n).Msg("the kernel does not take an answer; the caller gets an I/O error")
		err = s.write(room[:failure(room, request)])
	}
	// ENOENT: nobody waits for the answer any more; ENODEV: the connection has ended.
	if err != nil && err != unix.ENOENT && err != unix.ENODEV {
		s.f.opt.Log.Error().Err(err).Uint32("opcode", opcode(request)).Msg("the kernel does not take an answer")
	}
}

// failure makes an answer of EIO in room: no caller may wait for ever.
func failure(room, request []byte) int {
	binary.NativeEndian.PutUint32(room[0:], replyHeader)
	binary.NativeEndian.PutUint32(room[4:], ^uint32(unix.EIO)+1) // negative
	copy(room[8:replyHeader], request[8:16])
	return replyHeader
}

func (s *server) write(answer []byte) error {
	for {
		if _, err := unix.Write(s.fd, answer); err != unix.EINTR {
			return err
		}
	}
}

// How a request goes on without anybody to read the next one meanwhile.

const (
	aloneAfter = 16                   // requests of one thread in a row
	watchEvery = 5 * time.Millisecond // nobody waits longer than two of these because a request takes time
	watchLast  = 20                   // of these without any request, then watch ends until the next one
)

// mayBeAlone reports whether a request takes no time, as far as one can know, and the same thread has been the only one that asks.
func (s *server) mayBeAlone(request []byte) bool {
	pid := binary.NativeEndian.Uint32(request[headerPid:])
	if pid == 0 && !fromKernel(request) {
		s.streak.Store(0) // of another pid name space: anybody
	} else if pid != 0 && s.asker.Load() != pid {
		s.asker.Store(pid)
		s.streak.Store(0)
	} else if s.streak.Load() < aloneAfter {
		s.streak.Add(1)
	}
	return s.streak.Load() >= aloneAfter && quick(request) && s.f.res.Complete()
}

// answerAlone is answer while nobody waits for requests.
func (s *server) answerAlone(r *reader, request []byte) {
	s.alone.Store(s.numbers.Add(1))
	if !s.watched.Load() && s.watched.CompareAndSwap(false, true) {
		s.watches.Add(1)
		go s.watch()
	}
	s.answer(r, request)
	s.alone.Store(0)
}

// watch has somebody wait for requests where one that is worked on alone takes its time: BTRFS commits, a disk has to be read, a
// snapshot is taken. It must be so, and not only be faster: what a request waits for may be another request.
func (s *server) watch() {
	defer s.watches.Done()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last, before uint64
	for quiet := 0; ; {
		select {
		case <-s.over:
			return
		case <-tick.C:
		}
		alone, numbers := s.alone.Load(), s.numbers.Load()
		if alone != 0 && alone == last && s.waiting.Load() == 0 {
			s.another()
		}
		if quiet++; numbers != before || alone != 0 {
			quiet = 0
		}
		last, before = alone, numbers
		if quiet < watchLast {
			continue
		}
		// Who begins a request stores alone before looking at watched.
		s.watched.Store(false)
		if s.alone.Load() == 0 || !s.watched.CompareAndSwap(false, true) {
			return
		}
		quiet = 0
	}
}

// ioctl and write of the connection also where serving may just end.

func (s *server) ioctl(request uintptr, arg unsafe.Pointer) (result uintptr, errno syscall.Errno) {
	if err := s.conn.Control(func(fd uintptr) { result, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)) }); err != nil {
		return 0, unix.EBADF
	}
	return result, errno
}

func (s *server) notify(message []byte) (err error) {
	if cerr := s.conn.Control(func(fd uintptr) { _, err = unix.Write(int(fd), message) }); cerr != nil {
		return unix.EBADF
	}
	return err
}
