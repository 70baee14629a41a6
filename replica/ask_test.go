package replica

import (
	"slices"
	"testing"

	"fractal-lazy/store"
)

func TestToAsk_LeavesOutWhatIsNotWorthAQuestion(t *testing.T) {
	blocks := func(sizes ...int) (list []store.Block) {
		for i, n := range sizes {
			list = append(list, store.Block{CID: store.Sum(store.Raw, []byte{byte(i), byte(i >> 8)}), Data: make([]byte, n)})
		}
		return list
	}
	few, many := blocks(100, askFrom, askFrom-1, 300_000), blocks(slices.Repeat([]int{askFrom - 1}, 70)...)
	if got := toAsk(few); !slices.Equal(got, []int{1, 3}) {
		t.Errorf("of a few: %v", got)
	}
	// A great many small ones would be megabytes for each kill.
	if got := toAsk(many); len(got) != len(many) {
		t.Errorf("of many small ones %d are asked for, want %d", len(got), len(many))
	}
	if got := toAsk(append(many[:60:60], blocks(askFrom)...)); !slices.Equal(got, []int{60}) {
		t.Errorf("of as many as may be sent: %v", got)
	}
}
