package faulty

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
)

// Op is an operation of a store. A Handler knows Get alone.
type Op string

// The operations, by the names of store.Store's methods.
const (
	Get       Op = "Get"
	Has       Op = "Has"
	PutMany   Op = "PutMany"
	Pin       Op = "Pin"
	PinUpdate Op = "PinUpdate"
	Unpin     Op = "Unpin"
	Pinned    Op = "Pinned"
	Any       Op = "Any"
)

// Rule says what goes wrong, when.
type Rule struct {
	Name string // shown by Unhit; where empty, the fault's own name
	Op   Op     // the zero value is Get

	// CID and Match narrow the rule down; both may be left out. The CID of
	// a PinUpdate is next. Has and PutMany have many: a rule that matches any of
	// them matches the call, and PutMany ends at that block.
	CID   cid.Cid
	Match func(cid.Cid) bool

	After int // matching calls to let pass first
	Times int // calls to spoil; 0 is all of them, until Lift

	Fault Fault

	// Unverified lets a Get of Store return the bytes that the fault made,
	// against the contract of store.Store.
	Unverified bool
}

// Faults is a set of rules in force, and counts what passes. The zero value
// is empty and ready.
type Faults struct {
	mu    sync.Mutex
	rules []*Active
	gets  map[cid.Cid]int
	total int
	last  []byte // the last block that a Get returned unspoilt, for Replay
}

// Active is a rule in force.
type Active struct {
	rule   Rule
	of     *Faults
	lifted chan struct{} // closed by Lift
	hits   atomic.Int64
	seen   int // matching calls; under Faults.mu
}

// Inject puts a rule in force.
func (f *Faults) Inject(r Rule) *Active {
	if r.Op == "" {
		r.Op = Get
	}
	if r.Name == "" {
		r.Name = string(r.Op) + " " + r.Fault.name
	}
	a := &Active{rule: r, of: f, lifted: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, a)
	return a
}

// Lift takes the rule out of force. A call that hangs or waits under it goes
// on as if it had never been. Lifting twice is no error. Hits stay, and so
// does the rule's place in Unhit.
func (a *Active) Lift() {
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	a.liftLocked()
}

func (a *Active) liftLocked() {
	select {
	case <-a.lifted:
	default:
		close(a.lifted)
	}
}

// Hits is the number of calls that the rule spoilt.
func (a *Active) Hits() int { return int(a.hits.Load()) }

// LiftAll lifts every rule.
func (f *Faults) LiftAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.rules {
		a.liftLocked()
	}
}

// Unhit returns the names of the rules, lifted ones too, that no call met.
func (f *Faults) Unhit() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, a := range f.rules {
		if a.hits.Load() == 0 {
			names = append(names, a.rule.Name)
		}
	}
	return names
}

// Gets is how often c was asked for, spoilt answers included.
func (f *Faults) Gets(c cid.Cid) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gets[c]
}

// TotalGets is how often any block was asked for.
func (f *Faults) TotalGets() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// GetCounts returns the gets of every CID that was asked for; the caller owns
// the map.
func (f *Faults) GetCounts() map[cid.Cid]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[cid.Cid]int, len(f.gets))
	for c, n := range f.gets {
		out[c] = n
	}
	return out
}

// ResetCounts sets all counts of gets to zero; hits of rules stay.
func (f *Faults) ResetCounts() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gets, f.total = nil, 0
}

func (f *Faults) count(c cid.Cid) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gets == nil {
		f.gets = map[cid.Cid]int{}
	}
	f.gets[c]++
	f.total++
}

func (f *Faults) remember(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = slices.Clone(data)
}

func (f *Faults) replay() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.last)
}

// meet returns the rule that decides about a call, nil where none does.
func (f *Faults) meet(op Op, cids ...cid.Cid) *Active {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.rules {
		select {
		case <-a.lifted:
			continue
		default:
		}
		if !a.matches(op, cids) {
			continue
		}
		a.seen++
		n := a.seen - a.rule.After
		if n <= 0 || (a.rule.Times > 0 && n > a.rule.Times) {
			continue
		}
		a.hits.Add(1)
		return a
	}
	return nil
}

func (a *Active) matches(op Op, cids []cid.Cid) bool {
	if a.rule.Op != Any && a.rule.Op != op {
		return false
	}
	if !a.rule.CID.Defined() && a.rule.Match == nil {
		return true
	}
	return slices.ContainsFunc(cids, func(c cid.Cid) bool {
		return (!a.rule.CID.Defined() || a.rule.CID.Equals(c)) && (a.rule.Match == nil || a.rule.Match(c))
	})
}

// wait is the part of a Delay or a Hang: it ends by time, by Lift or by done.
func (a *Active) wait(done <-chan struct{}) {
	var after <-chan time.Time
	if d := a.rule.Fault.delay; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	} else if !a.rule.Fault.hang {
		return
	}
	select {
	case <-after:
	case <-a.lifted:
	case <-done:
	}
}
