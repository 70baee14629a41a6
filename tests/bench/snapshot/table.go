package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// cost of one backup.
type cost struct {
	wall, cpu time.Duration
	publish   time.Duration // ours: of the call alone
	bytes     int64
	memory    int64 // largest resident set
	note      string
}

// row is a kind of change.
type row struct {
	name  string
	tools []tool
	costs [][]cost // by tool
}

func newRow(name string, tools []tool) *row {
	return &row{name: name, tools: tools, costs: make([][]cost, len(tools))}
}

func (r *row) add(tool int, c cost) { r.costs[tool] = append(r.costs[tool], c) }

// median of each figure by itself.
func median(list []cost) cost {
	mid := func(get func(cost) int64) int64 {
		v := make([]int64, len(list))
		for i, c := range list {
			v[i] = get(c)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return cost{
		wall:    time.Duration(mid(func(c cost) int64 { return int64(c.wall) })),
		cpu:     time.Duration(mid(func(c cost) int64 { return int64(c.cpu) })),
		publish: time.Duration(mid(func(c cost) int64 { return int64(c.publish) })),
		bytes:   mid(func(c cost) int64 { return c.bytes }),
		memory:  mid(func(c cost) int64 { return c.memory }),
		note:    list[len(list)-1].note,
	}
}

func (r *row) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n  %-8s %10s %10s %12s %10s   %6s %6s %6s %6s\n", r.name, "", "wall", "CPU", "bytes", "memory", "wall", "CPU", "bytes", "memory")
	ours := cost{}
	for i, t := range r.tools {
		if len(r.costs[i]) == 0 {
			continue
		}
		c := median(r.costs[i])
		if t.name() == "ours" {
			ours = c
		}
		if c.wall == 0 {
			fmt.Fprintf(w, "  %-8s %s\n", t.name(), c.note)
			continue
		}
		fmt.Fprintf(w, "  %-8s %10s %10s %12s %10s   ", t.name(), ms(c.wall), ms(c.cpu), size(c.bytes), size(c.memory))
		fmt.Fprintf(w, "%6s %6s %6s %6s", ratio(ours.wall, c.wall), ratio(ours.cpu, c.cpu), ratio(ours.bytes, c.bytes), ratio(ours.memory, c.memory))
		if c.publish > 0 {
			fmt.Fprintf(w, "   publish %s, by %s", ms(c.publish), c.note)
		}
		fmt.Fprintln(w)
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 10<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func ratio[T ~int64](a, b T) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
