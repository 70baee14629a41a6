package ipfs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"fractal-lazy/store"
)

// Options of a Client.
type Options struct {
	// RPC is the URL of a Kubo RPC API (http://127.0.0.1:5001) or of a Node.
	// Gateway is the URL of the gateway to read from; where empty it is RPC,
	// which is right for a Node and wrong for a Kubo daemon.
	RPC, Gateway string

	// Token is sent as a bearer token to both. It never shows up in an error.
	Token string

	// HTTP is the client to use; nil makes one with keep-alive over HTTP/1.1
	// and 64 idle connections a host. Its CheckRedirect is replaced.
	HTTP *http.Client

	// PinStall is how long a Pin may pass without progress before it fails
	// with store.ErrNotFound: a Kubo daemon looks for a missing block in its
	// network and would wait for ever. (Before the first block it fails with
	// store.ErrUnavailable: a collection keeps pins waiting.) The zero value
	// is 30 seconds. PinUpdate, Pinned and Unpin, which report no progress, may
	// take ten times as long, as may a PutMany of which the server takes nothing
	// more, or whose answer does not come: then they fail with store.ErrUnavailable.
	PinStall time.Duration

	// GetStall is how long a Get may pass without a byte before it fails with
	// store.ErrUnavailable, so that the caller can ask again on another
	// connection: a server may hold a request for ever and still keep its
	// connection alive. The same holds for each block that a Has asks for. The
	// zero value is 30 seconds.
	GetStall time.Duration
}

const (
	connsPerHost    = 64      // idle connections kept; the hydrator has up to 64 gets in flight
	statsInFlight   = 16      // block/stat calls of one Has
	maxAnswer       = 1 << 20 // bytes of an RPC answer that are read, a line of a stream included
	maxErrorText    = 512     // bytes of a server's message that an error carries
	defaultPinStall = 30 * time.Second
	defaultGetStall = 30 * time.Second
)

// client implements store.Store over HTTP.
type client struct {
	rpc, gateway *url.URL
	token        string
	http         *http.Client
	pinStall     time.Duration
	getStall     time.Duration
}

var _ store.Store = (*client)(nil)

// NewClient returns a store on a Kubo daemon or on a Node: blocks are read
// as raw blocks from the gateway, written as one CAR stream to dag/import,
// and pins move by pin/update. It opens no connection before the first call.
func NewClient(opt Options) (store.Store, error) {
	rpc, err := parseBase(opt.RPC)
	if err != nil {
		return nil, fmt.Errorf("URL of the IPFS RPC API: %w", err)
	}
	gateway := rpc
	if opt.Gateway != "" {
		if gateway, err = parseBase(opt.Gateway); err != nil {
			return nil, fmt.Errorf("URL of the IPFS gateway: %w", err)
		}
	}
	if strings.ContainsAny(opt.Token, "\r\n") {
		return nil, errors.New("the token of the IPFS node has a line break")
	}
	hc := &http.Client{Transport: transport()}
	if opt.HTTP != nil {
		cp := *opt.HTTP // the caller's own is not changed
		hc = &cp
	}
	hc.CheckRedirect = sameHost
	c := &client{rpc: rpc, gateway: gateway, token: opt.Token, http: hc, pinStall: opt.PinStall}
	if c.pinStall <= 0 {
		c.pinStall = defaultPinStall
	}
	if c.getStall = opt.GetStall; c.getStall <= 0 {
		c.getStall = defaultGetStall
	}
	return c, nil
}

// transport speaks HTTP/1.1 only: one TCP connection for each block in
// flight was faster than streams within one.
func transport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{
			Timeout:         10 * time.Second,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
			Control:         forgetDead,
		}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConns:          2 * connsPerHost,
		MaxIdleConnsPerHost:   connsPerHost,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
		DisableCompression:    true, // sealed bytes do not compress
	}
}

// deadAfter is how long the other side may leave what was sent to it
// unacknowledged. A peer that is only slow acknowledges.
const deadAfter = 30 * time.Second

// forgetDead makes a connection fail whose other side is gone without a
// word, as after a router's restart. Linux would try for a quarter of an hour,
// and a block that was asked for would not be asked for again.
func forgetDead(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter/time.Millisecond))
	})
	return errors.Join(err, set)
}

func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL") // the text of err would repeat a password in it
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("must be http://host or https://host")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("must have no user, query or fragment")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// sameHost keeps the token where it was meant to go: a redirect to another
// host, or from https to http, is not followed.
func sameHost(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return fmt.Errorf("redirected to another host (%s)", req.URL.Host)
	}
	if len(via) >= 5 {
		return errors.New("more than 5 redirects")
	}
	return nil
}

