package volume

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"fractal-lazy/backing"

	"github.com/rs/zerolog"
)

const (
	// looksEvery is how often a volume with a limit is looked at; a look reads a number or two.
	looksEvery = 250 * time.Millisecond
	// looksOften is how often where somebody writes so fast that the quota may be used up before the next look.
	looksOften = 20 * time.Millisecond
	// usageEvery is how old the answer to "how full is it" may be, where somebody asks.
	usageEvery = 5 * time.Second
	// freedMuch is by how much less a quota group stands before the limit is set anew.
	freedMuch = 1 << 20
	minMargin = 4 << 20
	maxMargin = 64 << 20
	// onTheWay is what the quota may let through while it is set anew beside a writer: 3 MiB were seen on a machine with ten times the load that it bears.
	onTheWay = 8 << 20
)

// gauge holds a volume to its size.
//
// The limit is one on what the files of the volume take (du), and on nothing else: what only snapshots still hold
// does not count. The pool's simple quotas count otherwise: all that the subvolume allocated and nothing has freed, its
// snapshots included. So the quota is a moving one: measure finds what the files take and what is charged, and lets
// the subvolume allocate as much more as is free (quotaFor). Nobody gets past that, neither open passthrough handles nor mappings nor a direct
// mount. run measures again before what was allowed is used up by rewriting what snapshots hold, and when something was freed.
//
// While a volume is being fetched there is no quota, for fetching must not meet it: then FUSE passes no writer through, and asks limit for each write. What is
// still to come counts as if it were here.
type gauge struct {
	path   string
	total  uint64
	log    zerolog.Logger
	remote func() (bytes uint64, complete bool) // what is still to be fetched

	used  atomic.Uint64 // as measured
	since atomic.Uint64 // what writes may have added since, at most
	asked atomic.Bool   // since the last measurement

	mu      sync.Mutex // one measurement at a time; guards all below
	soft    string     // why no quota stands behind the limit; empty: one does
	charged uint64     // at the last measurement
	quota   uint64     // what may be charged
	keep    uint64     // what the files may take: total, or what a larger volume came with and has not removed since; 0: not yet measured
	last    time.Time  // end of the last measurement
	took    time.Duration
	flushed time.Time // end of the last flush
	flush   time.Duration
	seen    uint64 // charged at the last look
}

// limit is what fusefs.Options.Limit wants. It takes no lock.
func (g *gauge) limit() (total, used uint64) {
	g.asked.Store(true)
	return g.total, g.used.Load() + g.since.Load()
}

// grew is fusefs.Options.Grew.
func (g *gauge) grew(n uint64) { g.since.Add(n) }

// again is fusefs.Options.Measure. Who fills a volume to the brim asks at each write: it is measured
// a twentieth of the time, or every few seconds.
func (g *gauge) again() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.last) >= min(20*g.took, usageEvery) {
		g.measureLocked()
	}
}

// status is for Info.
func (g *gauge) status() (used uint64, soft string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used.Load() + g.since.Load(), g.soft
}

// isHard reports whether the pool itself holds the limit; so does none.
func (g *gauge) isHard() bool {
	if g == nil {
		return true
	}
	_, soft := g.status()
	return soft == ""
}

// run looks again and again until ctx ends. Where measuring is a walk over many
// files it is done less often: a twentieth of the time at most, but where the quota is nearly used up.
func (g *gauge) run(ctx context.Context) {
	next := time.NewTimer(looksEvery)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(g.look())
		}
	}
}

// look measures where that is due, and returns when to look again.
func (g *gauge) look() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	age := time.Since(g.last)
	if age >= max(usageEvery, 20*g.took) && g.asked.Load() {
		g.measureLocked()
		return looksEvery
	}
	if _, complete := g.remote(); !complete {
		return looksEvery
	}
	if g.quota == 0 {
		if g.soft == softFetching && age >= 2*g.took { // everything has come
			g.measureLocked()
		}
		return looksEvery
	}
	now, err := backing.Charged(g.path)
	if err == nil && quotaIsDue(g.charged, g.quota, now) {
		now = g.flushLocked(now)
		if quotaIsDue(g.charged, g.quota, now) && age >= 2*g.took {
			g.measureLocked()
			now = g.charged
		}
	}
	grown := now - min(now, g.seen)
	g.seen = now
	return lookAgain(g.quota-min(g.quota, now), grown)
}

