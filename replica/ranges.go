package replica

import "fractal-lazy/snapshot/wire"

// Lists of ranges in this file are ascending, and their ranges do not overlap.

// overlaps tells whether a range of list has a byte in [off, end).
func overlaps(list []wire.Range, off, end uint64) bool {
	for _, r := range list {
		if r.Off < end && r.Off+r.Len > off {
			return true
		}
	}
	return false
}

// widen grows the ranges to whole sectors, cuts them at size and makes those that then touch one.
func widen(list []wire.Range, size uint64) []wire.Range {
	out := make([]wire.Range, 0, len(list))
	for _, r := range list {
		off := r.Off &^ (wire.Sector - 1)
		end := min((r.Off+r.Len+wire.Sector-1)&^(wire.Sector-1), size)
		if off >= end {
			continue
		}
		out = append(out, wire.Range{Off: off, Len: end - off})
	}
	return wire.Union(out, nil)
}
