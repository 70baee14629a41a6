package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}

// printTable prints the one table of the demo.
func printTable(out io.Writer, d *demo, l *life, lazy, old *takeover) {
	fmt.Fprintf(out, "\nFailover of a PostgreSQL with %s through %s:\n\n", mib(l.data), describe(d.size.link))
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(what string, a, b any, ratio string) { fmt.Fprintf(w, "%s\t%v\t%v\t%s\t\n", what, a, b, ratio) }
	times := func(a, b time.Duration) string { return fmt.Sprintf("%.1fx", b.Seconds()/a.Seconds()) }
	row("", "fractal-lazy", "everything first", "ratio")
	row("time to mount", round(lazy.mount), round(old.mount), times(lazy.mount, old.mount))
	row("time to the first answer", round(lazy.firstAnswer), round(old.firstAnswer), times(lazy.firstAnswer, old.firstAnswer))
	row("time to completeness", round(lazy.complete), round(old.complete), times(lazy.complete, old.complete))
	row("fetched before the first answer", mib(uint64(lazy.before)), mib(uint64(old.before)), fmt.Sprintf("%.1fx", float64(old.before)/float64(lazy.before)))
	row("fetched in all, compressed", mib(uint64(lazy.total)), mib(uint64(old.total)), "")
	row("peak memory of the driver", mib(uint64(lazy.peakRSS)), mib(uint64(old.peakRSS)), "")
	w.Flush()
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	fmt.Fprintf(out, "\nPeak memory of A's driver: %s. First flush %s, second one under load %s.\n", mib(uint64(l.peakRSS)), round(l.flush), round(l.snapshot))
}
