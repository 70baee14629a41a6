package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"fractal-lazy/retention"
	"fractal-lazy/schedule"
)

// Verbs that take a job's timer away or hold it, in place of a timer. They are Buttervolume's.
const (
	timerPause  = "pause"
	timerResume = "resume"
	timerDelete = "delete"
	timerZero   = "0"
)

func (m *Manager) scheduleFile() string { return filepath.Join(m.o.Root, "schedule.json") }

// actions are what can be scheduled.
func (m *Manager) actions() map[string]schedule.Action {
	return map[string]schedule.Action{
		"snapshot":    {Do: m.jobSnapshot},
		"purge":       {Check: checkPattern, Do: m.jobPurge},
		"verify":      {Check: checkShare, Do: m.jobVerify},
		"replicate":   {Check: m.checkRemote, Do: m.jobReplicate},
		"synchronize": {Check: checkFollow, Do: m.jobSynchronize},
	}
}

// jobSnapshot has a snapshot taken where something changed; its upload goes on by itself.
func (m *Manager) jobSnapshot(ctx context.Context, name, _ string) error {
	v, err := m.lookup(name)
	if err != nil {
		return err
	}
	if !v.hasData() {
		return nil // never mounted: there is nothing to keep
	}
	_, err = m.Snapshot(ctx, name, false, nil)
	return err
}

// shareOf reads the argument of verify: nothing, a share, or all.
func shareOf(arg string) (float64, error) {
	switch arg {
	case "":
		arg = DefaultShare
	case "all":
		arg = "100%"
	}
	return ParseShare(arg)
}

func checkShare(arg string) error { _, err := shareOf(arg); return err }

// jobVerify reads the newest published snapshot back. Damage is a failure, so that it shows.
func (m *Manager) jobVerify(ctx context.Context, name, arg string) error {
	share, err := shareOf(arg)
	if err != nil {
		return err
	}
	v, err := m.Verify(ctx, name, VerifyOptions{Sample: share}, nil)
	switch {
	case err != nil:
		return err
	case len(v.Damage) > 0:
		return fmt.Errorf("generation %d is damaged in the block store, first at %s; `fractal-lazy verify %s` lists it all", v.Snapshot.Generation, v.Damage[0].Path, name)
	case !v.OK:
		return fmt.Errorf("generation %d is not pinned in the block store, which may collect it", v.Snapshot.Generation)
	}
	return nil
}

// checkPattern is of the action purge.
func checkPattern(arg string) error { _, err := retention.Parse(arg); return err }

// jobPurge removes what the pattern does not keep, here and in the network. Nobody looks at it: where its own history does not explain the time, it is put off.
func (m *Manager) jobPurge(ctx context.Context, name, pattern string) error {
	jobs, _, err := m.Jobs(name)
	if err != nil {
		return err
	}
	var late time.Duration
	for _, j := range jobs {
		if j.Action == "purge:"+pattern {
			late = j.Late(m.now())
		}
	}
	_, err = m.purge(ctx, name, pattern, PurgeOptions{}, late)
	return err
}

// loadSchedule reads the table of jobs. One that is damaged stops no volume:
// it is the answer to every call about jobs.
func (m *Manager) loadSchedule(machine string) (*schedule.Runner, error) {
	path := m.scheduleFile()
	b, err := readFile(path, schedule.MaxTable)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	var r *schedule.Runner
	if err == nil {
		r, err = schedule.New(b, func(b []byte) error { return writeFile(path, b) }, m.actions(),
			schedule.Options{Machine: machine, Now: m.now, Log: m.log})
	}
	if err != nil {
		return nil, fmt.Errorf("%w: scheduled jobs do not run: %s: %w; mend it, or move it away to begin with an empty one, and restart", ErrNotReady, path, err)
	}
	return r, nil
}

// scheduler returns the runner of jobs, or what is wrong with its table.
func (m *Manager) scheduler() (*schedule.Runner, error) {
	if err := m.ready(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sched, m.schedErr
}

// runJobs runs scheduled jobs until ctx or the Manager ends.
func (m *Manager) runJobs(ctx context.Context) {
	r, err := m.scheduler()
	if err != nil {
		m.log.Error().Err(err).Str("op", "schedule").Msg("no job runs")
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.life, cancel)()
	if err := r.Run(ctx); err != nil {
		m.log.Error().Err(err).Str("op", "schedule").Msg("no job runs any more")
	}
}

// Jobs lists what is scheduled for a volume, for all where name is empty, and whether all jobs are paused.
func (m *Manager) Jobs(name string) (jobs []schedule.Listed, paused bool, err error) {
	if name != "" {
		if _, err := m.lookup(name); err != nil {
			return nil, false, err
		}
	}
	r, err := m.scheduler()
	if err != nil {
		return nil, false, err
	}
	jobs, paused = r.List(name)
	return jobs, paused, nil
}

// SetJob schedules an action on a volume, or changes when it runs. timer is
// one of schedule.ParseTimer, or pause, resume, delete or 0.
func (m *Manager) SetJob(name, action, timer string) error {
	r, err := m.scheduler()
	if err != nil {
		return err
	}
	switch timer {
	case timerPause, timerResume:
		return r.Pause(name, action, timer == timerPause)
	case timerDelete, timerZero:
		return r.Remove(name, action) // also of a volume that is gone
	}
	v, err := m.lookup(name)
	if err != nil {
		return err
	}
	if v.isView() {
		return v.wrap(fmt.Errorf("%w: it is a view of a snapshot, and never changes", ErrOption))
	}
	return r.Set(name, action, timer)
}

// PauseJobs holds all jobs, or lets those go on that are not paused themselves.
func (m *Manager) PauseJobs(paused bool) error {
	r, err := m.scheduler()
	if err != nil {
		return err
	}
	return r.PauseAll(paused)
}

// forgetJobs takes the jobs of a removed volume away.
func (m *Manager) forgetJobs(v *vol) {
	r, err := m.scheduler()
	if err == nil {
		err = r.RemoveAll(v.name)
	}
	if err != nil {
		m.logger(v, "remove").Warn().Err(err).Msg("its scheduled jobs stay in the table")
	}
}
