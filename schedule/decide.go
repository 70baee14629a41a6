package schedule

import "time"

// firstRetry is the pause after a first failure.
const firstRetry = time.Minute

// Due says when a job runs next, and why then.
type Due struct {
	At  time.Time `json:"at,omitzero"`
	Why string    `json:"why"`
}

// next says when job runs. It is a pure function; a paused job runs never, and At is zero.
func next(job *Job, machine string, now time.Time) Due {
	t, err := ParseTimer(job.Timer)
	switch {
	case job.Paused:
		return Due{Why: "paused"}
	case err != nil:
		return Due{Why: err.Error()}
	case job.Ran.After(now) || job.Tried.After(now):
		return Due{At: now, Why: "it last ran in the future: the clock was set back"}
	case job.Failed > 0:
		return Due{At: job.Tried.Add(retryAfter(job.Failed, t.period(job.Tried))), Why: "the last run failed"}
	case job.Ran.IsZero() && t.every > 0:
		return Due{At: job.Created, Why: "it has not run yet"}
	}
	last := job.Ran
	if last.IsZero() {
		last = job.Created
	}
	at := t.after(last.In(now.Location()))
	due := Due{At: at.Add(t.jitter(job, machine, now)), Why: "its time has come"}
	if !t.after(at).After(now) {
		due.Why = "more than one run was missed, and is made up once"
	}
	return due
}

// Late returns by how much now is later than the job's history explains: after its last run that succeeded, or after a person set it or let it go on, one
// period is to be expected. Negative: by how much now is before that run.
func (j *Job) Late(now time.Time) time.Duration {
	last := j.Ran
	if j.Created.After(last) {
		last = j.Created
	}
	gone := now.Sub(last)
	t, err := ParseTimer(j.Timer)
	if err != nil || gone < 0 {
		return gone
	}
	return max(0, gone-t.period(last.In(now.Location())))
}

// retryAfter is the pause after so many failures: doubled each time, and at most the job's period.
func retryAfter(failed int, period time.Duration) time.Duration {
	d := period
	if failed < 20 {
		d = min(firstRetry<<(failed-1), period)
	}
	return d
}

// Decide returns the jobs of a table that are to run at the time now, in its
// order, and when to look again where nothing changes before; zero: never.
func Decide(t *Table, machine string, now time.Time) (run []Job, again time.Time) {
	if t.Paused {
		return nil, time.Time{}
	}
	for _, j := range t.Jobs {
		due := next(&j, machine, now)
		switch {
		case due.At.IsZero():
		case !due.At.After(now):
			run = append(run, j)
		case again.IsZero() || due.At.Before(again):
			again = due.At
		}
	}
	return run, again
}