// Get implements store.Store.
func (c *client) Get(ctx context.Context, id cid.Cid) ([]byte, error) {
	if err := store.Check(id); err != nil {
		return nil, err
	}
	u := *c.gateway
	u.Path += "/ipfs/" + id.String()
	u.RawQuery = "format=raw"
	getCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.getStall, func() { cancel(errStalled) })
	defer stall.Stop()
	req, err := c.request(getCtx, http.MethodGet, &u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.ipld.raw")
	if u.Scheme == "http" && u.Hostname() == "localhost" {
		// Under the name localhost a Kubo gateway redirects every CID to a
		// host name of its own, for browsers; under an address it answers.
		req.Host = strings.Replace(u.Host, "localhost", "127.0.0.1", 1)
	}
	failed := func(err error) error { return transportError(ctx, u.Path, stalled(getCtx, err)) }
	res, err := c.http.Do(req)
	if err != nil {
		return nil, failed(err)
	}
	res.Body = &moving{res.Body, func() { stall.Reset(c.getStall) }}
	defer drain(res.Body)
	if res.StatusCode != http.StatusOK {
		return nil, c.statusError(res, u.Path)
	}
	data, err := readBlock(res)
	if err != nil {
		if errors.Is(err, store.ErrTooLarge) {
			return nil, fmt.Errorf("GET %s: %w", u.Path, err)
		}
		return nil, failed(err)
	}
	if err := store.Verify(id, data); err != nil {
		return nil, fmt.Errorf("GET %s: %w", u.Path, err)
	}
	return data, nil
}

// stalled is err, or errStalled where that ended own: and not "context canceled", which nobody has.
func stalled(own context.Context, err error) error {
	if cause := context.Cause(own); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// moving is a body that tells of every byte that arrives.
type moving struct {
	io.ReadCloser
	arrived func()
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if n > 0 {
		m.arrived()
	}
	return n, err
}

// readBlock reads a body of at most store.MaxBlock bytes.
func readBlock(res *http.Response) ([]byte, error) {
	n := res.ContentLength
	if n > store.MaxBlock {
		return nil, store.ErrTooLarge
	}
	if n >= 0 {
		data := make([]byte, n)
		_, err := io.ReadFull(res.Body, data)
		return data, err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, store.MaxBlock+1))
	if err == nil && len(data) > store.MaxBlock {
		err = store.ErrTooLarge
	}
	return data, err
}

// Has implements store.Store: block/stat of each, some at a time.
func (c *client) Has(ctx context.Context, cids []cid.Cid) ([]bool, error) {
	out := make([]bool, len(cids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statsInFlight)
	for i, id := range cids {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err // another one failed
			}
			err := c.call(ctx, c.getStall, "block/stat", url.Values{"arg": {id.String()}, "offline": {"true"}}, nil)
			out[i] = err == nil
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// Unpin implements store.Store.
func (c *client) Unpin(ctx context.Context, root cid.Cid) error {
	err := c.call(ctx, c.slowly(), "pin/rm", url.Values{"arg": {root.String()}, "offline": {"true"}}, nil)
	if errors.Is(err, store.ErrNotPinned) {
		return nil
	}
	return err
}

// Pinned implements store.Store.
func (c *client) Pinned(ctx context.Context, root cid.Cid) (bool, error) {
	var answer struct {
		Keys map[string]struct{ Type string }
	}
	err := c.call(ctx, c.slowly(), "pin/ls", url.Values{"arg": {root.String()}, "type": {"recursive"}, "offline": {"true"}}, &answer)
	if errors.Is(err, store.ErrNotPinned) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return answer.Keys[root.String()].Type == "recursive", nil
}

// slowly bounds what may wait for a collection or walk a graph, and tells of no progress meanwhile.
func (c *client) slowly() time.Duration { return 10 * c.pinStall }

// call does one RPC whose answer is one JSON object, decoded into out unless
// that is nil. It takes limit at most: no answer by then is store.ErrUnavailable.
func (c *client) call(ctx context.Context, limit time.Duration, command string, args url.Values, out any) error {
	own, cancel := context.WithTimeoutCause(ctx, limit, errStalled)
	defer cancel()
	req, err := c.rpcRequest(own, command, args, nil)
	if err != nil {
		return err
	}
	what := rpcName(command, args)
	failed := func(err error) error { return transportError(ctx, what, stalled(own, err)) }
	res, err := c.http.Do(req)
	if err != nil {
		return failed(err)
	}
	defer drain(res.Body)
	if res.StatusCode != http.StatusOK {
		return c.statusError(res, what)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return failed(err)
	}
	if err := c.trailerError(res, what); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s: %w: answer is no JSON", what, store.ErrUnavailable)
	}
	return nil
}

func (c *client) rpcRequest(ctx context.Context, command string, args url.Values, body io.Reader) (*http.Request, error) {
	u := *c.rpc
	u.Path += "/api/v0/" + command
	u.RawQuery = args.Encode()
	return c.request(ctx, http.MethodPost, &u, body)
}

func (c *client) request(ctx context.Context, method string, u *url.URL, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.Path, err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// rpcName is a call as errors show it: path and CIDs.
func rpcName(command string, args url.Values) string {
	return strings.Join(append([]string{"/api/v0/" + command}, args["arg"]...), " ")
}

// drain reads what little is left so that the connection can be used again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}
