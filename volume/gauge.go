package volume

import (
	"context"
	"sync/atomic"
	"time"

	"fractal-lazy/backing"

	"github.com/rs/zerolog"
)

// usageEvery is how old the answer to "how full is it" may be.
const usageEvery = 5 * time.Second

// gauge knows how full a volume with a limit is. It is asked at every write
// that grows a file, so it answers with what was measured last: a volume may get past its
// limit by what is written in between, and by what the kernel writes to files that are open in passthrough mode.
type gauge struct {
	path  string
	total uint64
	log   zerolog.Logger
	used  atomic.Uint64
	asked atomic.Bool // since the last measurement
}

// limit is what fusefs.Options.Limit wants. It takes no lock.
func (g *gauge) limit() (total, used uint64) {
	g.asked.Store(true)
	return g.total, g.used.Load()
}

// run measures again while somebody asks, until ctx ends. Where measuring is a
// walk over many files it is done less often: a twentieth of the time at most.
func (g *gauge) run(ctx context.Context) {
	wait := usageEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			if g.asked.Swap(false) {
				start := time.Now()
				g.measure()
				wait = max(usageEvery, 20*time.Since(start))
			}
		}
	}
}

func (g *gauge) measure() {
	n, err := backing.Usage(g.path)
	if err != nil {
		g.log.Warn().Err(err).Str("op", "usage").Msg("cannot tell how full the volume is")
		return
	}
	g.used.Store(n)
}
