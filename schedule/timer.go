package schedule

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

const (
	maxPeriod = 366 * 24 * time.Hour
	// maxJitter is by how much a job with cron times may be late on purpose; a tenth of its period where that is less.
	maxJitter = 5 * time.Minute
)

// Timer says when a job is due. The zero Timer is none; make it with ParseTimer.
type Timer struct {
	every time.Duration // 0: cron
	cron  string
}

// ParseTimer reads a number of minutes, or a cron expression of five fields
// (minute, hour, day of the month, month, day of the week; also @daily and
// its like), in the time zone of the daemon. The error is ErrJob.
func ParseTimer(s string) (Timer, error) {
	s = strings.TrimSpace(s)
	bad := func(what string) (Timer, error) {
		return Timer{}, fmt.Errorf("%w: timer %q: %s; it takes minutes (60), or a cron expression ('30 3 * * *', @daily)", ErrJob, clip(s), what)
	}
	if len(s) > maxTimer {
		return bad("too long")
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		d := time.Duration(n) * time.Minute
		if n == 0 || d > maxPeriod {
			return bad("between 1 and 527040 minutes")
		}
		return Timer{every: d}, nil
	}
	if fields := strings.Fields(s); len(fields) != 5 && !strings.HasPrefix(s, "@") {
		return bad("neither a number nor five fields")
	}
	if !gronx.IsValid(s) {
		return bad("not a cron expression")
	}
	if _, err := gronx.NextTickAfter(s, time.Now(), false); err != nil { // 30 February
		return bad("it never comes")
	}
	return Timer{cron: s}, nil
}

// after returns the first time that is due after t, in the time zone of t.
func (t Timer) after(at time.Time) time.Time {
	if t.every > 0 {
		return at.Add(t.every)
	}
	next, err := gronx.NextTickAfter(t.cron, at, false)
	if err != nil { // ParseTimer found one; then there are none left for decades
		return at.Add(maxPeriod)
	}
	return next
}

// period is the time between two runs, the next one at the time at.
func (t Timer) period(at time.Time) time.Duration {
	if t.every > 0 {
		return t.every
	}
	next := t.after(at)
	return t.after(next).Sub(next)
}

// jitter is by how much a job is late on purpose. It is the same each time, but for
// a cron expression with times that are now close and now far apart.
func (t Timer) jitter(job *Job, machine string, now time.Time) time.Duration {
	if t.every > 0 {
		return 0 // begins when it was set, and that spreads them
	}
	h := fnv.New64a()
	for _, s := range []string{machine, job.Volume, job.Action} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	most := min(maxJitter, t.period(now)/10)
	return time.Duration(h.Sum64() % uint64(max(most, 1)))
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
