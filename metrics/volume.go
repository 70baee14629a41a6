package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Volume is how one volume tells its figures.
type Volume struct {
	name string
	lag  *lag

	fetchSeconds prometheus.Observer
	fetchBytes   prometheus.Counter
	fetchErrors  prometheus.Counter
	remoteBytes  prometheus.Gauge
	remoteFiles  prometheus.Gauge
	fenced       prometheus.Gauge
	opSeconds    prometheus.ObserverVec
}

// Fetched tells that a block of this many bytes was fetched and verified.
func (v *Volume) Fetched(bytes int, took time.Duration) {
	v.fetchSeconds.Observe(took.Seconds())
	v.fetchBytes.Add(float64(bytes))
}

// FetchFailed tells that one attempt to fetch a block failed.
func (v *Volume) FetchFailed() { v.fetchErrors.Inc() }

// SetRemote tells what hydration has left.
func (v *Volume) SetRemote(bytes, files int64) {
	v.remoteBytes.Set(float64(bytes))
	v.remoteFiles.Set(float64(files))
}

// SetFenced tells whether another machine has taken the volume.
func (v *Volume) SetFenced(fenced bool) {
	if fenced {
		v.fenced.Set(1)
	} else {
		v.fenced.Set(0)
	}
}

// BehindSince tells when the oldest change was made that is not published yet; the zero time: none is. The figure
// fractal_upload_lag_seconds is the time that has passed since then when it is read, so it grows while uploads fail and
// nobody calls.
func (v *Volume) BehindSince(t time.Time) { v.lag.set(v.name, t) }

// Op tells that a FUSE request was answered. Kind is one of a fixed set of names in lower case, as "read" or "lookup": each
// makes a series of its own.
func (v *Volume) Op(kind string, took time.Duration) {
	v.opSeconds.WithLabelValues(kind).Observe(took.Seconds())
}
