package ipfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// The RPC half of a Node: the commands of Kubo's /api/v0 that are listed
// here, with Kubo's arguments, answers, status codes and error texts as far
// as they go. What is left out: block/rm, everything of UnixFS, MFS, IPNS and
// the network. Options that make no difference here are ignored.

const (
	maxArgs     = 1024    // arguments of one call
	maxBlockPut = 2 << 20 // Kubo's own limit of a block
	streamError = "X-Stream-Error"
)

// command answers one call. An error that it returns becomes the answer, or,
// when the answer has begun, the trailer.
type command func(*call) error

func (n *Node) rpc() http.Handler {
	mux := http.NewServeMux()
	for name, run := range map[string]command{
		"block/put":  n.blockPut,
		"block/get":  n.blockGet,
		"block/stat": n.blockStat,
		"dag/import": n.dagImport,
		"pin/add":    n.pinAdd,
		"pin/rm":     n.pinRm,
		"pin/ls":     n.pinLs,
		"pin/update": n.pinUpdate,
		"repo/gc":    n.repoGC,
		"repo/stat":  n.repoStat,
		"version":    n.version,
		"id":         n.identity,
	} {
		mux.HandleFunc("/api/v0/"+name, func(w http.ResponseWriter, r *http.Request) { serve(w, r, run) })
	}
	return mux
}

func serve(w http.ResponseWriter, r *http.Request, run command) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "405 - Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	c := &call{w: w, r: r, q: q}
	if err != nil {
		err = argumentError{errors.New("malformed query")}
	} else {
		err = run(c)
	}
	if err != nil {
		c.fail(err)
	}
}

// call is one request under way.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	q       url.Values
	started bool // the status was sent
}

// argumentError is the caller's mistake: status 400.
type argumentError struct{ error }

func (e argumentError) Unwrap() error { return e.error }

func (c *call) start(contentType string) {
	if c.started {
		return
	}
	c.started = true
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Trailer", streamError)
}

// emit writes one line of the answer and sends it off.
func (c *call) emit(v any) error {
	c.start("application/json")
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := c.w.Write(append(line, '\n')); err != nil {
		return err
	}
	if f, ok := c.w.(http.Flusher); ok {
		f.Flush()
	}
	return nil
}

func (c *call) fail(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	if c.started {
		c.w.Header().Set(streamError, text)
		return
	}
	answer := rpcError{Message: text, Type: "error"}
	status := http.StatusInternalServerError
	var arg argumentError
	if errors.As(err, &arg) {
		answer.Code, status = 1, http.StatusBadRequest
	}
	c.started = true
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_ = json.NewEncoder(c.w).Encode(answer) // who does not read it has hung up
}

// flag returns a boolean option.
func (c *call) flag(name string, otherwise bool) (bool, error) {
	if !c.q.Has(name) {
		return otherwise, nil
	}
	s := c.q.Get(name)
	if s == "" { // ?force
		return true, nil
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, argumentError{fmt.Errorf("option %q is no boolean", name)}
	}
	return v, nil
}

// cids returns the arguments, at least low of them.
func (c *call) cids(low, high int) ([]cid.Cid, error) {
	args := c.q["arg"]
	if len(args) < low {
		return nil, argumentError{errors.New(`argument "ipfs-path" is required`)}
	}
	if len(args) > high {
		return nil, argumentError{fmt.Errorf("more than %d arguments", high)}
	}
	out := make([]cid.Cid, 0, len(args))
	for _, a := range args {
		id, err := cid.Decode(strings.TrimPrefix(a, "/ipfs/"))
		if err != nil {
			return nil, argumentError{fmt.Errorf("invalid path %q: %w", shorten(a), err)}
		}
		if err := store.Check(id); err != nil {
			return nil, argumentError{err}
		}
		out = append(out, id)
	}
	return out, nil
}

func (n *Node) version(c *call) error {
	version, commit := "devel", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	return c.emit(map[string]string{
		"Version": version,
		"Commit":  commit,
		"Repo":    "1",
		"System":  runtime.GOARCH + "/" + runtime.GOOS,
		"Golang":  runtime.Version(),
	})
}

func (n *Node) identity(c *call) error {
	return c.emit(map[string]any{
		"ID":           n.id,
		"PublicKey":    "",
		"Addresses":    []string{}, // nothing listens but HTTP
		"AgentVersion": "fractal-lazy",
		"Protocols":    []string{},
	})
}
