package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// row holds the figures of one kind of work, by place.
type row struct {
	name, command string
	more          bool // a higher figure is better
	by            map[string][]float64
}

// add notes a figure: seconds, or where more is better something a second.
func (b *bench) add(name, command string, p *place, v float64, more bool) {
	i := slices.IndexFunc(b.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(b.rows)
		b.rows = append(b.rows, &row{name: name, command: command, more: more, by: map[string][]float64{}})
	}
	r := b.rows[i]
	r.by[p.name] = append(r.by[p.name], v)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// ratio is how fast a place is beside another: 1 is as fast, 0.5 half as fast. It is the median of the ratios of each round, whose runs
// are next to each other in time; 0: not measured.
func (r *row) ratio(name, base string) float64 {
	a, z := r.by[name], r.by[base]
	n := min(len(a), len(z))
	if n == 0 {
		return 0
	}
	q := make([]float64, n)
	for i := range n {
		q[i] = z[i] / a[i]
		if r.more {
			q[i] = a[i] / z[i]
		}
	}
	return median(q)
}

func cell(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

// printRatios prints every row with the figure of base, and the ratios of the others to it.
func (b *bench) printRatios(w io.Writer, base *place, others []*place) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\t%s", base.name)
	for _, p := range others {
		fmt.Fprintf(t, "\t%s", p.name)
	}
	fmt.Fprintln(t)
	for _, r := range b.rows {
		v, unit := median(r.by[base.name]), "s"
		if r.more {
			unit = "/s"
		}
		fmt.Fprintf(t, "%s\t%.4g %s", r.name, v, unit)
		for _, p := range others {
			fmt.Fprintf(t, "\t%s", cell(r.ratio(p.name, base.name)))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// printCommands prints what was run for each row.
func (b *bench) printCommands(w io.Writer) {
	fmt.Fprintln(w, "\nThe commands, each run in the folder that is measured:")
	for _, r := range b.rows {
		fmt.Fprintf(w, "  %s:\n    %s\n", r.name, r.command)
	}
}
