package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// figures of one fresh machine; all since the volume began to be made.
type figures struct {
	mounted time.Duration // the mount is there
	listed  time.Duration // the root's first listing has answered
	file    time.Duration // a first file is read
}

// row is all of one tree over one way.
type row struct {
	way, tree string
	lazy      []figures
	old       figures // everything first
}

// goal is the most that mounting 100,000 files may take, of what 1,000 take.
const goal = 1.5

func median(all []figures, of func(figures) time.Duration) time.Duration {
	var list []time.Duration
	for _, f := range all {
		list = append(list, of(f))
	}
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

func listed(f figures) time.Duration { return f.listed }

// printTable has rows in pairs: the small tree, then the large one.
func printTable(w io.Writer, rows []row, rounds int) {
	fmt.Fprintf(w, "\nMount of a volume that the machine has never seen; medians of %d fresh machines.\n", rounds)
	fmt.Fprint(w, "From making it with its key until ... is there. Everything first: one machine, the same after all blocks were fetched.\n\n")
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "link\tvolume\tthe mount\tthe first listing\ta first file\teverything first\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t\n", r.way, r.tree,
			ms(median(r.lazy, func(f figures) time.Duration { return f.mounted })), ms(median(r.lazy, listed)),
			ms(median(r.lazy, func(f figures) time.Duration { return f.file })), ms(r.old.listed))
	}
	t.Flush()
	fmt.Fprintln(w)
	for i := 0; i+1 < len(rows); i += 2 {
		ratio := float64(median(rows[i+1].lazy, listed)) / float64(median(rows[i].lazy, listed))
		verdict := "met"
		if ratio > goal {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s: %s take %.2f times as long as %s until the first listing; the goal is at most %.1f: %s\n",
			rows[i].way, rows[i+1].tree, ratio, rows[i].tree, goal, verdict)
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }
