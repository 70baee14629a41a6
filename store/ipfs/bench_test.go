package ipfs

import (
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

const benchBlock = 256 << 10

func BenchmarkNode(b *testing.B) {
	_, srv := openNode(b, b.TempDir())
	benchStore(b, openClient(b, Options{RPC: srv.URL}))
}

func BenchmarkKubo(b *testing.B) {
	benchStore(b, startKubo(b, false).client(b))
}

// benchStore measures streams of 256 MiB, gets of single blocks, and pins of
// 20,000 leaves under 20 nodes, of which the update changes one.
func benchStore(b *testing.B, s store.Store) {
	const blocks = 1024
	var all []store.Block
	b.Run("PutMany", func(b *testing.B) {
		b.SetBytes(blocks * benchBlock)
		for b.Loop() {
			b.StopTimer()
			all = all[:0]
			for i := range blocks {
				all = append(all, storetest.Block(fmt.Sprint(b.Name(), salt.Add(1), i), benchBlock))
			}
			b.StartTimer()
			if err := s.PutMany(b.Context(), storetest.Seq(all...)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("PutManyAgain", func(b *testing.B) {
		b.SetBytes(blocks * benchBlock)
		for b.Loop() {
			if err := s.PutMany(b.Context(), storetest.Seq(all...)); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, flight := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("Get/%d", flight), func(b *testing.B) {
			b.SetBytes(benchBlock)
			var g errgroup.Group
			g.SetLimit(flight)
			for i := 0; b.Loop(); i++ {
				id := all[i%blocks].CID
				g.Go(func() error { _, err := s.Get(b.Context(), id); return err })
			}
			if err := g.Wait(); err != nil {
				b.Fatal(err)
			}
		})
	}
	b.Run("Has1000", func(b *testing.B) {
		ids := cidsOf(all[:1000]...)
		for b.Loop() {
			if _, err := s.Has(b.Context(), ids); err != nil {
				b.Fatal(err)
			}
		}
	})
	benchPins(b, s)
}

var salt atomic.Int64 // no two runs of a benchmark make the same block

func benchPins(b *testing.B, s store.Store) {
	var put, top []store.Block
	for n := range 20 {
		var leaves []store.Block
		for i := range 1000 {
			leaves = append(leaves, storetest.Block(fmt.Sprint(b.Name(), salt.Add(1), n, i), 4096))
		}
		node := storetest.Node(fmt.Sprint(n), cidsOf(leaves...)...)
		top = append(top, node)
		put = append(append(put, leaves...), node)
	}
	root := storetest.Node("root", cidsOf(top...)...)
	put = append(put, root)
	if err := s.PutMany(b.Context(), storetest.Seq(put...)); err != nil {
		b.Fatal(err)
	}
	b.Run("Pin20000", func(b *testing.B) {
		for b.Loop() {
			if err := s.Pin(b.Context(), root.CID); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := s.Unpin(b.Context(), root.CID); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	if err := s.Pin(b.Context(), root.CID); err != nil {
		b.Fatal(err)
	}
	b.Run("PinUpdate1000Of20000", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			fresh := storetest.Block(fmt.Sprint("fresh", salt.Add(1)), 4096)
			var below []store.Block
			below = append(below, put[:999]...) // the leaves of the first node
			below = append(below, fresh)
			node := storetest.Node("changed", cidsOf(below...)...)
			next := storetest.Node("next", cidsOf(append([]store.Block{node}, top[1:]...)...)...)
			if err := s.PutMany(b.Context(), storetest.Seq(fresh, node, next)); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := s.PinUpdate(b.Context(), root.CID, next.CID); err != nil {
				b.Fatal(err)
			}
		}
	})
}
