// Package retention decides which snapshots are kept. It is pure: it reads
// no clock, knows no volume and removes nothing.
//
// # Terms
//
// A Pattern is a list of times, each longer than the one before, written as
// `4h:1d:2w:2y` with the units m, h, d, w and y (365 days): all snapshots of
// the last four hours are kept, then one of each four hours during the first
// day, then one of each day during two weeks, then one of each two weeks
// during two years, and none that is older. A Pattern of one time, `2h`, keeps
// what is not older. These are the patterns of Buttervolume, with the same
// meaning and the same rules.
//
// Ages are counted in whole seconds from now backwards, and cut into frames of
// the length that their part of the Pattern names: 0 to 4 h, 4 to 8 h and so
// on. Of the snapshots in one frame the oldest stays. So each snapshot that
// stays once is the one that stays when it has moved to the next frame, however
// often the Pattern is applied.
//
// # Guarantees
//
// Plan returns a Decision for each snapshot, in the order in which they were
// given. What is protected, or from the future, is kept; the reason says so.
//
// All functions may be called from many goroutines at once.
//
//	p, err := retention.Parse("4h:1d:2w:2y")
//	if err != nil {
//		return err
//	}
//	for _, d := range retention.Plan(all, p, time.Now()) {
//		fmt.Println(d.ID, d.Remove, d.Reason)
//	}
package retention
