package hive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

// Bounds of what the client believes, in bytes, and of how long it waits for one answer.
const (
	maxList        = 16 << 20 // about 128,000 hashes
	maxVolumeJSON  = 4 << 10
	maxReason      = 4 << 10
	requestTimeout = 60 * time.Second
)

// Client speaks the Fractal storage API. Safe for concurrent use. It does not retry, and it follows no redirect, so the token
// reaches no host but the one it was made for.
//
// Errors wrap one of this package's sentinels and name the volume and the operation; those of a call whose context ended wrap the
// context's error instead. No error contains the token.
type Client struct {
	base  string // without a slash at its end
	token string
	hc    *http.Client
}

// NewClient makes a client of the Hive at base, an http or https URL without /api/v1. Of hc, which may be nil, the transport, the
// cookies and the time-out are used; without a time-out one request may take a minute.
func NewClient(base, token string, hc *http.Client) (*Client, error) {
	// The errors of url.Parse quote the URL, which may hold a password: none of them is passed on.
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("the Hive's URL is not of the form http(s)://host[:port][/path]")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the Hive's URL must not hold a user, a query or a fragment")
	}
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the Hive's token is empty or holds characters that no header may")
	}
	own := http.Client{}
	if hc != nil {
		own = *hc
	} else {
		own.Transport = defaultTransport()
	}
	if own.Timeout == 0 {
		own.Timeout = requestTimeout
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: strings.TrimRight(u.String(), "/"), token: token, hc: &own}, nil
}

// defaultTransport keeps as many idle connections as Latest and All use at once; net/http keeps two.
func defaultTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    inFlight,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// Health asks whether the Hive answers at all; it sends no token.
func (c *Client) Health(ctx context.Context) error {
	_, _, err := c.do(ctx, request{op: "ask the Hive's health", method: http.MethodGet, path: "/health", anonymous: true, most: maxReason})
	return err
}

// Time asks what time it is at the Hive: the Date of its answer, whatever that is. ErrUnavailable where there is none. Like Health it sends no token.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	r := request{op: "ask the Hive's time", path: "/health", anonymous: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+r.path, nil)
	if err != nil {
		return time.Time{}, r.errorf(ErrUnavailable, "%s", c.clean(err.Error()))
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		return time.Time{}, c.transportError(ctx, r, err)
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, r.errorf(ErrUnavailable, "the answer has no Date")
	}
	return at, nil
}

// Create makes the volume known to the Hive. A volume that this account has already is no error.
func (c *Client) Create(ctx context.Context, p seal.Pubkey) error {
	_, _, err := c.do(ctx, request{op: "create volume", volume: p, method: http.MethodPost, path: volumePath(p), most: maxReason})
	return err
}

// Volume returns what the Hive says of a volume; ErrNotFound where it knows none.
func (c *Client) Volume(ctx context.Context, p seal.Pubkey) (Volume, error) {
	r := request{op: "look up volume", volume: p, method: http.MethodGet, path: volumePath(p), most: maxVolumeJSON}
	body, _, err := c.do(ctx, r)
	if err != nil {
		return Volume{}, err
	}
	var v struct {
		Account *uuid.UUID `json:"account"`
		Writer  *uuid.UUID `json:"writer"`
	}
	if err := json.Unmarshal(body, &v); err != nil || v.Account == nil {
		return Volume{}, r.errorf(ErrUnavailable, "the answer is not that of a volume")
	}
	return Volume{Account: *v.Account, Writer: v.Writer}, nil
}

// SetWriter makes w the one machine whose manifests are taken; nil sets the volume free. The API has no compare-and-set: of two
// machines that both saw the volume free and both took it, the later one has it, and the other learns so from Volume or Post.
func (c *Client) SetWriter(ctx context.Context, p seal.Pubkey, w *uuid.UUID) error {
	body, err := json.Marshal(map[string]*uuid.UUID{"writer": w})
	if err != nil {
		return fmt.Errorf("set writer: %w", err)
	}
	_, _, err = c.do(ctx, request{op: "set writer", volume: p, method: http.MethodPatch, path: volumePath(p), body: body, json: true, most: maxReason})
	return err
}

