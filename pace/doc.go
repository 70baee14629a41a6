// Package pace shares a line of a limited rate among those who send over it,
// or receive: in turns, so that none waits for another's backlog, and those who
// are in a hurry first.
//
// A Line has Users, such as the upload of one volume. A User asks with Wait before
// each piece that it sends (or after each that it received), of at most some
// hundred kilobytes. Where several wait, the turn goes to the one that is
// urgent, else to the one whose last turn was the longest ago; but every eighth
// turn goes to one that is not urgent, so that nobody starves.
//
// Everything may be called at once from many goroutines. A nil *Line, and a
// nil *User, have no limit.
//
//	line := pace.NewLine(10 << 20) // bytes a second
//	u := line.User(func() bool { return flushing })
//	for _, b := range blocks {
//		if err := u.Wait(ctx, len(b)); err != nil {
//			return err
//		}
//		send(b)
//	}
package pace
