package pace

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestChoose_UrgentFirstThenWhoWaitedLongest(t *testing.T) {
	for name, c := range map[string]struct {
		all   []choice
		spare bool
		want  int
	}{
		"one":                      {[]choice{{5, false}}, false, 0},
		"the longest ago":          {[]choice{{5, false}, {3, false}, {4, false}}, false, 1},
		"the first of equals":      {[]choice{{3, false}, {3, false}}, false, 0},
		"urgent":                   {[]choice{{1, false}, {9, true}, {8, true}}, false, 2},
		"a spare turn":             {[]choice{{1, true}, {9, false}, {8, false}}, true, 2},
		"a spare turn, all urgent": {[]choice{{2, true}, {1, true}}, true, 1},
	} {
		if got := choose(c.all, c.spare); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// order has users wait for many turns each, of a line that is taken, frees that, and returns whose turn came when.
func order(turns []int, urgent ...func() bool) (users []int) {
	line := NewLine(1 << 50)
	var all []*turn
	who := map[*turn]int{}
	for i, n := range turns {
		u := line.User(nil)
		if i < len(urgent) {
			u.urgent = urgent[i]
		}
		for range n {
			t := &turn{user: u, n: 1000, come: make(chan struct{})}
			who[t] = i
			all = append(all, t)
		}
	}
	line.mu.Lock()
	defer line.mu.Unlock()
	line.waiting = append(line.waiting, all...)
	line.nextLocked()
	users = make([]int, len(all))
	for _, t := range all {
		users[t.at-1] = who[t]
	}
	return users
}

func TestLine_UsersTakeTurnsHoweverManyOfEachWait(t *testing.T) {
	got := order([]int{100, 10, 10})
	for i, u := range got[:30] {
		if u != i%3 {
			t.Fatalf("turn %d is of user %d: %v", i, u, got[:30])
		}
	}
}

func TestLine_UrgentOnesGoFirstAndNobodyStarves(t *testing.T) {
	always := func() bool { return true }
	got := order([]int{100, 70}, nil, always)
	n := [2]int{}
	for _, u := range got[:80] {
		n[u]++
	}
	if n != [2]int{10, 70} {
		t.Errorf("of the first 80 turns %d are of the urgent user, want 70: %v", n[1], got[:80])
	}
}

func TestLine_KeepsToItsRate(t *testing.T) {
	const rate = 1 << 20
	line := NewLine(rate)
	began := time.Now()
	var sum atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		u := line.User(nil)
		wg.Go(func() {
			for range 25 {
				if err := u.Wait(t.Context(), 4096); err != nil {
					t.Error(err)
				}
				sum.Add(4096)
			}
		})
	}
	wg.Wait()
	// A loaded machine may be slower, never faster: but for the burst, and the last piece.
	if took, least := time.Since(began), time.Duration(float64(sum.Load()-4096)/rate*float64(time.Second))-burst; took < least {
		t.Errorf("%d bytes in %v, at least %v are meant", sum.Load(), took, least)
	}
}

func TestLine_EndsWithItsContextAndHasNoLimitAtZero(t *testing.T) {
	line := NewLine(1)
	u := line.User(nil)
	_ = u.Wait(t.Context(), 1000) // the line is taken for long
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.Wait(ctx, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(line.waiting) != 0 {
		t.Error("it still waits")
	}
	var none *Line
	for _, u := range []*User{NewLine(0).User(nil), none.User(nil)} {
		if err := u.Wait(t.Context(), 1<<40); err != nil {
			t.Error(err)
		}
	}
}
