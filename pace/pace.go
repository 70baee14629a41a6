package pace

import (
	"context"
	"slices"
	"sync"
	"time"
)

// burst is how far the line may be ahead after a pause, in time: what was not used is lost.
const burst = 100 * time.Millisecond

// fairness: of so many turns one goes to a User that is not urgent.
const fairness = 8

// Line is a rate that Users share. Make it with NewLine.
type Line struct {
	mu      sync.Mutex
	rate    uint64    // bytes a second; 0: no limit
	free    time.Time // when the next turn may begin
	timer   *time.Timer
	waiting []*turn // in the order in which they came
	clock   uint64  // counts turns
}

// User is one who shares a Line. Make it with Line.User.
type User struct {
	line   *Line
	urgent func() bool
	last   uint64 // clock of its last turn; guarded by line.mu
}

// turn is a Wait that waits.
type turn struct {
	user *User
	n    int
	come chan struct{} // closed when it has come
	at   uint64        // clock, then
}

// NewLine returns a line of so many bytes a second; 0 is no limit.
func NewLine(bytesPerSecond uint64) *Line { return &Line{rate: bytesPerSecond} }

// User returns one more who shares the line; it needs no closing. urgent may be nil: never; it is called under the line's lock, and must not wait.
func (l *Line) User(urgent func() bool) *User {
	if l == nil {
		return nil
	}
	return &User{line: l, urgent: urgent}
}

// Wait returns when n bytes may be sent, or with the error of ctx; then it does not count.
func (u *User) Wait(ctx context.Context, n int) error {
	if u == nil || n <= 0 {
		return nil
	}
	l := u.line
	l.mu.Lock()
	if l.rate == 0 {
		l.mu.Unlock()
		return nil
	}
	t := &turn{user: u, n: n, come: make(chan struct{})}
	l.waiting = append(l.waiting, t)
	l.nextLocked()
	l.mu.Unlock()
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, t); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	return context.Cause(ctx)
}

// nextLocked gives turns as long as the line is free, and looks again when it will be.
func (l *Line) nextLocked() {
	now := time.Now()
	for len(l.waiting) > 0 && !l.free.After(now) {
		i := l.chooseLocked()
		t := l.waiting[i]
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.clock++
		t.user.last, t.at = l.clock, l.clock
		if early := now.Add(-burst); l.free.Before(early) {
			l.free = early
		}
		l.free = l.free.Add(time.Duration(float64(t.n) / float64(l.rate) * float64(time.Second)))
		close(t.come)
	}
	if len(l.waiting) == 0 {
		return
	}
	wait := l.free.Sub(now)
	if l.timer != nil {
		l.timer.Reset(wait)
		return
	}
	l.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.nextLocked()
	})
}

// chooseLocked returns the index of the turn that comes next; of one User's the one that waits longest.
func (l *Line) chooseLocked() int {
	all := make([]choice, len(l.waiting))
	for i, t := range l.waiting {
		all[i] = choice{last: t.user.last, urgent: t.user.urgent != nil && t.user.urgent()}
	}
	return choose(all, (l.clock+1)%fairness == 0)
}

// choice is what is known of one who waits.
type choice struct {
	last   uint64 // clock of the user's last turn
	urgent bool
}

// choose is a pure function: who is next of those who wait, in the order in which they came. spare: this turn is for those who are not urgent.
func choose(all []choice, spare bool) int {
	best := -1
	for _, urgent := range []bool{!spare, spare} {
		for i, c := range all {
			if c.urgent == urgent && (best < 0 || c.last < all[best].last) {
				best = i
			}
		}
		if best >= 0 {
			break
		}
	}
	return best
}
