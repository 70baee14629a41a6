package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// labelDigits of a public key stand in the label "volume": 64 bits.
const labelDigits = 16

// Set is a registry with every figure of the driver, those of the Go runtime and of the process too.
type Set struct {
	registry *prometheus.Registry

	fetchSeconds *prometheus.HistogramVec
	fetchBytes   *prometheus.CounterVec
	fetchErrors  *prometheus.CounterVec
	remoteBytes  *prometheus.GaugeVec
	remoteFiles  *prometheus.GaugeVec
	fenced       *prometheus.GaugeVec
	synchronized *prometheus.GaugeVec
	opSeconds    *prometheus.HistogramVec
	lag          *lag

	fetchShared    *prometheus.CounterVec
	waitSeconds    *prometheus.HistogramVec
	cacheHits      *prometheus.CounterVec
	cacheMisses    *prometheus.CounterVec
	uploadSeconds  *prometheus.HistogramVec
	uploadBytes    *prometheus.CounterVec
	uploadFailures *prometheus.CounterVec
	states         *prometheus.GaugeVec
}

// New makes a Set with a registry of its own, so that several daemons in one process, as in tests, do not meet.
func New() *Set {
	s := &Set{
		registry: prometheus.NewRegistry(),
		fetchSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fractal_fetch_seconds",
			Help: "Time to get one block from the store and verify it, in seconds.",
			// From a block store on the same machine (under 1 ms) to a link that stalls.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"volume"}),
		fetchBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_fetch_bytes_total",
			Help: "Bytes of blocks that were fetched and verified.",
		}, []string{"volume"}),
		fetchErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_fetch_errors_total",
			Help: "Fetches of a block that failed, each attempt counted.",
		}, []string{"volume"}),
		remoteBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fractal_remote_bytes",
			Help: "Bytes of files that are still to be fetched.",
		}, []string{"volume"}),
		remoteFiles: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fractal_remote_files",
			Help: "Files that are not yet complete.",
		}, []string{"volume"}),
		fenced: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fractal_fenced",
			Help: "1 where another machine has taken the volume, so that this one no longer publishes; else 0.",
		}, []string{"volume"}),
		synchronized: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fractal_synchronized_timestamp_seconds",
			Help: "When a volume that this machine follows was brought up to the newest generation, in Unix seconds; 0 where it is not followed.",
		}, []string{"volume"}),
		opSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fractal_fuse_op_seconds",
			Help: "Time to answer one FUSE request, in seconds, by kind of operation.",
			// From what the kernel round trip costs (some microseconds) to a reader that waits for a block.
			Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .01, .05, .25, 1, 5, 30},
		}, []string{"volume", "op"}),
		lag: newLag(),
		fetchShared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_fetch_shared_total",
			Help: "Blocks that were wanted while they were on their way already: fetches that were saved.",
		}, []string{"volume"}),
		waitSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fractal_wait_seconds",
			Help: "Time that an application waited for one block that was not here, in seconds; its count is that of the misses.",
			// From a block store on the same machine to a network that is gone.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"volume"}),
		cacheHits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_cache_hits_total",
			Help: "What was wanted and in memory, by cache: content (opened blocks of several files) or index (of large files).",
		}, []string{"volume", "cache"}),
		cacheMisses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_cache_misses_total",
			Help: "What was wanted and not in memory, by cache.",
		}, []string{"volume", "cache"}),
		uploadSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fractal_upload_seconds",
			Help: "Time to publish one snapshot, in seconds.",
			// From a snapshot with one changed file to the first one of a large volume.
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200},
		}, []string{"volume"}),
		uploadBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_upload_bytes_total",
			Help: "Bytes of blocks that were sent for snapshots that are published.",
		}, []string{"volume"}),
		uploadFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fractal_upload_failures_total",
			Help: "Tries at publishing that failed.",
		}, []string{"volume"}),
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fractal_volumes",
			Help: "Volumes on this machine, by state; views of snapshots too.",
		}, []string{"state"}),
	}
	s.registry.MustRegister(s.fetchSeconds, s.fetchBytes, s.fetchErrors, s.remoteBytes, s.remoteFiles, s.fenced, s.synchronized, s.opSeconds, s.lag,
		s.fetchShared, s.waitSeconds, s.cacheHits, s.cacheMisses, s.uploadSeconds, s.uploadBytes, s.uploadFailures, s.states,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

// Handler serves the figures in the formats that Prometheus reads.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry})
}

// Registry is where further collectors may be registered. Their names must not begin with fractal_.
func (s *Set) Registry() *prometheus.Registry { return s.registry }

// Volume returns the figures of the volume with this public key in hex; the same ones each time it is asked. From here on the volume
// is shown, with zeros for what was not yet told.
func (s *Set) Volume(pubkey string) *Volume {
	name := label(pubkey)
	v := &Volume{
		name:         name,
		lag:          s.lag,
		fetchSeconds: s.fetchSeconds.WithLabelValues(name),
		fetchBytes:   s.fetchBytes.WithLabelValues(name),
		fetchErrors:  s.fetchErrors.WithLabelValues(name),
		remoteBytes:  s.remoteBytes.WithLabelValues(name),
		remoteFiles:  s.remoteFiles.WithLabelValues(name),
		fenced:       s.fenced.WithLabelValues(name),
		synchronized: s.synchronized.WithLabelValues(name),
		opSeconds:    s.opSeconds.MustCurryWith(prometheus.Labels{"volume": name}),

		fetchShared:    s.fetchShared.WithLabelValues(name),
		waitSeconds:    s.waitSeconds.WithLabelValues(name),
		cacheHits:      s.cacheHits.MustCurryWith(prometheus.Labels{"volume": name}),
		cacheMisses:    s.cacheMisses.MustCurryWith(prometheus.Labels{"volume": name}),
		uploadSeconds:  s.uploadSeconds.WithLabelValues(name),
		uploadBytes:    s.uploadBytes.WithLabelValues(name),
		uploadFailures: s.uploadFailures.WithLabelValues(name),
	}
	s.lag.add(name)
	return v
}

// SetStates tells how many volumes are in each state; a state that is not there has none.
func (s *Set) SetStates(n map[string]int) {
	s.states.Reset()
	for state, volumes := range n {
		s.states.WithLabelValues(state).Set(float64(volumes))
	}
}

// Forget drops the figures of a volume that is gone. A Volume that is used after that counts what is no longer shown, except
// for Op, Cache and BehindSince, which would show the volume again.
func (s *Set) Forget(pubkey string) {
	name := label(pubkey)
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{s.fetchSeconds, s.fetchBytes, s.fetchErrors, s.remoteBytes, s.remoteFiles, s.fenced, s.synchronized, s.opSeconds, s.fetchShared, s.waitSeconds,
		s.cacheHits, s.cacheMisses, s.uploadSeconds, s.uploadBytes, s.uploadFailures} {
		vec.DeletePartialMatch(prometheus.Labels{"volume": name})
	}
	s.lag.remove(name)
}

func label(pubkey string) string {
	if len(pubkey) > labelDigits {
		return pubkey[:labelDigits]
	}
	return pubkey
}
