package faulty

import (
	"slices"
	"time"

	"github.com/ipfs/go-cid"
)

// Fault is what happens to a call that a Rule matches: one of the functions
// of this file makes it. The zero value does nothing but be hit.
type Fault struct {
	name  string
	delay time.Duration
	hang  bool
	err   error
	// change makes bad bytes of good ones; it owns its argument.
	change func([]byte) []byte
	swap   cid.Cid
	replay bool
	status int  // of a Handler
	cut    bool // a Handler ends the connection inside the body
}

// Fail makes the call return err (wrapped), such as store.ErrUnavailable. A
// Handler answers 500, or what Status says.
func Fail(err error) Fault { return Fault{name: "fail", err: err} }

// Status makes a Handler answer with an HTTP status, and a Store fail with err.
func Status(code int, err error) Fault { return Fault{name: "status", err: err, status: code} }

// Delay lets the call go on after d.
func Delay(d time.Duration) Fault { return Fault{name: "delay", delay: d} }

// Hang keeps the call until its context ends or the rule is lifted; then it
// goes on.
func Hang() Fault { return Fault{name: "hang", hang: true} }

// FlipBit inverts one bit of the block, counted from its start and wrapping
// at its end.
func FlipBit(n int) Fault {
	return Fault{name: "flip bit", change: func(b []byte) []byte {
		if len(b) > 0 {
			i := n % (8 * len(b))
			b[i/8] ^= 1 << (i % 8)
		}
		return b
	}}
}

// Truncate keeps the first n bytes of the block, or all but the last where it
// has no more than n.
func Truncate(n int) Fault {
	return Fault{name: "truncate", change: func(b []byte) []byte {
		return b[:max(0, min(n, len(b)-1))]
	}}
}

// Extend appends bytes to the block.
func Extend(extra []byte) Fault {
	return Fault{name: "extend", change: func(b []byte) []byte { return append(b, extra...) }}
}

// Swap answers with the block of another CID, which the store must have.
func Swap(with cid.Cid) Fault { return Fault{name: "swap", swap: with} }

// Replay answers with the block that the last good Get returned, as a stale
// cache or a confused proxy would.
func Replay() Fault { return Fault{name: "replay", replay: true} }

// Cut makes a Handler announce the whole block, send n bytes and end the
// connection. At a Store it is a Fail with err.
func Cut(n int, err error) Fault {
	return Fault{name: "cut", cut: true, err: err, change: func(b []byte) []byte {
		return slices.Clone(b[:min(n, len(b))])
	}}
}
