package snapshot

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"testing"

	"fractal-lazy/snapshot/wire"
)

// flat is a directory of n small files, made while it is listed. each is told
// how many went by.
func flat(n int, each func(i int)) Node {
	root := dir("").node()
	root.Children = func(context.Context) iter.Seq2[Node, error] {
		return func(yield func(Node, error) bool) {
			for i := range n {
				each(i)
				if !yield(file(fmt.Sprintf("file-%09d", i), noise(uint64(i), 64)).node(), nil) {
					return
				}
			}
		}
	}
	return root
}

// spread is n directories of one file each: every one waits for a pack.
func spread(n int, each func(i int)) Node {
	root := dir("").node()
	root.Children = func(context.Context) iter.Seq2[Node, error] {
		return func(yield func(Node, error) bool) {
			for i := range n {
				each(i)
				if !yield(dir(fmt.Sprintf("dir-%09d", i), file("f", noise(uint64(i), 64))).node(), nil) {
					return
				}
			}
		}
	}
	return root
}

// waiting has one piece in every page, and references beside it: as many
// entries as can be wait for one pack.
func waiting(n int, each func(i int)) Node {
	kept := &wire.Content{ChunkSize: wire.DefChunk}
	root := dir("").node()
	root.Children = func(context.Context) iter.Seq2[Node, error] {
		return func(yield func(Node, error) bool) {
			for i := range n {
				each(i)
				f := file(fmt.Sprintf("file-%09d", i), noise(uint64(i), 64))
				if i%100 != 0 {
					f.Content = kept
				}
				if !yield(f.node(), nil) {
					return
				}
			}
		}
	}
	return root
}

func TestBuild_MemoryDoesNotGrowWithTheTree(t *testing.T) {
	const n, limit = 200_000, 64 << 20
	for name, tree := range map[string]func(int, func(int)) Node{"one directory": flat, "many directories": spread, "mostly kept": waiting} {
		t.Run(name, func(t *testing.T) {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			start, peak := m.HeapAlloc, uint64(0)
			root := tree(n, func(i int) {
				if i%5000 == 4999 {
					runtime.GC()
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapAlloc-min(start, m.HeapAlloc))
				}
			})
			sink := &countSink{}
			_, top, _, err := Build(t.Context(), root, sink, testKey(1), Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d files, %d data blocks, %d nodes, %d MiB sealed; live heap at most %.1f MiB",
				top.Dir.Files, sink.raw.Load(), sink.nodes.Load(), sink.bytes.Load()>>20, float64(peak)/(1<<20))
			if top.Dir.Files != n || peak > limit {
				t.Errorf("%d files, %d bytes of heap", top.Dir.Files, peak)
			}
		})
	}
}

// words is text of random words, some of them often: it compresses like prose.
func words(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	vocabulary := make([][]byte, 4000)
	for i := range vocabulary {
		for range 2 + r.IntN(9) {
			vocabulary[i] = append(vocabulary[i], byte('a'+r.IntN(26)))
		}
	}
	out := make([]byte, 0, n+16)
	for len(out) < n {
		out = append(append(out, vocabulary[int(r.ExpFloat64()*400)%len(vocabulary)]...), ' ')
	}
	return out[:n]
}

func BenchmarkBuild(b *testing.B) {
	const size = 64 << 20
	text := words(size)
	for _, data := range []struct {
		name string
		b    []byte
	}{{"random", noise(1, size)}, {"text", text}} {
		for _, level := range []Compression{None, Fastest, Default, Better} {
			b.Run(fmt.Sprintf("%s/%s", data.name, level), func(b *testing.B) {
				tree := dir("", file("f", data.b))
				b.SetBytes(size)
				for b.Loop() {
					sink := &countSink{}
					mustBuild(b, tree, sink, testKey(1), Options{Compression: level})
					b.ReportMetric(float64(sink.bytes.Load())/size, "sealed/read")
				}
			})
		}
	}
}

func BenchmarkBuildSmallFiles(b *testing.B) {
	const n = 20000
	for b.Loop() {
		if _, _, _, err := Build(b.Context(), flat(n, func(int) {}), &countSink{}, testKey(1), Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}
