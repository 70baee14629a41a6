package cli

import (
	"io"
	"net/http"
	"time"
)

// unstalled ends a request whose body stops moving for longer than limit, in either direction. A limit on the whole request would cut off a large
// upload over a slow line; none at all would let a dead peer hold a connection for ever.
func unstalled(h http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		r.Body = &movingBody{ReadCloser: r.Body, rc: rc, limit: limit}
		h.ServeHTTP(&movingWriter{ResponseWriter: w, rc: rc, limit: limit}, r)
		// The next request on this connection has its own limits.
		_ = rc.SetWriteDeadline(time.Time{})
	})
}

type movingBody struct {
	io.ReadCloser
	rc    *http.ResponseController
	limit time.Duration
}

// Read has a deadline only while it runs: one that passed later, while the handler works, would look to the server like a
// connection that was lost, and cancel the request.
func (b *movingBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(b.limit))
	defer b.rc.SetReadDeadline(time.Time{})
	return b.ReadCloser.Read(p)
}

type movingWriter struct {
	http.ResponseWriter
	rc    *http.ResponseController
	limit time.Duration
}

func (w *movingWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.limit))
	return w.ResponseWriter.Write(p)
}

// Flush is there for handlers that stream.
func (w *movingWriter) Flush() { _ = w.rc.Flush() }

// Unwrap lets a http.ResponseController find the writer below.
func (w *movingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
