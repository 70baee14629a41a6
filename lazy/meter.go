package lazy

import "time"

// meter is a rate over the last seconds: one bucket a second.
type meter struct {
	buckets [10]uint64
	last    int64 // Unix second of the newest bucket
}

func (m *meter) add(now time.Time, n uint64) {
	m.advance(now)
	m.buckets[m.last%int64(len(m.buckets))] += n
}

// rate is in units a second, over the whole seconds before now.
func (m *meter) rate(now time.Time) float64 {
	m.advance(now)
	var sum uint64
	for i := range m.buckets {
		if int64(i) != m.last%int64(len(m.buckets)) { // it is not over yet
			sum += m.buckets[i]
		}
	}
	return float64(sum) / float64(len(m.buckets)-1)
}

func (m *meter) advance(now time.Time) {
	s := now.Unix()
	if s-m.last >= int64(len(m.buckets)) {
		m.buckets = [10]uint64{}
		m.last = s
	}
	for m.last < s {
		m.last++
		m.buckets[m.last%int64(len(m.buckets))] = 0
	}
}
