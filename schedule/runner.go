package schedule

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
)

// Action is what jobs of one verb do.
type Action struct {
	// Check refuses an argument that Do could do nothing with; nil: there is to be none.
	Check func(arg string) error
	// Do is one run. Its error is what List shows, and has the run tried again.
	Do func(ctx context.Context, volume, arg string) error
}

// Options of a Runner. The zero value uses the machine's clock and zone, and logs nothing.
type Options struct {
	Machine string           // identity, for the jitter
	Now     func() time.Time // nil: time.Now
	Log     zerolog.Logger
}

// atOnce is how many jobs of one verb run side by side. One that waits for a network that is gone holds up its like, and no others.
const atOnce = 2

// Runner keeps a table and runs its jobs. Safe for concurrent use.
type Runner struct {
	save    func([]byte) error
	actions map[string]Action
	opt     Options
	wake    chan struct{}

	saving sync.Mutex // one change at a time; taken before mu

	mu      sync.Mutex // guards all below
	table   *Table
	running map[jobName]bool
}

// jobName is what names a job.
type jobName struct{ volume, action string }

func (j *Job) name() jobName { return jobName{j.Volume, j.Action} }

// Listed is a job as List shows it.
type Listed struct {
	Job
	Next    Due  `json:"next"`
	Running bool `json:"running"`
}

// New returns a Runner of the table in b, as Encode made it; nothing is an empty one. save makes a new table durable in its
// place, or fails and leaves the old one. actions are named by their verbs.
func New(b []byte, save func([]byte) error, actions map[string]Action, opt Options) (*Runner, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	t := &Table{}
	if len(b) > 0 {
		var err error
		if t, err = Decode(b); err != nil {
			return nil, err
		}
	}
	return &Runner{save: save, actions: actions, opt: opt, wake: make(chan struct{}, 1), table: t, running: map[jobName]bool{}}, nil
}

// List returns the jobs of a volume, of all where it is empty, and whether all are paused.
func (r *Runner) List(volume string) (jobs []Listed, paused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	jobs = []Listed{}
	for _, j := range r.table.Jobs {
		if volume != "" && j.Volume != volume {
			continue
		}
		l := Listed{Job: j, Next: next(&j, r.opt.Machine, r.opt.Now()), Running: r.running[j.name()]}
		if r.table.Paused {
			l.Next = Due{Why: "all jobs are paused"}
		}
		jobs = append(jobs, l)
	}
	return jobs, r.table.Paused
}

// Set makes a job, or gives it another timer. The error is ErrJob where the action or the timer cannot be.
func (r *Runner) Set(volume, action, timer string) error {
	if err := r.possible(action, timer); err != nil {
		return err
	}
	return r.change(func(t *Table) error { return t.set(volume, action, strings.TrimSpace(timer), r.opt.Now()) })
}

// Add makes a job, paused or not, where the volume has no such job; one that is there stays as it is. The errors are those of Set.
func (r *Runner) Add(volume, action, timer string, paused bool) (added bool, err error) {
	if err := r.possible(action, timer); err != nil {
		return false, err
	}
	err = r.change(func(t *Table) error {
		if added = t.find(volume, action) == nil; !added {
			return nil
		}
		if err := t.set(volume, action, strings.TrimSpace(timer), r.opt.Now()); err != nil {
			return err
		}
		t.find(volume, action).Paused = paused
		return nil
	})
	return added && err == nil, err
}

// possible tells whether there is such an action, with such an argument and timer.
func (r *Runner) possible(action, timer string) error {
	verb, arg := cutAction(action)
	a, ok := r.actions[verb]
	if !ok {
		return fmt.Errorf("%w: action %q is none of %s", ErrJob, clip(verb), strings.Join(slices.Sorted(maps.Keys(r.actions)), ", "))
	}
	switch {
	case a.Check != nil:
		if err := a.Check(arg); err != nil {
			return fmt.Errorf("%w: action %q: %w", ErrJob, clip(action), err)
		}
	case arg != "":
		return fmt.Errorf("%w: action %q takes no argument", ErrJob, verb)
	}
	_, err := ParseTimer(timer)
	return err
}

// Remove takes a job away. One that runs ends first by itself.
func (r *Runner) Remove(volume, action string) error {
	return r.change(func(t *Table) error {
		if t.find(volume, action) == nil {
			return unknown(volume, action)
		}
		t.Jobs = slices.DeleteFunc(t.Jobs, func(j Job) bool { return j.is(volume, action) })
		return nil
	})
}

