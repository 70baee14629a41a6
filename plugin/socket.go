package plugin

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// listener is a unix socket with mode 0600 that knows its connections, since the plugin helper's server cannot be shut down.
type listener struct {
	*net.UnixListener
	path string
	made os.FileInfo // the socket's file

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// listen makes the socket at path, and its folder where there is none.
//
// Order: 1. a socket that somebody answers on is left alone; 2. the new one is made beside it and gets its mode; 3. it is renamed into place,
// which also removes what a crash left. Nobody ever sees the socket with another mode.
func listen(path string) (*listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("another daemon listens on %s: stop it, or choose another --socket", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s exists and is not a socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("folder of the socket: %w", err)
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	u.SetUnlinkOnClose(false) // it would remove the name that it was made with
	made, err := publish(fresh, path)
	if err != nil {
		u.Close()
		os.Remove(fresh)
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return &listener{UnixListener: u, path: path, made: made, conns: map[*conn]struct{}{}}, nil
}

// adopt goes on listening with what a process before this one listened with, if path still leads to it.
func adopt(path string, file *os.File, made Made) (*listener, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if now := madeOf(st); now != made {
		return nil, fmt.Errorf("%s is another socket now", path)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("what was kept of %s is no socket of its kind", path)
	}
	return &listener{UnixListener: u, path: path, made: st, conns: map[*conn]struct{}{}}, nil
}

// Made tells one socket's file from another one in its place.
type Made struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

func madeOf(st os.FileInfo) Made {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return Made{Dev: uint64(sys.Dev), Ino: sys.Ino}
	}
	return Made{}
}

func publish(fresh, path string) (os.FileInfo, error) {
	if err := os.Chmod(fresh, 0o600); err != nil {
		return nil, err
	}
	made, err := os.Lstat(fresh)
	if err != nil {
		return nil, err
	}
	return made, os.Rename(fresh, path)
}

// Accept takes the next connection and remembers it until it is closed.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.UnixListener.Accept()
	if err != nil {
		return nil, err
	}
	t := &conn{Conn: c, l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[t] = struct{}{}
	return t, nil
}

// Close stops listening and removes the socket's file where it is still this one. Connections stay.
func (l *listener) Close() error {
	if st, err := os.Lstat(l.path); err == nil && os.SameFile(st, l.made) {
		os.Remove(l.path)
	}
	err := l.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// closeConns closes every connection, those that owe an answer only after it, or after limit.
func (l *listener) closeConns(limit time.Duration) {
	for end := time.Now().Add(limit); l.owing() && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond)
	}
	for _, c := range l.all() {
		c.Close()
	}
}

func (l *listener) all() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.conns))
}

func (l *listener) owing() bool {
	return slices.ContainsFunc(l.all(), func(c *conn) bool { return c.owes.Load() })
}

type conn struct {
	net.Conn
	l    *listener
	owes atomic.Bool // something was read, and nothing written since
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.owes.Store(true)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.owes.Store(false)
	return n, err
}

func (c *conn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}
