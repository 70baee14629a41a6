package wire

// Union returns what is in a or in b, each ascending and not overlapping in itself: ascending and not touching.
func Union(a, b []Range) []Range {
	out := make([]Range, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		var next Range
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

// Subtract returns what is in a and not in b, each ascending and not overlapping in itself.
func Subtract(a, b []Range) []Range {
	var out []Range
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
				out = append(out, Range{Off: off, Len: cut.Off - off})
			}
			off = max(off, cut.Off+cut.Len)
		}
		if off < end {
			out = append(out, Range{Off: off, Len: end - off})
		}
	}
	return out
}

// Intersect returns what is in a and in b, each ascending and not overlapping in itself.
func Intersect(a, b []Range) []Range { return Subtract(a, Subtract(a, b)) }