// Delete removes the volume and all its manifests from the Hive; ErrNotFound where it knows none.
func (c *Client) Delete(ctx context.Context, p seal.Pubkey) error {
	_, _, err := c.do(ctx, request{op: "delete volume", volume: p, method: http.MethodDelete, path: volumePath(p), most: maxReason})
	return err
}

// Forget removes one manifest from the Hive, which is not in the original API: ErrUnsupported where the Hive cannot. One that is
// not there is no error. The newest one is refused (ErrRejected).
func (c *Client) Forget(ctx context.Context, p seal.Pubkey, h Hash) error {
	r := request{op: "remove manifest", volume: p, method: http.MethodDelete, path: volumePath(p) + "/" + h.String(), most: maxReason, unsupported: true}
	_, _, err := c.do(ctx, r)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	// It may be gone, or the path unknown.
	if _, merr := c.Manifest(ctx, p, h); errors.Is(merr, ErrNotFound) {
		return nil
	} else if merr != nil {
		return merr
	}
	return r.errorf(ErrUnsupported, "it knows no such call")
}

// Post publishes a signed manifest and returns its hash. The same manifest again is no error, so that a Post whose answer was
// lost can be repeated. A manifest that Open refuses is not sent.
func (c *Client) Post(ctx context.Context, p seal.Pubkey, signed []byte) (Hash, error) {
	r := request{op: "post manifest", volume: p, method: http.MethodPost, path: volumePath(p) + "/snapshot", body: signed, want: http.StatusSeeOther, most: maxReason}
	m, err := Open(p, signed)
	if err != nil {
		return Hash{}, fmt.Errorf("%s of volume %s: %w", r.op, p, err)
	}
	want := m.Hash()
	_, location, err := c.do(ctx, r)
	if err != nil {
		return Hash{}, err
	}
	// The redirect is read and not followed: it could lead anywhere, and all that is to be learnt from it is the hash.
	path, _, _ := strings.Cut(location, "?")
	got, err := ParseHash(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		return Hash{}, r.errorf(ErrUnavailable, "the answer's Location names no manifest")
	}
	if got != want {
		return Hash{}, r.errorf(ErrHash, "posted %s, the Hive took it for %s", want, got)
	}
	return want, nil
}

// Snapshots lists hashes: all (parent nil, root false), the children of parent, or those without a parent. The order is the Hive's.
func (c *Client) Snapshots(ctx context.Context, p seal.Pubkey, parent *Hash, root bool) ([]Hash, error) {
	q := url.Values{}
	if parent != nil {
		q.Set("parent", parent.String())
	}
	if root {
		q.Set("root", "true")
	}
	r := request{op: "list manifests", volume: p, method: http.MethodGet, path: volumePath(p) + "/snapshots", query: q, most: maxList}
	body, _, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	var list []Hash
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, r.errorf(ErrUnavailable, "the answer is not a list of hashes")
	}
	return list, nil
}

// Manifest returns one manifest, its signature and hash checked. The error is ErrNotFound, ErrSignature, ErrHash or ErrFormat
// where it is the manifest that is wrong.
func (c *Client) Manifest(ctx context.Context, p seal.Pubkey, h Hash) (*Manifest, error) {
	r := request{op: "get manifest", volume: p, method: http.MethodGet, path: volumePath(p) + "/" + h.String(), most: maxSigned}
	body, _, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	m, err := Open(p, body)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", h, err)
	}
	if got := m.Hash(); got != h {
		return nil, fmt.Errorf("manifest %s of volume %s: %w: %s", h, p, ErrHash, got)
	}
	return m, nil
}

func volumePath(p seal.Pubkey) string { return apiPrefix + "/volume/" + p.String() }

