package supervise

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// EnvSocket names the variable that tells a worker its socket.
const EnvSocket = "FRACTAL_SUPERVISOR_FD"

// Keep is a worker's side. A nil Keep is that of a process without supervisor: nothing is kept, and nothing was.
// Safe for concurrent use.
type Keep struct {
	holder atomic.Bool
	mu     sync.Mutex
	fd     int
	items  []Item
}

// Attach finds the supervisor of this process, and takes what it kept. nil, nil where there is none. When the supervisor ends, so does this
// process.
func Attach() (*Keep, error) {
	v := os.Getenv(EnvSocket)
	if v == "" {
		return nil, nil
	}
	os.Unsetenv(EnvSocket) // not for children
	var fd int
	if _, err := fmt.Sscanf(v, "%d", &fd); err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q names no descriptor", EnvSocket, v)
	}
	unix.CloseOnExec(fd)
	k := &Keep{fd: fd}
	for {
		m, files, ok, err := receive(fd)
		switch {
		case err != nil:
			return nil, fmt.Errorf("supervisor: %w", err)
		case !ok:
			return nil, fmt.Errorf("supervisor: %w", unix.EPIPE)
		}
		switch m.Kind {
		case kindItem:
			k.items = append(k.items, Item{Key: m.Key, Data: m.Data, Files: files, Blocks: m.Blocks})
		case kindEnd:
			go k.watch()
			return k, nil
		case kindHolder:
			k.holder.Store(m.Holder)
		default:
			for _, f := range files {
				f.Close()
			}
		}
	}
}

// watch ends this process when the supervisor is gone: without it nothing would be kept, and the next one needs what this one holds.
func (k *Keep) watch() {
	for {
		m, files, ok, err := receive(k.fd)
		for _, f := range files {
			f.Close()
		}
		if ok && err == nil && m.Kind == kindHolder {
			k.holder.Store(m.Holder)
		}
		if !ok || err != nil && !errors.Is(err, errMessage) {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			return
		}
	}
}

// Items returns what was kept when this process began. The files are the caller's from then on; a second call returns nothing.
func (k *Keep) Items() []Item {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.items
	k.items = nil
	return all
}

// Outlives reports whether a holder keeps items that block others when the supervisor ends as well, as far as is known now.
func (k *Keep) Outlives() bool { return k != nil && k.holder.Load() }

// Put has the item kept, in the place of one with the same key. Its files stay the caller's.
func (k *Keep) Put(i Item) error {
	if k == nil {
		return nil
	}
	if err := i.check(); err != nil {
		return err
	}
	return k.send(message{Kind: kindPut, Key: i.Key, Data: i.Data, Blocks: i.Blocks}, i.Files)
}

// Drop ends the keeping of an item.
func (k *Keep) Drop(key string) error { return k.send(message{Kind: kindDrop, Key: key}, nil) }

// Ready says that whatever was kept is served again, or dropped.
func (k *Keep) Ready() error { return k.send(message{Kind: kindReady, Carry: carryVersion}, nil) }

func (k *Keep) send(m message, files []*os.File) error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := send(k.fd, m, files); err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	return nil
}
