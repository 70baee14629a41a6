package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// HoldOptions of Hold. Socket is needed.
type HoldOptions struct {
	Socket string // its folder is made where it is missing, and belongs to root alone
	// Limit is how long items are held while no supervisor says that they are served; 0: 5 min.
	Limit time.Duration
	Log   zerolog.Logger
}

const defaultLimit = 5 * time.Minute

// ErrHolderRuns says that another holder has the socket.
var ErrHolderRuns = errors.New("another holder runs")

// holder is one Hold.
type holder struct {
	o   HoldOptions
	log zerolog.Logger

	mu     sync.Mutex
	items  map[string]Item
	alone  time.Time // since when nobody serves the items; zero: somebody does
	client int       // the supervisor's connection; -1: none
}

// Hold keeps items for supervisors, one after the other, until ctx ends; then everything is let go of. doc.go has the rules.
// ErrHolderRuns where there is another one.
func Hold(ctx context.Context, o HoldOptions) error {
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	l, lock, err := listenHolder(o.Socket)
	if err != nil {
		return fmt.Errorf("holder: %w", err)
	}
	defer lock.Close()
	h := &holder{o: o, log: o.Log.With().Str("op", "hold").Logger(), items: map[string]Item{}, client: -1}
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Shutdown(l, unix.SHUT_RDWR) // ends the accept
		h.hangUp()
	})
	defer stop()
	ticked := make(chan struct{})
	go func() {
		defer close(ticked)
		h.watch(ctx)
	}()
	h.log.Info().Str("socket", o.Socket).Dur("limit", o.Limit).Msg("holding mounts")
	for ctx.Err() == nil {
		fd, _, aerr := unix.Accept4(l, unix.SOCK_CLOEXEC)
		switch {
		case aerr == nil:
			h.serve(fd)
			unix.Close(fd)
		case ctx.Err() != nil || aerr == unix.EINTR || aerr == unix.ECONNABORTED:
		default:
			h.log.Error().Err(aerr).Msg("cannot take a connection; tried again")
			time.Sleep(time.Second)
		}
	}
	unix.Close(l)
	os.Remove(o.Socket)
	<-ticked
	if n := h.release(); n > 0 {
		h.log.Warn().Int("items", n).Msg("stopped: what nobody else holds is given up")
	}
	return nil
}

// listenHolder makes the socket.
//
// Order: 1. the folder is locked, so that a socket in it is a dead holder's; 2. the new one is made beside it and gets its mode; 3. it is renamed
// into place. Whoever connects in between gets ECONNREFUSED, and tries again.
func listenHolder(path string) (l int, lock *os.File, err error) {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return -1, nil, fmt.Errorf("folder of the socket: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return -1, nil, fmt.Errorf("folder of the socket: %w", err)
	}
	if lock, err = os.Open(dir); err != nil {
		return -1, nil, fmt.Errorf("folder of the socket: %w", err)
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return -1, nil, fmt.Errorf("%w on %s", ErrHolderRuns, path)
	}
	if l, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, nil, fmt.Errorf("socket: %w", err)
	}
	fresh := filepath.Base(path) + ".new"
	if err = os.Remove(filepath.Join(dir, fresh)); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrUnix{Name: below(lock, fresh)})
	}
	if err == nil {
		err = os.Chmod(filepath.Join(dir, fresh), 0o600)
	}
	if err == nil {
		err = unix.Listen(l, 16)
	}
	if err == nil {
		err = os.Rename(filepath.Join(dir, fresh), path)
	}
	if err != nil {
		unix.Close(l)
		return -1, nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, lock, nil
}

// below names a file in an open folder in few bytes, as a socket's path may have 107.
func below(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

// byRoot reports whether root is at the other end of a unix socket.
func byRoot(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("who is at the other end: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("%w: user %d, process %d", unix.EACCES, cred.Uid, cred.Pid)
	}
	return nil
}

// serve tells a supervisor what is held, and then does what it says until it ends.
func (h *holder) serve(fd int) {
	if err := byRoot(fd); err != nil {
		h.log.Error().Err(err).Msg("a caller is turned away")
		return
	}
	h.mu.Lock()
	h.client = fd
	items := h.copiesLocked()
	h.mu.Unlock()
	err := tell(fd, items)
	for err == nil {
		m, files, ok, rerr := receive(fd)
		if !ok {
			err = rerr
			break
		}
		if rerr != nil {
			h.log.Error().Err(rerr).Msg("a message of the supervisor was not understood")
			continue
		}
		h.do(m, files)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client = -1
	if h.alone.IsZero() {
		h.alone = time.Now()
	}
	h.log.Info().Err(err).Int("items", len(h.items)).Msg("the supervisor is gone")
}

// tell sends items as supervisors send them to workers. Their files are closed.
func tell(fd int, items []Item) error {
	err := send(fd, message{Kind: kindHello, Protocol: protocol, Count: len(items)}, nil)
	for _, i := range items {
		if err == nil {
			err = send(fd, message{Kind: kindItem, Key: i.Key, Data: i.Data, Blocks: i.Blocks}, i.Files)
		}
		i.close()
	}
	if err == nil {
		err = send(fd, message{Kind: kindEnd}, nil)
	}
	return err
}

func (h *holder) do(m message, files []*os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch m.Kind {
	case kindPut:
		i := Item{Key: m.Key, Data: m.Data, Files: files, Blocks: m.Blocks}
		old, there := h.items[i.Key]
		if i.check() != nil || !there && len(h.items) >= maxItems {
			h.log.Error().Str("key", i.Key).Msg("cannot be held: too much")
			i.close()
			return
		}
		go old.close()
		h.items[i.Key] = i
	case kindDrop:
		old := h.items[m.Key]
		go old.close() // of a mount, it may wait for who serves that
		delete(h.items, m.Key)
	case kindReady:
		h.log.Info().Int("items", len(h.items)).Msg("what is held is served")
		h.alone = time.Time{}
	default:
		for _, f := range files {
			f.Close()
		}
	}
}

// copiesLocked is the items with descriptors of their own. mu is held.
func (h *holder) copiesLocked() (all []Item) {
	for _, key := range slices.Sorted(maps.Keys(h.items)) {
		i, err := h.items[key].copy()
		if err != nil {
			h.log.Error().Err(err).Str("key", key).Msg("cannot be handed over")
			continue
		}
		all = append(all, i)
	}
	return all
}

// watch lets go of everything when nobody has served it for too long.
func (h *holder) watch(ctx context.Context) {
	t := time.NewTicker(min(h.o.Limit/4+1, time.Second))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		h.mu.Lock()
		late := !h.alone.IsZero() && len(h.items) > 0 && time.Since(h.alone) >= h.o.Limit
		h.mu.Unlock()
		if late {
			n := h.release()
			h.log.Error().Int("items", n).Dur("limit", h.o.Limit).Msg("nobody serves the mounts: they are given up, so that who uses them can be ended")
			h.hangUp() // one that never got ready holds them as well, and has a limit of its own
		}
	}
}

// release lets go of everything, and waits for no mount.
func (h *holder) release() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.items)
	for _, i := range h.items {
		go i.close()
	}
	clear(h.items)
	return n
}

// hangUp ends the connection of the supervisor that is there.
func (h *holder) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client >= 0 {
		_ = unix.Shutdown(h.client, unix.SHUT_RDWR)
	}
}
