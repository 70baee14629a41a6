package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Snapshot is what Plan has to know of one.
type Snapshot struct {
	ID      string // for who reads the decisions
	Created time.Time
	// Protected says why it is kept whatever the pattern says; empty: it is not protected.
	Protected string
}

// Decision is what becomes of one snapshot, and why.
type Decision struct {
	ID     string
	Remove bool
	Reason string
}

// Plan decides for each of the snapshots, in their order. Those that are protected count like all others when one is
// picked to stay.
func Plan(all []Snapshot, p Pattern, now time.Time) []Decision {
	out := make([]Decision, len(all))
	order := make([]int, len(all)) // oldest first
	for i, s := range all {
		out[i] = Decision{ID: s.ID, Reason: "no pattern is given"}
		order[i] = i
	}
	if len(p.times) == 0 {
		return out
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(all[a].Created.Compare(all[b].Created), cmp.Compare(all[a].ID, all[b].ID))
	})
	for _, i := range order {
		out[i].Remove, out[i].Reason = p.outside(age(all[i].Created, now))
	}
	for n := len(p.times) - 1; n > 0; n-- {
		p.thin(all, order, out, n, now)
	}
	for i, s := range all {
		if s.Protected != "" {
			out[i].Remove, out[i].Reason = false, s.Protected
		}
	}
	return out
}

// outside decides for ages that no part of the pattern thins out.
func (p Pattern) outside(age int64) (remove bool, reason string) {
	switch first := p.times[0]; {
	case p.last().over(age):
		return true, "older than " + p.last().text
	case age < 0:
		return false, "its time is in the future"
	case len(p.times) == 1 || age < first.seconds:
		return false, "not older than " + first.text
	}
	return false, ""
}

// thin keeps, of the snapshots whose age is from time n-1 to time n, the oldest of each frame of the length of time n-1. An age that is
// just a time of the pattern is in both parts. As in Buttervolume, the frame in which the pattern ends has no snapshot of its own while
// one is there that is too old.
func (p Pattern) thin(all []Snapshot, order []int, out []Decision, n int, now time.Time) {
	frame, end := p.times[n-1], p.times[n]
	ends := n == len(p.times)-1
	rule := fmt.Sprintf("between %s and %s one of each %s is kept", frame.text, end.text, frame.text)
	last, oldest := int64(-1), ""
	for _, i := range order {
		a := age(all[i].Created, now)
		if end.over(a) && !ends || a < frame.seconds {
			continue
		}
		f := a / frame.seconds
		switch {
		case out[i].Remove:
		case f == last:
			out[i].Remove, out[i].Reason = true, rule+", and "+oldest+" is the oldest there"
		default:
			out[i].Reason = rule
		}
		if f != last {
			last, oldest = f, all[i].ID
		}
	}
}
