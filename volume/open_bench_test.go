package volume

import (
	"fmt"
	"testing"
)

// BenchmarkOpen_ThousandVolumes measures what lies between the start of a daemon and its first answer.
func BenchmarkOpen_ThousandVolumes(b *testing.B) {
	m, err := Open(b.Context(), Deps{}, Options{Root: poolDir(b)})
	must(b, err)
	for i := range 1000 {
		must(b, m.Create(b.Context(), fmt.Sprintf("v%d", i), nil))
	}
	must(b, m.Close(b.Context()))
	for b.Loop() {
		m, err := Open(b.Context(), Deps{}, Options{Root: poolDir(b)})
		must(b, err)
		if n := len(m.List()); n != 1000 {
			b.Fatalf("%d volumes", n)
		}
		must(b, m.Close(b.Context()))
	}
}
