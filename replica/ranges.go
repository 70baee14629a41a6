package replica

import "fractal-lazy/snapshot/wire"

// Lists of ranges in this file are ascending, and their ranges do not overlap.

// union returns what is in a or in b, with ranges that touch made one.
func union(a, b []wire.Range) []wire.Range {
	out := make([]wire.Range, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		var next wire.Range
		if len(b) == 0 || (len(a) > 0 && a[0].Off <= b[0].Off) {
			next, a = a[0], a[1:]
		} else {
			next, b = b[0], b[1:]
		}
		if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len >= next.Off {
			last := &out[n-1]
			last.Len = max(last.Off+last.Len, next.Off+next.Len) - last.Off
			continue
		}
		out = append(out, next)
	}
	return out
}

// subtract returns what is in a and not in b.
func subtract(a, b []wire.Range) []wire.Range {
	var out []wire.Range
	for _, r := range a {
		off, end := r.Off, r.Off+r.Len
		for len(b) > 0 && b[0].Off+b[0].Len <= off {
			b = b[1:]
		}
		for _, cut := range b {
			if cut.Off >= end {
				break
			}
			if cut.Off > off {
				out = append(out, wire.Range{Off: off, Len: cut.Off - off})
			}
			off = max(off, cut.Off+cut.Len)
		}
		if off < end {
			out = append(out, wire.Range{Off: off, Len: end - off})
		}
	}
	return out
}

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
	return union(out, nil)
}
