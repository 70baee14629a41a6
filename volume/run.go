package volume

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// errRunning: only one Run at a time.
var errRunning = errors.New("the scheduler runs already, or the manager is closed")

// Run takes interval snapshots, uploads them, checks for fencing, gives back
// what is no longer in use, and empties the trash, until ctx or the Manager
// ends. Without it nothing is published. It waits for its workers.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.running || m.closed {
		m.mu.Unlock()
		return errRunning
	}
	m.running = true
	m.jobs.Add(1) // Close waits for it
	m.mu.Unlock()
	defer m.jobs.Done()
	defer func() {
		for _, v := range m.all() {
			m.stopWork(v)
		}
		m.mu.Lock()
		m.running = false
		m.mu.Unlock()
	}()
	const trashEvery = 30 * time.Second
	var trashed time.Time
	var jobs sync.WaitGroup
	defer jobs.Wait()
	start := sync.OnceFunc(func() { jobs.Go(func() { m.runJobs(ctx) }) })
	for {
		var next time.Duration = looksAgain
		if err := m.ready(); err != nil {
			next = 2 * time.Second // the pool may be mounted later
		} else {
			start()
			if now := time.Now(); now.Sub(trashed) >= trashEvery || m.o.Trash == 0 {
				trashed = now
				if err := m.emptyTrash(); err != nil {
					m.log.Warn().Err(err).Str("op", "trash").Msg("removed volumes still take space")
				}
			}
			locked := m.retryKeys()
			next = min(m.round(ctx), trashEvery)
			if locked {
				next = min(next, 2*time.Second) // the passphrase may come later
			}
		}
		t := time.NewTimer(max(next, 10*time.Millisecond))
		select {
		case <-m.wake:
		case <-t.C:
		case <-ctx.Done():
		case <-m.life.Done():
		}
		t.Stop()
		if ctx.Err() != nil || m.life.Err() != nil {
			return nil
		}
	}
}

// round starts a worker for each volume that needs one, and returns the time
// until one of the others does.
func (m *Manager) round(ctx context.Context) time.Duration {
	now := m.now()
	next := now.Add(looksAgain)
	for _, v := range m.all() {
		p := decide(m.situation(v, now))
		if p.any() {
			m.startWork(ctx, v, p)
		} else if p.next.Before(next) {
			next = p.next
		}
	}
	return next.Sub(now)
}

func (m *Manager) situation(v *vol, now time.Time) situation {
	v.mu.Lock()
	defer v.mu.Unlock()
	return situation{
		now: now, working: v.work != nil,
		mounting: v.prep != nil || slices.Contains([]step{stepMount, stepUnmount, stepRestore, stepClone}, v.step),
		removing: v.gone || v.step == stepRemove, locked: v.locked != "", mounted: v.live != nil, closing: v.closing, users: len(v.ids),
		since: v.since, view: v.isView(), fenced: v.rec.Fence != nil, release: v.rec.Release, final: v.final,
		pending: v.rec.count(kindPending), hive: m.d.Hive != nil, asked: v.asked, interval: v.set.interval,
		waits: v.waitsLocked(), lastSnap: v.lastSnap, lastAsk: v.lastAsk, retry: v.retry.until,
		unpin: len(v.rec.Unpin) > 0, unpinAt: v.unpinAt,
		remoteUnpin:   slices.ContainsFunc(v.rec.RemoteUnpin, func(at rootAt) bool { return v.pinning[at] == 0 }),
		remoteUnpinAt: v.remoteUnpinAt,
	}
}

// startWork runs the worker of one volume. At most one runs at a time.
func (m *Manager) startWork(ctx context.Context, v *vol, p plan) {
	ctx, cancel := context.WithCancel(ctx)
	w := &work{cancel: cancel, done: make(chan struct{})}
	v.mu.Lock()
	if v.work != nil || v.gone {
		v.mu.Unlock()
		cancel()
		return
	}
	v.work = w
	v.mu.Unlock()
	ok := m.background(func(life context.Context) {
		stop := context.AfterFunc(life, cancel)
		m.doWork(ctx, v, p)
		if p.remoteUnpin { // last: a second place that does not answer keeps nothing waiting
			m.workAtRemotes(ctx, v)
		}
		stop()
		cancel()
		v.mutate(func() { v.work = nil })
		close(w.done)
		m.poke()
	})
	if !ok {
		cancel()
		v.mutate(func() { v.work = nil })
		close(w.done)
	}
}

// stopWork ends the worker of a volume and waits for it. The caller holds the
// step, which keeps the scheduler from starting another, or ends the scheduler.
func (m *Manager) stopWork(v *vol) {
	v.mu.Lock()
	w := v.work
	v.mu.Unlock()
	if w != nil {
		w.cancel()
		<-w.done
	}
}
