package lazy

import (
	"context"
)

// priority orders fetches. It travels in the context of a call.
type priority int

const (
	background priority = iota // the hydrator
	ahead                      // what follows a sequential reader
	reader                     // somebody waits
	priorities
)

type priorityKey struct{}

// urgency is a priority that may turn to that of a reader, for good, when
// urgent, which may be nil, is closed.
type urgency struct {
	p      priority
	urgent <-chan struct{}
}

func withPriority(ctx context.Context, p priority) context.Context {
	return withUrgency(ctx, p, nil)
}

func withUrgency(ctx context.Context, p priority, urgent <-chan struct{}) context.Context {
	return context.WithValue(ctx, priorityKey{}, urgency{p, urgent})
}

// urgencyOf returns the urgency of ctx, with urgent nil where that has no more to say.
func urgencyOf(ctx context.Context) urgency {
	u, ok := ctx.Value(priorityKey{}).(urgency)
	if !ok || u.p == reader {
		return urgency{p: reader}
	}
	select {
	case <-u.urgent:
		return urgency{p: reader}
	default:
		return u
	}
}
