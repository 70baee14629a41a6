package volume

import (
	"math/rand/v2"
	"time"
)

// backoff counts failed tries.
type backoff struct {
	tries int
	until time.Time
}

const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
)

// failed returns the backoff after one more failure: twice as long each time,
// and a quarter to either side, so that machines that lost the Hive at once do
// not come back at once. chance is in [0, 1).
func (b backoff) failed(now time.Time, chance float64) backoff {
	d := lastRetry
	if b.tries < 9 {
		d = min(firstRetry<<b.tries, lastRetry)
	}
	d = time.Duration(float64(d) * (0.75 + chance/2))
	return backoff{tries: b.tries + 1, until: now.Add(d)}
}

func chance() float64 { return rand.Float64() }

const (
	// linger is how long a mount without users waits for one: that of a Mount
	// whose caller gave up, and of which nobody sends an Unmount.
	linger = time.Minute
	// checkEvery is the time between fencing checks where no interval is set.
	checkEvery = time.Minute
	// unpinEvery is the time between tries to unpin what is left, each of which asks the Hive for all manifests.
	unpinEvery = 10 * time.Minute
	// remoteUnpinEvery is the same for second places, which may be away for long.
	remoteUnpinEvery = time.Hour
	// looksAgain is when a volume is looked at that waits for nothing.
	looksAgain = time.Hour
)

// situation is all that the scheduler knows of a volume.
type situation struct {
	now      time.Time
	working  bool // the worker runs
	mounting bool // a Mount is in preparation
	removing bool
	locked   bool // its key is not open
	mounted  bool
	closing  bool // a taking down that failed
	users    int  // mount ids
	since    time.Time
	view     bool
	fenced   bool
	release  bool // to be given back
	final    bool // not mounted: the snapshot of the last use is taken
	pending  int  // local snapshots to be published
	hive     bool // one is configured
	asked    bool // somebody waits for the upload
	waits    bool // a clone that is not all here: nothing of it can be published yet
	interval time.Duration
	lastSnap time.Time
	lastAsk  time.Time
	retry    time.Time // not before, after a failed upload
	unpin    bool      // roots are left to be unpinned
	unpinAt  time.Time // not before, after a try

	remoteUnpin   bool // roots are left to be unpinned at a second place
	remoteUnpinAt time.Time
}

// plan is what the worker is to do, in the order of its fields.
type plan struct {
	takeDown bool
	snapshot bool
	ask      bool // the fencing check
	publish  bool
	release  bool
	unpin    bool // what an interrupted publication or purge left pinned

	remoteUnpin bool // what an interrupted replication left pinned

	why  string
	next time.Time // when to look again, where nothing is to be done
}

func (p *plan) any() bool {
	return p.takeDown || p.snapshot || p.ask || p.publish || p.release || p.unpin || p.remoteUnpin
}

// decide says what a volume needs now. It is a pure function.
func decide(s situation) (p plan) {
	p.next = s.now.Add(looksAgain)
	// due reports whether t has come, and otherwise remembers it.
	due := func(t time.Time) bool {
		if !t.After(s.now) {
			return true
		}
		if t.Before(p.next) {
			p.next = t
		}
		return false
	}
	note := func(why string) {
		if p.why == "" {
			p.why = why
		}
	}
	if s.working || s.mounting || s.removing || s.locked {
		return p
	}
	if s.mounted && s.users == 0 && due(s.since.Add(linger)) {
		p.takeDown = true
		note("mounted, and nobody uses it")
		return p
	}
	// What waits for its upload is most likely what is pinned: the upload strikes it out.
	if s.unpin && s.hive && (s.pending == 0 || s.fenced) && due(s.unpinAt) {
		p.unpin = true
		note("something is pinned that no snapshot has")
	}
	if s.remoteUnpin && due(s.remoteUnpinAt) {
		p.remoteUnpin = true
		note("something is pinned at a second place that no snapshot there has")
	}
	if s.closing || s.view || s.fenced {
		return p
	}
	switch {
	case s.waits:
	case s.mounted && s.interval > 0 && s.pending == 0 && due(s.lastSnap.Add(s.interval)):
		p.snapshot = true
		note("the interval is over")
	case !s.mounted && s.release && !s.final && due(s.retry):
		p.snapshot = true
		note("it was in use, and its last state has no snapshot yet")
	}
	every := s.interval
	if every == 0 {
		every = checkEvery
	}
	if s.mounted && s.hive && due(s.lastAsk.Add(every)) {
		p.ask = true
		note("fencing check")
	}
	ready := s.asked || s.pending > 0 && due(s.retry)
	if s.pending > 0 && ready {
		p.publish = true
		note("a snapshot waits for its upload")
	}
	if !s.mounted && s.release && (s.final || s.waits) && (s.pending == 0 || p.publish) && (s.asked || due(s.retry)) {
		p.release = true
		note("no longer in use")
	}
	// A snapshot that is taken now is published, and a volume that is not in use given back, in the same go.
	if p.snapshot {
		p.publish = true
		p.release = !s.mounted && s.release
	}
	return p
}
