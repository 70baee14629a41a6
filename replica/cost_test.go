package replica

import (
	"testing"
	"time"
)

func TestPublish_UnchangedTakesMilliseconds(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	w.useNode(t.TempDir())
	fill(v)
	base := w.publish(v.snapshot(), Base{}).Base
	p := w.publisher()
	best := time.Hour
	for range 5 {
		s := v.snapshot()
		begin := time.Now()
		r, err := p.Publish(t.Context(), w.job(s, base))
		check(t, err)
		best = min(best, time.Since(begin))
		t.Log(time.Since(begin))
		if !r.Unchanged || r.Way != WayChanges || r.Stats.Blocks != 0 {
			t.Errorf("%+v", r)
		}
	}
	// About 2 ms, most of it two requests; the bound leaves room for a machine that does other things.
	if best > 100*time.Millisecond {
		t.Errorf("nothing changed, and that took %s", best)
	}
}
