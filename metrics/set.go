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
	opSeconds    *prometheus.HistogramVec
	lag          *lag
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
		opSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fractal_fuse_op_seconds",
			Help: "Time to answer one FUSE request, in seconds, by kind of operation.",
			// From what the kernel round trip costs (some microseconds) to a reader that waits for a block.
			Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .01, .05, .25, 1, 5, 30},
		}, []string{"volume", "op"}),
		lag: newLag(),
	}
	s.registry.MustRegister(s.fetchSeconds, s.fetchBytes, s.fetchErrors, s.remoteBytes, s.remoteFiles, s.fenced, s.opSeconds, s.lag,
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
		opSeconds:    s.opSeconds.MustCurryWith(prometheus.Labels{"volume": name}),
	}
	s.lag.add(name)
	return v
}

// Forget drops the figures of a volume that is gone. A Volume that is used after that counts what is no longer shown, except
// for Op and BehindSince, which would show the volume again.
func (s *Set) Forget(pubkey string) {
	name := label(pubkey)
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{s.fetchSeconds, s.fetchBytes, s.fetchErrors, s.remoteBytes, s.remoteFiles, s.fenced, s.opSeconds} {
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
