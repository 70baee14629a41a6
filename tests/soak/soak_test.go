package main

import (
	"context"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
)

func TestSoak_TwoLivesLeaveNothing(t *testing.T) {
	kit.NeedRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	dir := t.TempDir()
	binary, err := build(ctx, dir)
	kit.Must(t, err)
	notes, err := soak(ctx, dir, binary, func(lives int) bool { return lives < 2 })
	kit.Must(t, err)
	kit.NoLeaks(t, dir)
	kit.Must(t, steady(notes))
	for _, n := range notes {
		t.Logf("%+v", n)
		if n.rss > 1<<30 {
			t.Errorf("the daemon has %d MiB after %d lives", n.rss>>20, n.lives)
		}
	}
}

func TestSteady(t *testing.T) {
	grow := func(last note) []note {
		return []note{{rss: 30 << 20, goroutines: 10, fds: 10}, {rss: 90 << 20}, {rss: 95 << 20}, last}
	}
	for _, c := range []struct {
		name string
		last note
		ok   bool
	}{
		{"the same", note{rss: 92 << 20, goroutines: 12, fds: 11}, true},
		{"goroutines", note{rss: 92 << 20, goroutines: 400, fds: 11}, false},
		{"descriptors", note{rss: 92 << 20, goroutines: 12, fds: 600}, false},
		{"memory", note{rss: 500 << 20, goroutines: 12, fds: 11}, false},
	} {
		if err := steady(grow(c.last)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
