package ipfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"fractal-lazy/store"
)

// rpcError is what Kubo, and a Node, answer where a command fails.
type rpcError struct {
	Message string
	Code    int
	Type    string
}

// statusError turns an answer other than 200 into an error.
func (c *client) statusError(res *http.Response, what string) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, 16<<10))
	text := strings.TrimSpace(string(body))
	fromRPC := false
	var e rpcError
	if json.Unmarshal(body, &e) == nil && e.Message != "" {
		text, fromRPC = e.Message, true
	}
	var class error
	switch code := res.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%s: %w (status %d)", what, store.ErrDenied, code)
	case fromRPC:
		class = classOf(text)
	case code == http.StatusNotFound || code == http.StatusGone:
		class = store.ErrNotFound
		if strings.HasPrefix(what, "/api/") {
			// The command is not there; that says nothing of a block.
			class = store.ErrUnavailable
		}
	default:
		class = store.ErrUnavailable
	}
	return fmt.Errorf("%s: %w: status %d: %s", what, class, res.StatusCode, c.clean(text))
}

// trailerError returns what a server that had already answered 200 found out
// later; to be called when the body was read to its end.
func (c *client) trailerError(res *http.Response, what string) error {
	if text := res.Trailer.Get("X-Stream-Error"); text != "" {
		return fmt.Errorf("%s: %w: %s", what, classOf(text), c.clean(text))
	}
	return nil
}

// classOf tells by its text what a failed command means, since Kubo answers
// all of them with status 500 and code 0. The texts are those of Kubo 0.44
// and of Node (see errors of node_rpc.go), which keeps to them.
func classOf(text string) error {
	switch {
	case strings.Contains(text, "not pinned"), // pin/rm, pin/ls
		strings.Contains(text, "'from' cid was not recursively pinned"): // pin/update
		return store.ErrNotPinned
	case strings.Contains(text, "ipld: could not find"),
		strings.Contains(text, "block was not found locally"):
		return store.ErrNotFound
	case strings.Contains(text, "mismatch in content integrity"):
		return store.ErrCorrupt
	case strings.Contains(text, "produced block is over"),
		strings.Contains(text, "big blocks can't be exchanged"):
		return store.ErrTooLarge
	}
	return store.ErrUnavailable
}

// transportError classes a call that got no answer. The end of the caller's
// context passes as itself.
func transportError(ctx context.Context, what string, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s: %w", what, cause)
	}
	// url.Error repeats the whole URL; the path is named already.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return fmt.Errorf("%s: %w: %w", what, store.ErrUnavailable, err)
}

// clean makes a server's text fit to be shown; it may repeat what it was sent.
func (c *client) clean(text string) string {
	if c.token != "" {
		text = strings.ReplaceAll(text, c.token, "[token]")
	}
	return shorten(text)
}

func shorten(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\n", " "), "?")
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "..."
	}
	return text
}