// flushLocked commits, where a part of what is charged may be what was written over since the last commit, and returns what is charged then. Who
// only writes over what is there is not told that the volume is full as long as this is faster.
func (g *gauge) flushLocked(charged uint64) uint64 {
	if charged < g.charged || time.Since(g.flushed) < g.flush {
		return charged
	}
	start := time.Now()
	err := backing.SyncFS(g.path)
	g.flushed, g.flush = time.Now(), time.Since(start)
	if now, cerr := backing.Charged(g.path); err == nil && cerr == nil {
		return now
	}
	return charged
}

// lookAgain returns when to look at a quota again of which so much is left, and of which so much was used between
// the last two looks: at a growth like that, before half of it is used. It is a pure function.
func lookAgain(left, grown uint64) time.Duration {
	if grown == 0 {
		return looksEvery
	}
	return min(max(time.Duration(float64(left)/float64(grown)*float64(looksOften)/2), looksOften), looksEvery)
}

// quotaIsDue reports whether a quota that was set when charged was charged has to be set anew now: half of what it
// allowed is used up, or so much was freed that it allows too much. It is a pure function.
func quotaIsDue(charged, quota, now uint64) bool {
	if now < charged {
		return charged-now >= freedMuch
	}
	return now > charged && now-charged >= (quota-min(quota, charged))/2
}

// quotaFor returns how much may be charged to a subvolume of which the files take used, so that they take no more than keep and
// the margin of total. It is a pure function.
//
// BTRFS writes anew what is overwritten, and its trees with it, before it frees what was there: without some room for that a full volume could not
// even be changed in place. So much may a volume get past its size where nobody asks us, however slowly.
func quotaFor(total, keep, used, charged uint64) uint64 {
	most := keep + margin(total)
	return charged + most - min(used, most)
}

func margin(total uint64) uint64 { return min(max(total/64, minMargin), maxMargin) }

// keepFor returns what the files of a volume may take that take used: total, or where a volume came larger, what it has still of that. keep is what
// it was before, 0 at first. What little a volume got past its size does not make it larger. It is a pure function.
func keepFor(total, keep, used uint64) uint64 {
	if keep == 0 && used > total+margin(total)+onTheWay {
		return used
	}
	return max(total, min(keep, used))
}

const softFetching = "not everything is here yet: files are not passed through to writers until it is"

func (g *gauge) measure() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.measureLocked()
}

// measureLocked finds out how full the volume is, and sets the quota.
//
// What is flushed first is not counted twice, as data on its way to the disk would be. Of the readings of the quota
// group before and after the walk the lower counts: what is freed meanwhile must not be allowed once more.
func (g *gauge) measureLocked() {
	start := time.Now()
	defer func() { g.last, g.took = time.Now(), time.Since(start) }()
	g.asked.Store(false)
	remote, complete := g.remote()
	counted := g.since.Load()
	var before uint64
	var err error
	if complete {
		if err = g.enable(); err == nil {
			before, err = backing.Charged(g.path)
		}
		g.setSoftLocked(err)
	} else {
		g.soft = softFetching
	}
	n, werr := backing.Occupied(g.path)
	if werr != nil {
		g.log.Warn().Err(werr).Str("op", "usage").Msg("cannot tell how full the volume is")
		return
	}
	g.used.Store(n + remote)
	g.since.Add(-counted) // the walk has seen these
	if !complete || err != nil {
		return
	}
	after, err := backing.Charged(g.path)
	if err == nil {
		g.charged = min(before, after)
		g.keep = keepFor(g.total, g.keep, n)
		g.quota = quotaFor(g.total, g.keep, n, g.charged)
		err = backing.SetLimit(g.path, g.quota)
	}
	g.setSoftLocked(err)
}

// enable turns the pool's quotas on, without a limit yet on a subvolume that has none, and flushes.
func (g *gauge) enable() error {
	if _, err := backing.Charged(g.path); errors.Is(err, backing.ErrNoQuota) {
		if err := backing.SetLimit(g.path, maxSize); err != nil {
			return err
		}
	}
	return backing.SyncFS(g.path)
}

// setSoftLocked notes whether the quota could be had, and logs it once.
func (g *gauge) setSoftLocked(err error) {
	if err == nil {
		g.soft = ""
		return
	}
	if g.soft == "" || g.soft == softFetching {
		g.log.Warn().Err(err).Str("op", "size").Msg("the pool cannot hold the volume's limit: writes that are passed through may get past it")
	}
	g.soft, g.quota = err.Error(), 0
}
