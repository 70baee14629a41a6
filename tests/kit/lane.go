package kit

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// linkQueue is how much may wait to leave, in time: a small queue, as a good
// router's, and enough to keep the line busy while this process waits for the CPU.
const linkQueue = 10 * time.Millisecond

// packet is a chunk and when it arrives; nil data is the end of the stream.
type packet struct {
	data []byte
	at   time.Time
}

// lane is one direction of a link. Its turns go round among those who wait,
// first come, first served.
type lane struct {
	turn chan struct{} // holds a token; whoever takes it sends next

	mu    sync.Mutex
	rate  int64 // bit/s, 0 without limit
	delay time.Duration
	free  time.Time // when all that was sent has left
}

func newLane() *lane {
	l := &lane{turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

func (l *lane) set(rate int64, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if wait := l.free.Sub(now); wait > 0 && l.rate > 0 {
		if rate > 0 {
			wait = time.Duration(float64(wait) * float64(l.rate) / float64(rate))
		} else {
			wait = 0
		}
		l.free = now.Add(wait)
	}
	l.rate, l.delay = rate, delay
}

func (l *lane) latency() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delay
}

// chunk is how much to send at a time: what takes a millisecond, so that
// others wait little, within bounds.
func (l *lane) chunk() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return 16 << 10
	}
	return int(min(max(l.rate/8/1000, 512), 16<<10))
}

// window is how much one connection may have under way: what the lane holds, twice
// so that it is never what limits the rate, and at least what sockets hold anyway.
func (l *lane) window() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return 4 << 20
	}
	return max(256<<10, 2*int64(float64(l.rate)/8*(2*l.delay+linkQueue).Seconds()))
}

// send waits for a place in the queue and returns when n bytes will have arrived.
func (l *lane) send(ctx context.Context, n int) (time.Time, error) {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
	defer func() { l.turn <- struct{}{} }()
	for {
		l.mu.Lock()
		now := time.Now()
		if l.free.Before(now) {
			l.free = now
		}
		wait := l.free.Sub(now) - linkQueue
		if wait <= 0 || l.rate == 0 {
			if l.rate > 0 {
				l.free = l.free.Add(time.Duration(float64(n) * 8 / float64(l.rate) * float64(time.Second)))
			}
			at := l.free.Add(l.delay)
			l.mu.Unlock()
			return at, nil
		}
		l.mu.Unlock()
		// In steps, so that a change of the link is seen.
		if err := sleepUntil(ctx, now.Add(min(wait, 50*time.Millisecond))); err != nil {
			return time.Time{}, err
		}
	}
}

// flight counts what one direction of one connection has under way.
type flight struct {
	l    *lane
	mu   sync.Mutex
	n    int64
	free chan struct{} // gets a token when n shrinks
}

func (f *flight) init(l *lane) { f.l, f.free = l, make(chan struct{}, 1) }

// enter waits until n more bytes may be under way.
func (f *flight) enter(ctx context.Context, n int) error {
	for {
		f.mu.Lock()
		if f.n == 0 || f.n+int64(n) <= f.l.window() {
			f.n += int64(n)
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-f.free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *flight) leave(n int) {
	f.mu.Lock()
	f.n -= int64(n)
	f.mu.Unlock()
	select {
	case f.free <- struct{}{}:
	default:
	}
}

// sleepUntil sleeps to a tenth of a millisecond: the Go runtime's timers are
// rounded up to a whole one, which would be a tenth of a round trip.
func sleepUntil(ctx context.Context, at time.Time) error {
	const coarse = 1500 * time.Microsecond
	if d := time.Until(at) - coarse; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		d := time.Until(at)
		if d <= 0 {
			return ctx.Err()
		}
		ts := unix.NsecToTimespec(int64(d))
		// Cut short by a signal: the loop asks the clock again.
		_ = unix.Nanosleep(&ts, nil)
	}
}
