package lazy

import (
	"sync"

	"fractal-lazy/snapshot/wire"
)

func roundUp(n uint64) uint64 { return (n + sector - 1) &^ (sector - 1) }

// clip is the part of r within [from, to).
func clip(r wire.Range, from, to uint64) wire.Range {
	start, end := max(r.Off, from), min(r.Off+r.Len, to)
	if start >= end {
		return wire.Range{}
	}
	return wire.Range{Off: start, Len: end - start}
}

// covers reports whether r lies within one of list, which is ascending.
func covers(list []wire.Range, r wire.Range) bool {
	for _, z := range list {
		if z.Off <= r.Off && r.Off+r.Len <= z.Off+z.Len {
			return true
		}
	}
	return false
}

// insert returns list, ascending and not touching, with r added. list stays
// as it is.
func insert(list []wire.Range, r wire.Range) []wire.Range {
	if r.Len == 0 {
		return list
	}
	var out []wire.Range
	for i, z := range list {
		switch {
		case z.Off+z.Len < r.Off:
			out = append(out, z)
		case r.Off+r.Len < z.Off:
			return append(append(out, r), list[i:]...)
		default:
			end := max(z.Off+z.Len, r.Off+r.Len)
			r.Off = min(z.Off, r.Off)
			r.Len = end - r.Off
		}
	}
	return append(out, r)
}

// subtract returns what of r is in none of list, which is ascending.
func subtract(r wire.Range, list []wire.Range) []wire.Range {
	var out []wire.Range
	for _, z := range list {
		if z.Off+z.Len <= r.Off {
			continue
		}
		if z.Off >= r.Off+r.Len {
			break
		}
		if z.Off > r.Off {
			out = append(out, wire.Range{Off: r.Off, Len: z.Off - r.Off})
		}
		end := r.Off + r.Len
		r.Off = min(z.Off+z.Len, end)
		r.Len = end - r.Off
	}
	if r.Len > 0 {
		out = append(out, r)
	}
	return out
}

// bitmap is a set of window indexes. It may be used from many goroutines.
type bitmap struct {
	mu    sync.Mutex
	words map[uint64]uint64
}

func (b *bitmap) has(i uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.words[i/64]&(1<<(i%64)) != 0
}

func (b *bitmap) add(i uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.words == nil {
		b.words = map[uint64]uint64{}
	}
	b.words[i/64] |= 1 << (i % 64)
}

func (b *bitmap) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.words = nil
}
