package lazy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fractal-lazy/fusefs"
	"fractal-lazy/pace"
	"fractal-lazy/seal"
	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// How many fetches of a priority may be on their way at once. The number of
// background fetches moves between its two bounds, see fetcher.tune.
const (
	maxReader     = 64
	maxAhead      = 16
	minBackground = 4
	maxBackground = 32
)

const (
	// cachedBlocks bounds the cache of opened content: packs, for the most
	// part, whose next piece is wanted soon. At most 512 KiB each.
	cachedBlocks = 48
	// backgroundTries is after how many failures in a row a fetch that no
	// reader waits for gives its place to others; the hydrator comes back to it.
	backgroundTries = 3
	minBackoff      = 100 * time.Millisecond
	maxBackoff      = 5 * time.Second
	// backAgain is after how long a silence a block that arrives makes all
	// others try again at once.
	backAgain = time.Second
	// quiet is how long after a reader's fetch the background stays still:
	// a reader who got one block will often want another.
	quiet = 100 * time.Millisecond
	// silence is how long blocks may be on their way, and none arrive, before
	// that counts as stalled: a network that swallows everything fails nothing.
	silence = 10 * time.Second
)

// fetcher brings blocks: each at most once at a time however many want it,
// readers before the background, again and again until it succeeds or nobody
// waits any more. It is a snapshot.Getter.
type fetcher struct {
	store  store.Store
	seal   *seal.Sealer
	volume string
	log    zerolog.Logger
	ctx    context.Context // of the volume; ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	limit  *rate.Limiter // of background bytes
	cache  *lru.Cache[cid.Cid, []byte]
	told   func(Event, time.Duration) // nil: nobody; set before the first fetch
	line   *pace.User                 // shared with other volumes; nil: no limit
	nodes  snapshot.Getter            // on this machine; nil: none

	foreseen foreseen

	mu       sync.Mutex
	calls    map[cid.Cid]*call
	landed   map[cid.Cid]*call // arrived, and in use by those who waited
	queue    [priorities][]*call
	flying   [priorities]int
	paused   bool
	lastRead time.Time // when the last reader's fetch ended
	arrival  time.Time // of the last block
	timer    *time.Timer
	window   float64       // background fetches allowed at once
	fastest  time.Duration // of a large block, decaying upwards
	bytes    uint64        // sealed bytes fetched
	stalled  time.Time     // since when nothing arrives; zero: it does
	why      string        // the last failure, while stalled
}

func newFetcher(st store.Store, s *seal.Sealer, volume string, bytesPerSecond uint64, log zerolog.Logger) *fetcher {
	cache, err := lru.New[cid.Cid, []byte](cachedBlocks)
	if err != nil { // only for a size below 1
		panic(err)
	}
	f := &fetcher{
		store: st, seal: s, volume: volume, log: log, cache: cache,
		limit: rate.NewLimiter(rate.Inf, store.MaxBlock), calls: map[cid.Cid]*call{}, landed: map[cid.Cid]*call{}, window: 8,
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.setRate(bytesPerSecond)
	return f
}

func (f *fetcher) close() {
	f.cancel()
	f.mu.Lock()
	if f.timer != nil {
		f.timer.Stop()
	}
	for p := range f.queue {
		for _, c := range f.queue[p] {
			f.endLocked(c, nil, f.closedError())
		}
		f.queue[p] = nil
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fetcher) setRate(bytesPerSecond uint64) {
	if bytesPerSecond == 0 {
		f.limit.SetLimit(rate.Inf)
		return
	}
	f.limit.SetLimit(rate.Limit(bytesPerSecond))
}

func (f *fetcher) setPaused(p bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = p
	f.startLocked()
}

// data returns the opened content of a KindData block, shared and not to be
// changed. It lasts as long as ctx does, whatever fails meanwhile; but content
// that does not open is an error at once, since asking again cannot help.
// keep: others will want pieces of the same block. The caller calls done when the
// content is where the next one finds it: who comes before gets the same bytes, and nothing is fetched again.
func (f *fetcher) data(ctx context.Context, c cid.Cid, keep bool) (b []byte, done func(), err error) {
	for missed := false; ; missed = true {
		if b, ok := f.cache.Get(c); ok {
			if !missed {
				f.observe(ContentHit, 0)
			}
			return b, func() {}, nil
		}
		if !missed {
			f.observe(ContentMiss, 0)
		}
		block, done, err := f.get(ctx, c, true)
		if err != nil {
			return nil, nil, err
		}
		if done == nil { // in the cache by now, or it was
			continue
		}
		if b, ok := f.cache.Get(c); ok { // another waiter was first
			return b, done, nil
		}
		b, err := snapshot.OpenData(f.seal, block)
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("%w: volume %s: block %s: %w", fusefs.ErrIntegrity, f.volume, c, err)
		}
		if keep {
			f.cache.Add(c, b)
		}
		return b, done, nil
	}
}

// Get returns the verified bytes of block c, shared and not to be changed,
// at the priority of ctx. The fetch itself runs on the volume's context: it
// outlives a reader who gives up.
func (f *fetcher) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if b := f.here(ctx, c); b != nil {
		return b, nil
	}
	b, done, err := f.get(ctx, c, false)
	if err == nil {
		done()
	}
	return b, err
}

