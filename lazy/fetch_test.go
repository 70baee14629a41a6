package lazy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"fractal-lazy/fusefs"
	"fractal-lazy/seal"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
	"fractal-lazy/store/memory"

	"github.com/ipfs/go-cid"
	"github.com/rs/zerolog"
)

// fetchWorld is a fetcher before a store with faults, and n blocks in it.
func fetchWorld(t *testing.T, n int) (*fetcher, *faulty.Store, []cid.Cid) {
	t.Helper()
	m := memory.New()
	var cids []cid.Cid
	err := m.PutMany(context.Background(), func(yield func(store.Block, error) bool) {
		for i := range n {
			b := bytes.Repeat([]byte(fmt.Sprint("block", i)), 1000)
			c := store.Sum(store.Raw, b)
			cids = append(cids, c)
			if !yield(store.Block{CID: c, Data: b}, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	s := faulty.New(m)
	f := newFetcher(s, key.Sealer(), "test", 0, zerolog.Nop())
	t.Cleanup(f.close)
	return f, s, cids
}

func TestFetcher_OneFetchHoweverManyWantIt(t *testing.T) {
	f, s, cids := fetchWorld(t, 1)
	s.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Delay(50 * time.Millisecond)})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := f.Get(context.Background(), cids[0]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.Gets(cids[0]); n != 1 {
		t.Errorf("%d fetches for 50 readers, want 1", n)
	}
}

func TestFetcher_ReaderPreemptsTheBackground(t *testing.T) {
	f, s, cids := fetchWorld(t, 100)
	s.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Delay(20 * time.Millisecond)})
	ctx := withPriority(context.Background(), background)
	var wg sync.WaitGroup
	for _, c := range cids[:90] {
		wg.Go(func() { _, _ = f.Get(ctx, c) })
	}
	time.Sleep(30 * time.Millisecond) // the background is under way
	began := time.Now()
	for _, c := range cids[90:95] {
		if _, err := f.Get(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	// Five readers one after the other: their own five delays, while 90
	// blocks at no more than 32 a time would take far longer.
	f.mu.Lock()
	waiting := len(f.queue[background])
	f.mu.Unlock()
	if waiting == 0 {
		t.Errorf("the background was through before the readers, after %v", time.Since(began))
	}
	wg.Wait()
}

func TestFetcher_ReaderTakesOverAQueuedBackgroundFetch(t *testing.T) {
	f, _, cids := fetchWorld(t, 1)
	f.setPaused(true)
	ctx, cancel := context.WithCancel(withPriority(context.Background(), background))
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := f.Get(ctx, cids[0])
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("a paused background fetch ended: %v", err)
	default:
	}
	if _, err := f.Get(context.Background(), cids[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestFetcher_WaitsThroughFaultsAndServesNothingWrong(t *testing.T) {
	faults := map[string]faulty.Fault{
		"down":      faulty.Fail(store.ErrUnavailable),
		"missing":   faulty.Fail(store.ErrNotFound),
		"bit flip":  faulty.FlipBit(77),
		"truncated": faulty.Truncate(10),
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			f, s, cids := fetchWorld(t, 1)
			rule := s.Inject(faulty.Rule{Op: faulty.Get, Fault: fault})
			done := make(chan error, 1)
			go func() {
				b, err := f.Get(context.Background(), cids[0])
				if err == nil {
					err = store.Verify(cids[0], b)
				}
				done <- err
			}()
			for rule.Hits() < 2 {
				time.Sleep(time.Millisecond)
			}
			f.mu.Lock()
			stalled := f.stalled
			f.mu.Unlock()
			if stalled.IsZero() {
				t.Error("a fetch that fails does not show as stalled")
			}
			rule.Lift()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if !f.stalled.IsZero() {
				t.Error("still stalled after the fault is gone")
			}
		})
	}
}

func TestFetcher_ReaderGivesUpAndTheFetchGoesOn(t *testing.T) {
	f, s, cids := fetchWorld(t, 1)
	s.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Delay(100 * time.Millisecond)})
	ctx, cancel := timeout(context.Background(), 10*time.Millisecond, "test")
	defer cancel()
	if _, err := f.Get(ctx, cids[0]); !errors.Is(err, fusefs.ErrTimeout) {
		t.Fatalf("error %v, want a time-out", err)
	}
	if _, err := f.Get(context.Background(), cids[0]); err != nil {
		t.Fatal(err)
	}
	if n := s.Gets(cids[0]); n != 1 {
		t.Errorf("%d fetches, want the first one's result", n)
	}
}

func TestFetcher_BackgroundGivesItsPlaceToOthers(t *testing.T) {
	f, s, cids := fetchWorld(t, 1)
	s.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrNotFound)})
	ctx, cancel := context.WithTimeout(withPriority(context.Background(), background), 10*time.Second)
	defer cancel()
	_, err := f.Get(ctx, cids[0])
	if !errors.Is(err, fusefs.ErrRemote) || !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error %v, want that the block is not to be had", err)
	}
	if n := s.Gets(cids[0]); n != backgroundTries {
		t.Errorf("%d tries, want %d", n, backgroundTries)
	}
}

