package lazy

import (
	"fmt"
	"math/rand/v2"
	"time"

	"fractal-lazy/fusefs"
)

// fly brings one block, trying again while a reader waits.
func (f *fetcher) fly(k *call) {
	defer f.wg.Done()
	backoff := minBackoff
	for try := 1; ; try++ {
		began := time.Now()
		b, err := f.store.Get(f.ctx, k.c)
		took := time.Since(began)
		if err == nil {
			f.arrived(k, b, took)
			return
		}
		hurry := f.failed(k, err, try)
		if hurry == nil {
			return
		}
		wait := backoff/2 + rand.N(backoff)
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-time.After(wait):
		case <-hurry:
			backoff = minBackoff
		case <-f.ctx.Done():
		}
		f.resume(k)
	}
}

func (f *fetcher) arrived(k *call, b []byte, took time.Duration) {
	f.mu.Lock()
	f.bytes += uint64(len(b))
	now := time.Now()
	if !f.stalled.IsZero() {
		f.log.Info().Str("volume", f.volume).Dur("took", now.Sub(f.stalled)).Msg("blocks arrive again")
		f.stalled, f.why = time.Time{}, ""
		if now.Sub(f.arrival) > backAgain {
			for _, k := range f.calls {
				k.hurryLocked()
			}
		}
	}
	f.arrival = now
	prio := k.prio
	if prio == background {
		f.tuneLocked(len(b), took)
	}
	f.endLocked(k, b, nil)
	f.mu.Unlock()

	if prio == background {
		// The limit delays what comes next, not the block that is here. An
		// error means that the volume is closed.
		_ = f.limit.WaitN(f.ctx, len(b))
		_ = f.line.Wait(f.ctx, len(b))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.landLocked(k)
	f.startLocked()
}

// failed notes a failed try. Where there is to be another it returns a channel
// that ends the rest before it; nil: the call is over. Only readers wait for ever.
func (f *fetcher) failed(k *call, err error, try int) (hurry <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.startLocked()
	f.flying[k.prio]--
	if f.ctx.Err() != nil {
		f.endLocked(k, nil, f.closedError())
		return nil
	}
	if f.stalled.IsZero() {
		f.stalled = time.Now()
	}
	f.why = err.Error()
	if try == 1 || try%20 == 0 {
		f.log.Warn().Err(err).Str("volume", f.volume).Stringer("cid", k.c).Int("try", try).Msg("cannot fetch block, trying again")
	}
	if p, ok := k.wanted(); ok && (p == reader || try < backgroundTries) {
		k.prio, k.resting = p, true
		return k.hurry
	}
	f.endLocked(k, nil, fmt.Errorf("%w: volume %s: block %s: %w", fusefs.ErrRemote, f.volume, k.c, err))
	return nil
}

// resume ends the rest after a failed try.
func (f *fetcher) resume(k *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k.resting = false
	f.flying[k.prio]++
}

// hurryLocked ends the rest of k, if it rests.
func (k *call) hurryLocked() {
	if k.resting {
		close(k.hurry)
		k.hurry = make(chan struct{})
	}
}

// stallLocked tells since when nothing arrives that is wanted, and why; the zero time: something does.
func (f *fetcher) stallLocked(now time.Time) (since time.Time, why string) {
	if !f.stalled.IsZero() {
		return f.stalled, f.why
	}
	for _, k := range f.calls {
		if !k.queued && (since.IsZero() || k.began.Before(since)) {
			since = k.began
		}
	}
	if f.arrival.After(since) && !since.IsZero() {
		since = f.arrival
	}
	if since.IsZero() || now.Sub(since) < silence {
		return time.Time{}, ""
	}
	return since, "the block store does not answer"
}

func (f *fetcher) landLocked(k *call) {
	f.flying[k.prio]--
	if k.prio == reader {
		f.lastRead = time.Now()
	}
}

func (f *fetcher) endLocked(k *call, b []byte, err error) {
	k.data, k.err = b, err
	delete(f.calls, k.c)
	if _, used := k.wanted(); used && err == nil {
		f.landed[k.c] = k
	}
	close(k.done)
}

// tuneLocked moves the number of background fetches in flight so that the
// link is full and its queue is short: as long as a large block takes less
// than twice the fastest one, more may fly; from three times on fewer do.
// What queues on the link is what a reader who comes now has to wait for.
func (f *fetcher) tuneLocked(size int, took time.Duration) {
	const large = 64 << 10
	if size < large {
		return
	}
	// The fastest time of late: it drifts up by 1% a block, so that a link
	// that became slower is not held against its better days for ever.
	f.fastest += f.fastest / 100
	if f.fastest == 0 || took < f.fastest {
		f.fastest = took
	}
	switch {
	case took < 2*f.fastest:
		f.window += 1 / f.window
	case took > 3*f.fastest:
		f.window -= 0.25
	}
	f.window = min(max(f.window, minBackground), maxBackground)
}
