package faulty

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"
)

// Handler wraps the handler of a block node. Rules for Get apply to the
// requests of blocks (GET /ipfs/{cid}); all others pass as they are.
func (f *Faults) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := blockOf(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		f.count(c)
		a := f.meet(Get, c)
		if a == nil {
			// Buffered all the same: Replay wants the bytes.
			good := record(next, r)
			if good.status == http.StatusOK {
				f.remember(good.body.Bytes())
			}
			good.send(w, good.body.Len())
			return
		}
		a.wait(r.Context().Done())
		if r.Context().Err() != nil {
			return
		}
		a.rule.Fault.serve(f, w, r, next)
	})
}

func blockOf(r *http.Request) (cid.Cid, bool) {
	text, ok := strings.CutPrefix(r.URL.Path, "/ipfs/")
	if r.Method != http.MethodGet || !ok || strings.Contains(text, "/") {
		return cid.Undef, false
	}
	c, err := cid.Decode(text)
	return c, err == nil
}

func (t *Fault) serve(f *Faults, w http.ResponseWriter, r *http.Request, next http.Handler) {
	if t.err != nil && !t.cut {
		status := t.status
		if status == 0 {
			status = http.StatusInternalServerError
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	if t.swap.Defined() {
		r = r.Clone(r.Context())
		r.URL.Path = "/ipfs/" + t.swap.String()
	}
	res := record(next, r)
	whole := res.body.Len()
	body := res.body.Bytes()
	if t.change != nil {
		body = t.change(bytes.Clone(body))
	}
	if t.replay {
		body = f.replay()
	}
	res.body = *bytes.NewBuffer(body)
	if t.cut {
		res.send(w, whole)
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		panic(http.ErrAbortHandler) // how a handler ends its connection
	}
	res.send(w, len(body))
}

// answer is a response held back.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func record(next http.Handler, r *http.Request) *answer {
	a := &answer{header: http.Header{}, status: http.StatusOK}
	next.ServeHTTP(a, r)
	return a
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// send writes the answer; announced is its Content-Length.
func (a *answer) send(w http.ResponseWriter, announced int) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(announced))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // who hung up does not read it
}
