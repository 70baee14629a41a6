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
	synchronized prometheus.Gauge
	opSeconds    prometheus.ObserverVec

	fetchShared    prometheus.Counter
	waitSeconds    prometheus.Observer
	cacheHits      *prometheus.CounterVec
	cacheMisses    *prometheus.CounterVec
	uploadSeconds  prometheus.Observer
	uploadBytes    prometheus.Counter
	uploadFailures prometheus.Counter
}

// Fetched tells that a block of this many bytes was fetched and verified.
func (v *Volume) Fetched(bytes int, took time.Duration) {
	v.fetchSeconds.Observe(took.Seconds())
	v.fetchBytes.Add(float64(bytes))
}

// FetchFailed tells that one attempt to fetch a block failed.
func (v *Volume) FetchFailed() { v.fetchErrors.Inc() }

// Shared tells that a block was wanted that was on its way already.
func (v *Volume) Shared() { v.fetchShared.Inc() }

// Waited tells that an application waited for a block, so long.
func (v *Volume) Waited(took time.Duration) { v.waitSeconds.Observe(took.Seconds()) }

// Cache tells that something was looked for in a cache. The name is one of a fixed set.
func (v *Volume) Cache(cache string, hit bool) {
	if hit {
		v.cacheHits.WithLabelValues(cache).Inc()
	} else {
		v.cacheMisses.WithLabelValues(cache).Inc()
	}
}

// Uploaded tells that a snapshot was published, with what its new blocks have in bytes.
func (v *Volume) Uploaded(bytes uint64, took time.Duration) {
	v.uploadSeconds.Observe(took.Seconds())
	v.uploadBytes.Add(float64(bytes))
}

// UploadFailed tells that a try at publishing failed.
func (v *Volume) UploadFailed() { v.uploadFailures.Inc() }

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

// SetSynchronized tells when a volume that is followed was brought up to the newest generation; the zero time: it is not followed.
func (v *Volume) SetSynchronized(t time.Time) {
	if t.IsZero() {
		v.synchronized.Set(0)
	} else {
		v.synchronized.Set(float64(t.Unix()))
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
