package replica

import (
	"sync"
	"time"
)

const progressEvery = 250 * time.Millisecond

// reporter hands progress on, seldom enough. Its zero value with tell nil reports nothing. Safe for concurrent use.
type reporter struct {
	tell func(Progress)

	mu   sync.Mutex
	now  Progress
	last time.Time
}

func (r *reporter) phase(name string) {
	r.update(true, func(p *Progress) { p.Phase = name })
}

func (r *reporter) read(files, bytes uint64) {
	r.update(false, func(p *Progress) { p.Files, p.Bytes = max(p.Files, files), max(p.Bytes, bytes) })
}

func (r *reporter) sent(bytes int) {
	r.update(false, func(p *Progress) { p.BytesUploaded += uint64(bytes) })
}

func (r *reporter) update(force bool, change func(*Progress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.now)
	if r.tell == nil || (!force && time.Since(r.last) < progressEvery) {
		return
	}
	r.last = time.Now()
	r.tell(r.now)
}
