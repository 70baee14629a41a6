package replica

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// BenchmarkPublish_Unchanged100kFiles walks 100,000 files of which none changed; their times are those of the minute before
// the first snapshot, so that each is looked up in the tree: the worse case.
func BenchmarkPublish_Unchanged100kFiles(b *testing.B) {
	w, v := newWorld(b), newVolume(b)
	for i := range 100_000 {
		v.write(fmt.Sprintf("%03d/file-%06d", i%1000, i), fmt.Appendf(nil, "content of %d", i))
	}
	s := v.snapshot()
	begin := time.Now()
	first := w.publish(s, Base{})
	took := time.Since(begin)
	again := v.snapshot()
	b.ResetTimer()
	for range b.N {
		if r := w.publish(again, first.Base); !r.Unchanged || r.Stats.BytesRead != 0 {
			b.Fatalf("%+v", r)
		}
	}
	b.ReportMetric(took.Seconds(), "first-s")
}

// BenchmarkPublish_First1GiB uploads a gigabyte that does not compress.
func BenchmarkPublish_First1GiB(b *testing.B) {
	v := newVolume(b)
	const size = 64 << 20
	for i := range 16 {
		v.write(fmt.Sprintf("file-%d", i), noise(uint64(i), size))
	}
	s := v.snapshot()
	for _, kind := range []string{"memory", "ipfs"} {
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(16 * size)
			for range b.N {
				b.StopTimer()
				w := newWorld(b)
				if kind == "ipfs" {
					w.useNode(b.TempDir())
				}
				b.StartTimer()
				w.publish(s, Base{})
			}
		})
	}
}

// BenchmarkPublish_ChangesIn100kFiles is what building and comparing cost, with a store that costs nothing.
func BenchmarkPublish_ChangesIn100kFiles(b *testing.B) {
	w, v := newWorld(b), newVolume(b)
	name := func(i int) string { return fmt.Sprintf("%03d/file-%06d", i%500, i) }
	for i := range 100_000 {
		v.write(name(i), fmt.Appendf(nil, "content of %d", i))
	}
	base := w.publish(v.snapshot(), Base{}).Base
	n := 0
	for _, kind := range []struct {
		name   string
		change func()
	}{
		{"none", func() {}},
		{"1000 files", func() {
			for range 1000 {
				n++
				v.write(name(n*7919%100_000), fmt.Appendf(nil, "changed %d", n))
			}
		}},
		{"10000 renames", func() {
			for range 10_000 {
				n++
				_ = os.Rename(v.at(name(n*7919%100_000)), v.at(fmt.Sprintf("%03d/moved-%d", n%500, n)))
			}
		}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				kind.change()
				s := v.snapshot()
				b.StartTimer()
				r := w.publish(s, base)
				if r.Way != WayChanges {
					b.Fatalf("the way was %q", r.Way)
				}
				b.ReportMetric(float64(r.Stats.Blocks), "blocks")
				base = r.Base
				base.Local = s
			}
		})
	}
}