func TestFetcher_BlocksThatAreGoneKeepNoOtherFromComing(t *testing.T) {
	f, s, cids := fetchWorld(t, maxReader+50)
	gone, good := cids[:maxReader+6], cids[maxReader+6:]
	for _, c := range gone {
		s.Inject(faulty.Rule{Op: faulty.Get, CID: c, Fault: faulty.Fail(store.ErrNotFound)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	waiting, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	for _, c := range gone { // each waits for ever, some of them as read-ahead
		readers.Go(func() { _, _ = f.Get(waiting, c) })
	}
	for _, c := range gone {
		for s.Gets(c) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if _, err := f.Get(ctx, good[0]); err != nil {
		t.Errorf("a reader: %v", err)
	}
	for _, c := range good[1:] {
		if _, err := f.Get(withPriority(ctx, background), c); err != nil {
			t.Fatalf("the background: %v", err)
		}
	}
}

func TestFetcher_OnlyReadersWaitForEver(t *testing.T) {
	for _, p := range []priority{background, ahead} {
		f, s, cids := fetchWorld(t, 1)
		s.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrNotFound)})
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		killed, kill := context.WithCancel(ctx)
		var reader sync.WaitGroup
		reader.Go(func() { _, _ = f.Get(killed, cids[0]) })
		done := make(chan error, 1)
		go func() {
			_, err := f.Get(withPriority(ctx, p), cids[0])
			done <- err
		}()
		for s.Gets(cids[0]) <= backgroundTries {
			time.Sleep(time.Millisecond)
		}
		select {
		case err := <-done:
			t.Errorf("gave up while a reader waits: %v", err)
		default:
		}
		kill()
		reader.Wait()
		if err := <-done; !errors.Is(err, fusefs.ErrRemote) {
			t.Errorf("error %v, want that the block is not to be had", err)
		}
	}
}

func TestFetcher_WaiterWhoBecomesUrgentIsServedAtOnce(t *testing.T) {
	f, _, cids := fetchWorld(t, 1)
	f.setPaused(true)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	urgent := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := f.Get(withUrgency(ctx, background, urgent), cids[0])
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("a paused fetch ended: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(urgent)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, n := range f.flying {
		if n != 0 && !(priority(p) == reader && n == 1) { // it may be landing
			t.Errorf("%d fetches of priority %d are under way", n, p)
		}
	}
}

func TestFetcher_NobodyWaitsNothingIsFetched(t *testing.T) {
	f, s, cids := fetchWorld(t, 10)
	f.setPaused(true)
	ctx, cancel := context.WithCancel(withPriority(context.Background(), background))
	var wg sync.WaitGroup
	for _, c := range cids {
		wg.Go(func() { _, _ = f.Get(ctx, c) })
	}
	for n := 0; n < len(cids); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		n = len(f.queue[background])
		f.mu.Unlock()
	}
	cancel()
	wg.Wait()
	f.setPaused(false)
	if _, err := f.Get(context.Background(), cids[9]); err != nil {
		t.Fatal(err)
	}
	if n := s.TotalGets(); n != 1 {
		t.Errorf("%d fetches, want only what somebody waits for", n)
	}
}

func TestFetcher_ArrivalAfterSilenceEndsTheRestOfOthers(t *testing.T) {
	f, s, cids := fetchWorld(t, 2)
	rule := s.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrUnavailable)})
	done := make(chan error, 1)
	go func() {
		_, err := f.Get(context.Background(), cids[0])
		done <- err
	}()
	resting := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.calls[cids[0]].resting
	}
	for s.Gets(cids[0]) < 6 || !resting() { // the rests are of seconds now
		time.Sleep(time.Millisecond)
	}
	rule.Lift()
	began := time.Now()
	if _, err := f.Get(context.Background(), cids[1]); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the network is back, and a reader waited %v more", took)
	}
}

func TestFetcher_ContentThatDoesNotOpenIsAnErrorAtOnce(t *testing.T) {
	f, _, cids := fetchWorld(t, 1) // none of them is sealed
	if _, _, err := f.data(context.Background(), cids[0], true); !errors.Is(err, fusefs.ErrIntegrity) {
		t.Fatalf("error %v, want an integrity error", err)
	}
}