// here returns a node that is on this machine, else nil.
func (f *fetcher) here(ctx context.Context, c cid.Cid) []byte {
	if f.nodes == nil || c.Prefix().Codec != store.DagCBOR {
		return nil
	}
	b, err := f.nodes.Get(ctx, c)
	if err != nil {
		return nil
	}
	return b
}

// get is Get from the store. Until done is called the block is not fetched again. Where content is set and the cache has the opened
// block, it returns no block and no done.
func (f *fetcher) get(ctx context.Context, c cid.Cid, content bool) (b []byte, done func(), err error) {
	if b := f.foreseen.get(c); b != nil {
		return b, func() {}, nil
	}
	u := urgencyOf(ctx)
	k, shared := f.join(c, u.p, content)
	if k == nil {
		return nil, nil, nil
	}
	if shared {
		f.observe(Shared, 0)
	}
	began := time.Now() // u changes where the wait becomes urgent
	defer func() {
		if err != nil {
			f.leave(k, u.p)
		}
		if u.p == reader {
			f.observe(Waited, time.Since(began))
		}
	}()
	for {
		select {
		case <-k.done:
			p := u.p
			return k.data, func() { f.leave(k, p) }, k.err
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-u.urgent:
			f.raise(k, u.p)
			u = urgency{p: reader}
		}
	}
}

// startLocked starts what may start now, highest priority first. While a
// reader waits nothing below starts; what is under way goes on.
func (f *fetcher) startLocked() {
	if f.ctx.Err() != nil {
		return
	}
	for p := reader; p >= background; p-- {
		for len(f.queue[p]) > 0 && f.flying[p] < f.allowedLocked(p) {
			k := f.queue[p][0]
			f.queue[p] = f.queue[p][1:]
			if _, ok := k.wanted(); !ok { // all have given up
				f.endLocked(k, nil, context.Canceled)
				continue
			}
			k.queued, k.began = false, time.Now()
			f.flying[p]++
			f.wg.Add(1)
			go f.fly(k)
		}
	}
}

func (f *fetcher) allowedLocked(p priority) int {
	switch p {
	case reader:
		return maxReader
	case ahead:
		return maxAhead
	}
	if f.paused || f.flying[reader] > 0 || f.flying[ahead] > 0 {
		return 0
	}
	if wait := quiet - time.Since(f.lastRead); wait > 0 {
		f.wakeLocked(wait)
		return 0
	}
	return int(f.window)
}

// wakeLocked looks again after d.
func (f *fetcher) wakeLocked(d time.Duration) {
	if f.timer == nil {
		f.timer = time.AfterFunc(d, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.startLocked()
		})
		return
	}
	f.timer.Reset(d)
}

// timeout returns ctx ending after d with the error that the reader gets.
func timeout(ctx context.Context, d time.Duration, volume string) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%w: volume %s: no block within %v", fusefs.ErrTimeout, volume, d))
}

// isTransient tells errors that another pass may not meet.
func isTransient(err error) bool {
	for _, e := range []error{fusefs.ErrRemote, fusefs.ErrNoSpace, unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
