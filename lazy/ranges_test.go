package lazy

import (
	"reflect"
	"testing"

	"fractal-lazy/snapshot/wire"
)

func r(off, n uint64) wire.Range { return wire.Range{Off: off, Len: n} }

func TestInsert_MergesWhatTouches(t *testing.T) {
	for _, c := range []struct {
		list []wire.Range
		add  wire.Range
		want []wire.Range
	}{
		{nil, r(5, 5), []wire.Range{r(5, 5)}},
		{[]wire.Range{r(0, 5)}, r(5, 5), []wire.Range{r(0, 10)}},
		{[]wire.Range{r(10, 5)}, r(5, 5), []wire.Range{r(5, 10)}},
		{[]wire.Range{r(0, 2), r(4, 2), r(20, 2)}, r(1, 10), []wire.Range{r(0, 11), r(20, 2)}},
		{[]wire.Range{r(0, 2), r(20, 2)}, r(10, 2), []wire.Range{r(0, 2), r(10, 2), r(20, 2)}},
		{[]wire.Range{r(0, 100)}, r(10, 2), []wire.Range{r(0, 100)}},
		{[]wire.Range{r(0, 2)}, r(10, 0), []wire.Range{r(0, 2)}},
	} {
		if got := insert(c.list, c.add); !reflect.DeepEqual(got, c.want) {
			t.Errorf("insert(%v, %v) = %v, want %v", c.list, c.add, got, c.want)
		}
	}
}

func TestSubtract_LeavesWhatNoneCovers(t *testing.T) {
	for _, c := range []struct {
		from wire.Range
		list []wire.Range
		want []wire.Range
	}{
		{r(0, 10), nil, []wire.Range{r(0, 10)}},
		{r(0, 10), []wire.Range{r(0, 10)}, nil},
		{r(0, 10), []wire.Range{r(3, 2), r(7, 1)}, []wire.Range{r(0, 3), r(5, 2), r(8, 2)}},
		{r(5, 10), []wire.Range{r(0, 7), r(12, 9)}, []wire.Range{r(7, 5)}},
		{r(5, 10), []wire.Range{r(0, 5), r(15, 9)}, []wire.Range{r(5, 10)}},
	} {
		if got := subtract(c.from, c.list); !reflect.DeepEqual(got, c.want) {
			t.Errorf("subtract(%v, %v) = %v, want %v", c.from, c.list, got, c.want)
		}
	}
}