func TestFetcher_RateLimitHoldsTheBackground(t *testing.T) {
	f, _, cids := fetchWorld(t, 60)
	size := len("block0") * 1000
	f.limit.SetBurst(size * 2)
	f.setRate(uint64(size * 100))
	ctx := withPriority(context.Background(), background)
	began := time.Now()
	var wg sync.WaitGroup
	for _, c := range cids {
		wg.Go(func() { _, _ = f.Get(ctx, c) })
	}
	wg.Wait()
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("60 blocks at 100 a second took %v", took)
	}
}

func TestFetcher_SilenceCountsAsStalled(t *testing.T) {
	f, s, cids := fetchWorld(t, 2)
	s.Inject(faulty.Rule{Op: faulty.Get, CID: cids[0], Fault: faulty.Delay(time.Hour)})
	stalled := func(after time.Duration) (since time.Time) {
		f.mu.Lock()
		defer f.mu.Unlock()
		since, _ = f.stallLocked(time.Now().Add(after))
		return since
	}
	if !stalled(time.Hour).IsZero() {
		t.Error("stalled, and nothing is wanted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	go func() { _, _ = f.Get(ctx, cids[0]) }() // ends with ctx
	for end := began.Add(10 * time.Second); stalled(time.Hour).IsZero(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a block that does not come is no stall")
		}
	}
	if !stalled(silence / 2).IsZero() {
		t.Error("stalled at once")
	}
	// Another block arrives: from then on it counts.
	middle := time.Now()
	if _, err := f.Get(ctx, cids[1]); err != nil {
		t.Fatal(err)
	}
	if since := stalled(time.Hour); since.Before(middle) {
		t.Errorf("stalled since %v, a block arrived after %v", since, middle)
	}
}

func TestMeter_CountsWholeSeconds(t *testing.T) {
	var m meter
	at := time.Unix(1_700_000_000, 0)
	for i := range 20 {
		m.add(at.Add(time.Duration(i)*time.Second), 900)
	}
	if got := m.rate(at.Add(19 * time.Second)); got != 900 {
		t.Errorf("rate %v, want 900", got)
	}
	if got := m.rate(at.Add(time.Minute)); got != 0 {
		t.Errorf("rate %v a minute later, want 0", got)
	}
}

// sealedWorld is fetchWorld with n blocks of content.
func sealedWorld(t *testing.T, n int) (*fetcher, *faulty.Store, []cid.Cid) {
	t.Helper()
	f, s, _ := fetchWorld(t, 0)
	var cids []cid.Cid
	err := s.PutMany(t.Context(), func(yield func(store.Block, error) bool) {
		for i := range n {
			plain := append([]byte{0}, fmt.Sprint("content ", i)...) // of the codec that stores as it is
			b := f.seal.Seal(nil, seal.KindData, nil, plain)
			cids = append(cids, store.Sum(store.Raw, b))
			if !yield(store.Block{CID: cids[i], Data: b}, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, s, cids
}

func TestFetcher_WhoComesBeforeTheContentIsUsedFetchesNothing(t *testing.T) {
	f, s, cids := sealedWorld(t, 1)
	for n := 1; n <= 2; n++ {
		_, first, err := f.data(t.Context(), cids[0], false)
		if err != nil {
			t.Fatal(err)
		}
		b, second, err := f.data(withPriority(t.Context(), background), cids[0], false)
		if err != nil || string(b) != "content 0" {
			t.Fatalf("%q, %v", b, err)
		}
		if got := s.Gets(cids[0]); got != n {
			t.Errorf("%d fetches, want %d: the first caller has not written it yet", got, n)
		}
		first()
		second()
		f.mu.Lock()
		if len(f.landed) != 0 || len(f.calls) != 0 {
			t.Errorf("%d blocks are kept that nobody uses, %d calls", len(f.landed), len(f.calls))
		}
		f.mu.Unlock()
	}
}

func TestFetcher_KeptContentIsFetchedOnce(t *testing.T) {
	f, s, cids := sealedWorld(t, 400)
	for _, c := range cids {
		var wg sync.WaitGroup
		for range 12 { // each a little later than the one before, and all about the time that it arrives
			wg.Go(func() {
				_, done, err := f.data(t.Context(), c, true)
				if err != nil {
					t.Error(err)
					return
				}
				done()
			})
		}
		wg.Wait()
		if n := s.Gets(c); n != 1 {
			t.Fatalf("%d fetches, want 1", n)
		}
	}
}
