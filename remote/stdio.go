package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Where each service stands below the one origin that a stream has.
const (
	hivePath    = "/hive"
	rpcPath     = "/rpc"
	gatewayPath = "/gateway"
	origin      = "http://remote"
)

// Upstream is what `receive` hands requests on to.
type Upstream struct{ Hive, IPFS, Gateway, Token string }

// Serve answers HTTP/2 on one stream until it ends or ctx does. It is the far side of a Link.
func Serve(ctx context.Context, stream io.ReadWriteCloser, up Upstream) error {
	h, err := up.handler()
	if err != nil {
		return err
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	l := newOneListener(stream)
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (up Upstream) handler() (http.Handler, error) {
	if up.Gateway == "" {
		up.Gateway = up.IPFS
	}
	mux := http.NewServeMux()
	for path, base := range map[string]string{hivePath: up.Hive, rpcPath: up.IPFS, gatewayPath: up.Gateway} {
		if base == "" {
			return nil, errors.New("the driver here has no Hive or no block store: set FRACTAL_HIVE and FRACTAL_IPFS")
		}
		u, err := url.Parse(base)
		if err != nil {
			return nil, errors.New("the driver here has a Hive or a block store at something that is no URL")
		}
		mux.Handle(path+"/", http.StripPrefix(path, proxy(u, up.Token)))
	}
	return mux, nil
}

// proxy hands requests on with the token of this machine.
func proxy(u *url.URL, token string) http.Handler {
	return &httputil.ReverseProxy{
		FlushInterval: -1, // pin/add tells its progress as it goes
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Header.Del("Authorization")
			if token != "" {
				r.Out.Header.Set("Authorization", "Bearer "+token)
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the machine behind ssh: "+err.Error(), http.StatusBadGateway)
		},
	}
}

// Link is the near side: URLs, and the client that reaches them.
type Link struct {
	Hive, IPFS, Gateway string
	HTTP                *http.Client

	close func() error
	said  func() string // what the far side wrote to its standard error
}

// NewLink speaks to a Serve at the other end of stream.
func NewLink(stream io.ReadWriteCloser) *Link {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	one := make(chan net.Conn, 1)
	one <- &streamConn{ReadWriteCloser: stream}
	t := &http.Transport{
		Protocols: &protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-one:
				return c, nil
			default:
				return nil, fmt.Errorf("%w: the connection has ended", ErrConnect)
			}
		},
	}
	return &Link{Hive: origin + hivePath, IPFS: origin + rpcPath, Gateway: origin + gatewayPath, HTTP: &http.Client{Transport: t},
		close: func() error { t.CloseIdleConnections(); return stream.Close() }}
}

// Close ends the connection.
func (l *Link) Close() error { return l.close() }

// Explain adds to an error of a call over l what the other machine said.
func (l *Link) Explain(err error) error {
	if err == nil || l.said == nil || l.said() == "" {
		return err
	}
	return fmt.Errorf("%w; the other machine says: %s", err, l.said())
}

// oneListener accepts one stream, and ends when that is closed.
type oneListener struct {
	conn chan net.Conn
	done chan struct{}
	once sync.Once
}

func newOneListener(stream io.ReadWriteCloser) *oneListener {
	l := &oneListener{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- &streamConn{ReadWriteCloser: stream, onClose: l.end}
	return l
}

func (l *oneListener) end() { l.once.Do(func() { close(l.done) }) }

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	default:
	}
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, io.EOF
	}
}

func (l *oneListener) Close() error   { l.end(); return nil }
func (l *oneListener) Addr() net.Addr { return streamAddr{} }

// streamConn makes a net.Conn of a stream. Deadlines do nothing: whoever holds the other end may be slow, and its end ends all.
type streamConn struct {
	io.ReadWriteCloser
	onClose func()
}

func (c *streamConn) Close() error {
	err := c.ReadWriteCloser.Close()
	if c.onClose != nil {
		c.onClose()
	}
	return err
}

func (c *streamConn) LocalAddr() net.Addr              { return streamAddr{} }
func (c *streamConn) RemoteAddr() net.Addr             { return streamAddr{} }
func (c *streamConn) SetDeadline(time.Time) error      { return nil }
func (c *streamConn) SetReadDeadline(time.Time) error  { return nil }
func (c *streamConn) SetWriteDeadline(time.Time) error { return nil }

type streamAddr struct{}

func (streamAddr) Network() string { return "stdio" }
func (streamAddr) String() string  { return "stdio" }

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const maxSaid = 512 // bytes

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf); n > maxSaid {
		t.buf = t.buf[n-maxSaid:]
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
}
