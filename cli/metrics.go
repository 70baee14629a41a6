package cli

import (
	"context"
	"net/http"
	"time"
)

const (
	metricsHeaderTimeout = 10 * time.Second
	metricsWriteTimeout  = time.Minute
)

// figures shows the figures of the volumes as they are when they are asked for.
func (d *daemon) figures() http.Handler {
	show := d.set.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		m := d.manager
		d.mu.Unlock()
		if m != nil {
			m.Measure()
		}
		show.ServeHTTP(w, r)
	})
}

// serveMetrics serves the figures on a loopback address until ctx ends. A port that is taken keeps nothing else from working: it is tried
// again until it is free.
func (d *daemon) serveMetrics(ctx context.Context, addr string) {
	log := d.log.With().Str("op", "metrics").Str("listen", addr).Logger()
	var said string
	for {
		l, err := d.keep.listenTCP(addr)
		if err == nil {
			log.Info().Msg("metrics are served")
			mux := http.NewServeMux()
			mux.Handle("GET /metrics", d.figures())
			srv := &http.Server{Handler: mux, ReadHeaderTimeout: metricsHeaderTimeout, WriteTimeout: metricsWriteTimeout, MaxHeaderBytes: 16 << 10}
			stop := context.AfterFunc(ctx, func() { srv.Close() })
			err = srv.Serve(l)
			stop()
		}
		if ctx.Err() != nil {
			return
		}
		if said != err.Error() {
			said = err.Error()
			log.Error().Err(err).Msg("no metrics there; tried again")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryOpen):
		}
	}
}
