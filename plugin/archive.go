package plugin

import (
	"context"
	"io"
	"net/http"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// cutWith makes reads and writes of a request end with ctx: a client that stands still must not hold up the server's end.
func cutWith(ctx context.Context, w http.ResponseWriter) (stop func() bool) {
	c := http.NewResponseController(w)
	return context.AfterFunc(ctx, func() {
		now := time.Now()
		// What has no deadlines is no connection, and does not stand still.
		_ = c.SetReadDeadline(now)
		_ = c.SetWriteDeadline(now.Add(answerGrace))
	})
}

// export answers with a CAR. An error before its first byte is an answer of its own, a later one stands in the trailer.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	var in control.ExportRequest
	name, begun := r.PathValue("name"), false
	err := s.safely("export", name, func() error {
		if err := decode(r, &in); err != nil {
			return err
		}
		v, err := s.backend.wait(r.Context())
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		defer cutWith(s.ctx, w)()
		err = v.Export(ctx, name, in.Snapshot, func(e volume.Exported) io.Writer {
			begun = true
			w.Header().Set("Content-Type", control.CARType)
			w.Header().Set("Trailer", control.ErrorTrailer)
			w.Header().Set(control.ExportHeader, control.Escape(e))
			return w
		})
		if err != nil {
			err = s.unlessStopping(err)
		}
		return err
	})
	switch {
	case err == nil:
	case !begun:
		writeError(w, err)
	default:
		code, _ := control.Classify(err)
		w.Header().Set(control.ErrorTrailer, control.Escape(control.Event{Error: err.Error(), Code: code}))
		s.opt.Log.Warn().Err(err).Str("op", "export").Str("volume", name).Msg("an export ended early; its reader was told")
	}
}

// drainLimit is how long a client has to see that its import was refused before it has sent everything.
const drainLimit = 10 * time.Second

// importCAR reads a CAR while it tells of its progress.
func (s *Server) importCAR(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	if err := c.EnableFullDuplex(); err != nil {
		writeError(w, err)
		return
	}
	stop := cutWith(s.ctx, w)
	s.stream("import", func(q request) (any, error) { return q.v.Import(q.ctx, q.name, r.Body, q.p) })(w, r)
	if !stop() {
		return
	}
	// A connection that is closed with bytes unread may take the answer along: it is read on until the client has understood.
	_ = c.Flush()
	if c.SetReadDeadline(time.Now().Add(drainLimit)) == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}
