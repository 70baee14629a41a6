package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"fractal-lazy/volume"
)

// CARType is the media type of a CAR.
const CARType = "application/vnd.ipld.car"

// Export is a CAR that the daemon is writing. Whether it is whole its content tells: read it with archive.Reader.
type Export struct {
	volume.Exported
	Body io.ReadCloser // the caller closes it
	resp *http.Response
}

// Err says what the daemon said of an export that ended early, once Body was read to its end; nil: nothing.
func (e *Export) Err() error {
	var ev Event
	if t := e.resp.Trailer.Get(ErrorTrailer); t != "" && unescape(t, &ev) == nil && ev.Error != "" {
		return &Error{Message: ev.Error, Code: ev.Code}
	}
	return nil
}

// Export begins to read a published snapshot as a CAR.
func (c *Client) Export(ctx context.Context, name string, r ExportRequest) (*Export, error) {
	resp, err := c.send(ctx, "POST", volumePath(name, "/export"), r)
	if err != nil {
		return nil, err
	}
	e := &Export{Body: brokenBody{resp.Body, func(err error) error { return c.broken(ctx, err) }}, resp: resp}
	if err := unescape(resp.Header.Get(ExportHeader), &e.Exported); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: the daemon at %s does not say what it exports", ErrRequest, c.socket)
	}
	return e, nil
}

// Import sends a CAR. Where car returns an error other than io.EOF the import ends with it.
func (c *Client) Import(ctx context.Context, name string, car io.Reader, p func(volume.Progress)) (volume.Imported, error) {
	return stream[volume.Imported](ctx, c, volumePath(name, "/import"), car, p)
}

// Escape is what a header or a trailer has for v.
func Escape(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // types of this API can be marshalled
		panic(err)
	}
	return url.QueryEscape(string(b))
}

func unescape(text string, into any) error {
	s, err := url.QueryUnescape(text)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(s), into)
}

// brokenBody says why a body ended early.
type brokenBody struct {
	io.ReadCloser
	broken func(error) error
}

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.broken(err)
	}
	return n, err
}
