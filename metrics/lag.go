package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lag is the figure fractal_upload_lag_seconds: it remembers since when a volume is behind and subtracts when it is read.
type lag struct {
	desc *prometheus.Desc
	now  func() time.Time

	mu    sync.Mutex
	since map[string]time.Time // by label; zero: not behind
}

var _ prometheus.Collector = (*lag)(nil)

func newLag() *lag {
	return &lag{
		desc: prometheus.NewDesc("fractal_upload_lag_seconds",
			"Age of the oldest change that is not in a published snapshot, in seconds; 0 where all is published.", []string{"volume"}, nil),
		now:   time.Now,
		since: map[string]time.Time{},
	}
}

// add shows the volume with 0, if it is not known yet.
func (l *lag) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.since[name]; !ok {
		l.since[name] = time.Time{}
	}
}

func (l *lag) set(name string, t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since[name] = t
}

func (l *lag) remove(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.since, name)
}

// Describe implements prometheus.Collector.
func (l *lag) Describe(ch chan<- *prometheus.Desc) { ch <- l.desc }

// Collect implements prometheus.Collector.
func (l *lag) Collect(ch chan<- prometheus.Metric) {
	now := l.now()
	values := map[string]float64{}
	l.mu.Lock()
	for name, t := range l.since {
		values[name] = 0
		if !t.IsZero() {
			// A clock that was set back must not show a negative age.
			values[name] = max(0, now.Sub(t).Seconds())
		}
	}
	l.mu.Unlock() // before the channel, which may block
	for name, v := range values {
		ch <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, v, name)
	}
}
