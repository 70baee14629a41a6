package storetest

import (
	"context"
	"testing"
	"time"

	"fractal-lazy/store"
)

// Run runs the suite. open returns a store for one test, which may hold
// blocks of earlier ones but none of this suite's; it is closed by t.Cleanup.
// A store that lives longer than the run gets blocks of its own every time.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(*script)
	}{
		{"Get_ReturnsWhatWasPut", getReturnsWhatWasPut},
		{"Get_OfMissingBlockIsNotFound", getOfMissing},
		{"Get_OfForeignCIDIsRefused", getOfForeignCID},
		{"Get_GivesTheBytesAway", getGivesBytesAway},
		{"Has_AnswersInOrder", hasAnswersInOrder},
		{"Has_OfNothingIsNothing", hasOfNothing},
		{"PutMany_ManyBlocksAreAllThere", putManyAllThere},
		{"PutMany_OfNothingIsNoError", putManyOfNothing},
		{"PutMany_TwiceIsNoError", putManyTwice},
		{"PutMany_LargestBlockPasses", putManyLargest},
		{"PutMany_RefusesTooLarge", putManyTooLarge},
		{"PutMany_RefusesWrongCID", putManyWrongCID},
		{"PutMany_ReturnsTheSequencesError", putManySequenceError},
		{"PutMany_DoesNotKeepData", putManyReusedBuffer},
		{"PutMany_EndsWithItsContext", putManyCancelled},
		{"Pin_HoldsAndIsGivenUp", pinAndUnpin},
		{"Pin_TwiceIsNoError", pinTwice},
		{"Pin_OfRawBlock", pinOfRaw},
		{"Pin_FailsWhereRootIsMissing", pinMissingRoot},
		{"Pin_FailsWhereBlockBelowIsMissing", pinMissingBelow},
		{"Pin_OnlyRootCounts", pinOnlyRoot},
		{"PinUpdate_PinsNextAndKeepsPrev", pinUpdate},
		{"PinUpdate_TwiceIsNoError", pinUpdateTwice},
		{"PinUpdate_FailsWhereBlockBelowIsMissing", pinUpdateMissing},
		{"PinUpdate_FromUnpinnedIsNotPinned", pinUpdateFromUnpinned},
		{"Unpin_OfUnpinnedIsNoError", unpinOfUnpinned},
		{"Calls_EndWithTheirContext", cancelledCalls},
		{"Calls_AtOnce", concurrentCalls},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			test.run(&script{
				T:   t,
				ctx: ctx,
				s:   open(t),
				// A block of one test is never there by another's doing.
				salt: t.Name() + time.Now().String(),
			})
		})
	}
}
