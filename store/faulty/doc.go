// Package faulty makes a block store fail on purpose: to show what a volume
// does when its blocks are missing, late, wrong or refused.
//
// # Terms
//
// A Rule says which calls it is for (operation, CID, how many to let pass,
// how many to spoil) and what happens to them (a Fault). Inject puts a rule in
// force, at any time; Lift takes it away, and what hangs under it goes on.
// The first rule in force that matches a call, in the order of Inject,
// decides about it.
//
// Rules live in a Faults, which serves two places:
//
//   - Store wraps a store.Store. Blocks that a fault changed are verified
//     again, as a real client verifies what comes off the network, so that
//     the caller sees store.ErrCorrupt. A rule with Unverified passes the bad
//     bytes on, to test what stands behind that.
//   - Handler wraps the HTTP handler of a block node, so that a real client
//     gets the fault over a real connection.
//
// A fault that was never hit proves nothing: check Unhit at the end of a test.
//
// Everything may be called at once from many goroutines.
//
//	s := faulty.New(memory.New())
//	rot := s.Inject(faulty.Rule{Name: "bit rot", CID: c, Times: 1, Fault: faulty.FlipBit(77)})
//	_, err := s.Get(ctx, c) // store.ErrCorrupt
//	_, err = s.Get(ctx, c)  // nil
//	if u := s.Unhit(); len(u) > 0 { t.Errorf("never hit: %v", u) }
//	rot.Lift()
package faulty
