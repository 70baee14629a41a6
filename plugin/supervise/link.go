package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// linkFirst is how long the first worker waits for what a holder may have.
	linkFirst = 5 * time.Second
	// linkAgain is the pause between tries to reach a holder.
	linkAgain = time.Second
	// linkSend is how long a message to the holder may take: it keeps nobody waiting who serves mounts.
	linkSend = time.Second
)

// link is a supervisor's connection to the holder, and what that had at its beginning.
type link struct {
	fd    int
	items []Item
}

// dial reaches the holder, and reads what it has. It waits while another supervisor is connected.
func dial(socket string) (*link, error) {
	dir, err := os.OpenFile(filepath.Dir(socket), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	l := &link{fd: fd}
	if err = unix.Connect(fd, &unix.SockaddrUnix{Name: below(dir, filepath.Base(socket))}); err == nil {
		err = byRoot(fd)
	}
	if err == nil {
		l.items, err = hear(fd)
	}
	if err == nil {
		tv := unix.NsecToTimeval(int64(linkSend))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) close() {
	unix.Close(l.fd)
	for _, i := range l.items {
		i.close()
	}
	l.items = nil
}

// hear reads what tell sends.
func hear(fd int) (items []Item, err error) {
	for {
		m, files, ok, err := receive(fd)
		if err == nil && !ok {
			err = unix.EPIPE
		}
		if err == nil && m.Kind == kindItem && len(items) < maxItems {
			items = append(items, Item{Key: m.Key, Data: m.Data, Files: files, Blocks: m.Blocks})
			continue
		}
		for _, f := range files {
			f.Close()
		}
		if err != nil {
			for _, i := range items {
				i.close()
			}
			return nil, err
		}
		if m.Kind == kindEnd {
			return items, nil
		}
	}
}

// reach looks for the holder in the background, unless that is done already, there is one, or none is wanted.
func (s *supervisor) reach() {
	if s.o.Holder == "" || s.link != nil || s.reaching || time.Since(s.reached) < linkAgain {
		return
	}
	s.reaching, s.reached = true, time.Now()
	go func() {
		l, err := dial(s.o.Holder)
		if err != nil {
			l = nil // mostly there is none
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
			s.log.Debug().Err(err).Msg("the holder cannot be reached; tried again")
		}
		s.links <- l
	}()
}

// begin asks the holder, where there is one, before the first worker starts.
func (s *supervisor) begin() {
	if s.reach(); !s.reaching {
		return
	}
	select {
	case l := <-s.links:
		s.onLink(l)
	case <-time.After(linkFirst):
		s.log.Error().Str("socket", s.o.Holder).Msg("the holder does not answer: mounts that it may hold are taken up when it does")
	}
}

// onLink is called with a connection, or with nil where there was none to be had.
//
// What this supervisor keeps itself is newer than what the holder has. What it does not know comes from one before it, where this is the
// first time, and is kept; a worker that runs already is replaced, so that it learns of it. Later it is what was dropped while there was no connection.
func (s *supervisor) onLink(l *link) {
	s.reaching = false
	if l == nil {
		return
	}
	first := !s.linked
	s.link, s.linked = l, true
	took := 0
	for _, i := range l.items {
		if _, known := s.items[i.Key]; !known && first {
			s.items[i.Key] = i
			took++
			continue
		}
		if _, known := s.items[i.Key]; !known {
			s.mirror(message{Kind: kindDrop, Key: i.Key}, nil)
		}
		go i.close()
	}
	l.items = nil
	for key := range s.items {
		s.mirrorItem(key)
	}
	if s.worker != nil && s.worker.ready && took == 0 {
		s.mirror(message{Kind: kindReady}, nil)
	}
	s.log.Info().Int("took", took).Int("items", len(s.items)).Msg("a holder keeps mounts beyond this process")
	s.tellOfHolder()
	if s.worker != nil && took > 0 && s.ending == nil {
		s.replace = true
		_ = syscall.Kill(s.worker.pid, syscall.SIGKILL)
	}
}

// mirror has the holder do the same. One that does not answer is given up, and looked for again.
func (s *supervisor) mirror(m message, files []*os.File) {
	if s.link == nil {
		return
	}
	if err := send(s.link.fd, m, files); err != nil {
		s.log.Error().Err(err).Msg("the holder is gone: mounts end with this process until it is back")
		s.link.close()
		s.link, s.reached = nil, time.Now()
		s.tellOfHolder()
	}
}

// mirrorItem hands the holder a copy of what is kept under key, where others wait for it.
func (s *supervisor) mirrorItem(key string) {
	if i := s.items[key]; i.Blocks {
		s.mirror(message{Kind: kindPut, Key: key, Data: i.Data, Blocks: true}, i.Files)
	}
}

// tellOfHolder lets the worker know whether mounts outlive the supervisor.
func (s *supervisor) tellOfHolder() {
	if s.worker != nil {
		_ = sendNow(s.worker.fd, message{Kind: kindHolder, Holder: s.link != nil})
	}
}

// gone looks whether the holder has ended: it never says anything by itself.
func (s *supervisor) gone() {
	if s.link == nil {
		return
	}
	p := []unix.PollFd{{Fd: int32(s.link.fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(p, 0); err == nil && n > 0 {
		s.log.Error().Msg("the holder is gone: mounts end with this process until it is back")
		s.link.close()
		s.link, s.reached = nil, time.Now()
		s.tellOfHolder()
	}
}

// copy is the item with descriptors of its own.
func (i Item) copy() (Item, error) {
	files := make([]*os.File, 0, len(i.Files))
	for _, f := range i.Files {
		fd, err := duplicate(f)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return Item{}, fmt.Errorf("duplicate: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fd), f.Name()))
	}
	i.Files = files
	return i, nil
}