// RemoveAll takes all jobs of a volume away; there may be none.
func (r *Runner) RemoveAll(volume string) error {
	r.mu.Lock()
	has := slices.ContainsFunc(r.table.Jobs, func(j Job) bool { return j.Volume == volume })
	r.mu.Unlock()
	if !has {
		return nil
	}
	return r.change(func(t *Table) error {
		t.Jobs = slices.DeleteFunc(t.Jobs, func(j Job) bool { return j.Volume == volume })
		return nil
	})
}

// Pause holds one job, or lets it go on.
func (r *Runner) Pause(volume, action string, paused bool) error {
	return r.change(func(t *Table) error {
		j := t.find(volume, action)
		if j == nil {
			return unknown(volume, action)
		}
		if j.Paused && !paused {
			j.Created = r.opt.Now()
		}
		j.Paused = paused
		return nil
	})
}

// PauseAll holds all jobs, or lets go on those that are not paused themselves.
func (r *Runner) PauseAll(paused bool) error {
	return r.change(func(t *Table) error {
		if t.Paused && !paused {
			for i := range t.Jobs {
				t.Jobs[i].Created = r.opt.Now()
			}
		}
		t.Paused = paused
		return nil
	})
}

func unknown(volume, action string) error {
	return fmt.Errorf("%w: %q on volume %q; `fractal-lazy scheduled` lists them", ErrUnknownJob, clip(action), clip(volume))
}

// change makes a change durable, and then known.
func (r *Runner) change(do func(*Table) error) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	t := r.table.clone() // only who holds saving replaces it
	r.mu.Unlock()
	if err := do(t); err != nil {
		return err
	}
	b, err := t.Encode()
	if err == nil {
		err = r.save(b)
	}
	if err != nil {
		return fmt.Errorf("write schedule: %w", err)
	}
	r.mu.Lock()
	r.table = t
	r.mu.Unlock()
	r.poke()
	return nil
}

func (r *Runner) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs jobs until ctx ends, and waits for those that it began.
func (r *Runner) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	const lookAgain = time.Minute // the clock may be set
	for {
		now := r.opt.Now()
		r.mu.Lock()
		run, again := Decide(r.table, r.opt.Machine, now)
		for _, j := range run {
			if r.running[j.name()] || r.busyLocked(j.Verb()) >= atOnce {
				continue // an end wakes us
			}
			r.running[j.name()] = true
			wg.Go(func() { r.run(ctx, j) })
		}
		r.mu.Unlock()
		wait := lookAgain
		if !again.IsZero() {
			wait = min(wait, max(again.Sub(now), 10*time.Millisecond))
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-r.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// busyLocked is how many jobs of a verb run.
func (r *Runner) busyLocked(verb string) (n int) {
	for name := range r.running {
		if v, _ := cutAction(name.action); v == verb {
			n++
		}
	}
	return n
}

// run is one run of one job.
//
// Order: 1 the job; 2 the table says so. A crash between has it run once more.
func (r *Runner) run(ctx context.Context, j Job) {
	began := r.opt.Now()
	log := r.opt.Log.With().Str("volume", j.Volume).Str("op", "schedule").Str("action", j.Action).Logger()
	a, ok := r.actions[j.Verb()]
	err := fmt.Errorf("%w: this version has no action %q", ErrJob, j.Verb())
	if ok {
		err = a.Do(ctx, j.Volume, j.Arg())
	}
	stopped := err != nil && ctx.Err() != nil // by us: it is due again at the next start
	switch {
	case stopped:
	case err != nil:
		log.Warn().Err(err).Dur("took", r.opt.Now().Sub(began)).Msg("scheduled job failed, tried again later")
	default:
		log.Info().Dur("took", r.opt.Now().Sub(began)).Msg("scheduled job done")
	}
	var werr error
	if !stopped {
		werr = r.change(func(t *Table) error {
			now := t.find(j.Volume, j.Action)
			if now == nil {
				return nil // removed meanwhile
			}
			now.Tried = began
			if err != nil {
				now.Failed++
				now.Error = shown(err)
				return nil
			}
			now.Ran, now.Failed, now.Error = began, 0, ""
			return nil
		})
	}
	if werr != nil {
		log.Error().Err(werr).Msg("the schedule cannot be written: the job runs again in a minute")
		select { // or else it would run again at once
		case <-ctx.Done():
		case <-time.After(firstRetry):
		}
	}
	r.mu.Lock()
	delete(r.running, j.name())
	r.mu.Unlock()
	r.poke()
}

// shown is an error as the table has it: text, in which a file's name may have brought bytes that are none, and so short that it can be read again.
func shown(err error) string {
	text := strings.ToValidUTF8(err.Error(), "?")
	for len(text) > maxError || !utf8.ValidString(text) {
		text = text[:min(len(text)-1, maxError)]
	}
	return text
}