// request is one call of the API.
type request struct {
	op        string // for errors
	volume    seal.Pubkey
	method    string
	path      string
	query     url.Values
	body      []byte
	json      bool // the body is JSON
	anonymous bool // without the token
	want      int  // the status of success; zero: 200
	most      int  // bytes of the answer's body

	unsupported bool // not every Hive has the call
}

func (r request) errorf(kind error, format string, args ...any) error {
	what := r.op
	if !r.anonymous {
		what += " of volume " + r.volume.String()
	}
	return fmt.Errorf("%s: %w: %s", what, kind, fmt.Sprintf(format, args...))
}

// do returns the body and the Location of an answer that has the wanted status, and an error of everything else.
func (c *Client) do(ctx context.Context, r request) (body []byte, location string, err error) {
	u := c.base + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, bytes.NewReader(r.body))
	if err != nil {
		return nil, "", r.errorf(ErrUnavailable, "%s", c.clean(err.Error()))
	}
	if !r.anonymous {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	switch {
	case r.json:
		req.Header.Set("Content-Type", "application/json")
	case len(r.body) > 0:
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		return nil, "", c.transportError(ctx, r, err)
	}
	defer resp.Body.Close()
	want := r.want
	if want == 0 {
		want = http.StatusOK
	}
	if resp.StatusCode != want {
		return nil, "", c.statusError(ctx, r, resp)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, int64(r.most)+1))
	if err != nil {
		return nil, "", c.transportError(ctx, r, err)
	}
	if len(body) > r.most {
		return nil, "", r.errorf(ErrUnavailable, "the answer is longer than %d bytes", r.most)
	}
	return body, resp.Header.Get("Location"), nil
}

// transportError wraps what went wrong below HTTP. The caller's own end of patience is not the Hive's fault.
func (c *Client) transportError(ctx context.Context, r request, err error) error {
	if ctx.Err() != nil {
		return r.errorf(ctx.Err(), "no answer yet")
	}
	// url.Error repeats the URL and the method; what it wraps is what happened.
	var ue *url.Error
	if errors.As(err, &ue) {
		if ue.Timeout() {
			return r.errorf(ErrUnavailable, "no answer in time")
		}
		err = ue.Err
	}
	return r.errorf(ErrUnavailable, "%s", c.clean(err.Error()))
}

// statusError turns an unwanted status into a sentinel with the reason that the Hive gave.
func (c *Client) statusError(ctx context.Context, r request, resp *http.Response) error {
	reason := c.reason(resp)
	if ctx.Err() != nil {
		return r.errorf(ctx.Err(), "no answer yet")
	}
	s := resp.StatusCode
	kind := ErrUnavailable
	switch {
	case s >= 300 && s < 400:
		// Most likely a wrong URL (http for https) or a proxy's log-in page: nothing that the API would say here.
		reason = "it redirects, which is not followed; check the Hive's URL"
	case s == http.StatusNotFound:
		kind = ErrNotFound
	case r.unsupported && (s == http.StatusMethodNotAllowed || s == http.StatusNotImplemented):
		kind = ErrUnsupported
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		kind = ErrDenied
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests:
		// Passing states, not a verdict on the request.
	case s >= 400 && s < 500:
		kind = ErrRejected
	}
	return r.errorf(kind, "%s (status %d)", reason, s)
}

// reason reads why the Hive refused: the text of the body, or the "error" of a JSON object.
func (c *Client) reason(resp *http.Response) string {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // a reason cut short is still a reason
	var o struct {
		Error string `json:"error"`
	}
	text := string(b)
	if json.Unmarshal(b, &o) == nil && o.Error != "" {
		text = o.Error
	}
	if text = c.clean(text); text == "" {
		text = "no reason given"
	}
	return text
}

// clean makes foreign text fit for an error: one line, printable, at most 300 characters, without the token, should a server
// or a proxy echo it.
func (c *Client) clean(text string) string {
	text = strings.ReplaceAll(text, c.token, "[token]")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.TrimSpace(text)
	if rs := []rune(text); len(rs) > 300 {
		text = string(rs[:300]) + "..."
	}
	return text
}
