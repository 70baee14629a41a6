package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// note is what the daemon holds at a moment when no volume is there.
type note struct {
	at              time.Duration // since the start
	lives           int
	rss             int64 // bytes
	goroutines, fds int
}

// ask reads the daemon's own figures.
func ask(ctx context.Context, socket string) (n note, err error) {
	var d net.Dialer
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/metrics", nil)
	if err != nil {
		return n, err
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return n, err
	}
	defer res.Body.Close()
	found := 0
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			n.goroutines = int(v)
		case "process_open_fds":
			n.fds = int(v)
		case "process_resident_memory_bytes":
			n.rss = int64(v)
		default:
			continue
		}
		found++
	}
	if found != 3 {
		return n, fmt.Errorf("the daemon's metrics (%s) have %d of 3 figures", res.Status, found)
	}
	return n, nil
}

// What may be more than before: connections to the store that are kept for a minute and a half, each with two goroutines.
const (
	spareGoroutines = 64
	spareFds        = 64
	spareMemory     = 48 << 20
)

// settleTime is longer than connections to the store are kept.
const settleTime = 3 * time.Minute

// settle asks until goroutines and descriptors are back at first's, for at most limit; then what is there is noted.
func settle(ctx context.Context, socket string, first note, limit time.Duration) (note, error) {
	end := time.Now().Add(limit)
	for {
		n, err := ask(ctx, socket)
		if err != nil {
			return n, err
		}
		if n.goroutines <= first.goroutines+spareGoroutines && n.fds <= first.fds+spareFds || time.Now().After(end) {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// steady reports what grew. The first life is not compared: it fills caches.
func steady(notes []note) error {
	if len(notes) < 3 {
		return fmt.Errorf("only %d lives: too few to compare", len(notes)-1)
	}
	first, last := notes[0], notes[len(notes)-1]
	if last.goroutines > first.goroutines+spareGoroutines || last.fds > first.fds+spareFds {
		return fmt.Errorf("goroutines went from %d to %d, descriptors from %d to %d", first.goroutines, last.goroutines, first.fds, last.fds)
	}
	// The first and the last third of the lives: one figure alone says when the last collection was.
	lives := notes[1:]
	third := max(len(lives)/3, 1)
	before, after := memory(lives[:third]), memory(lives[len(lives)-third:])
	if after > before+before/4+spareMemory {
		return fmt.Errorf("memory went from %d MiB to %d MiB", before>>20, after>>20)
	}
	return nil
}

// memory is the median of the resident sizes.
func memory(notes []note) int64 {
	var v []int64
	for _, n := range notes {
		v = append(v, n.rss)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// printNotes prints the first, the last, and some between.
func printNotes(w io.Writer, notes []note) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "time\tlives\tmemory, MiB\tgoroutines\tdescriptors\t")
	every := max(len(notes)/20, 1)
	for i, n := range notes {
		if i%every == 0 || i == len(notes)-1 {
			fmt.Fprintf(t, "%v\t%d\t%.1f\t%d\t%d\t\n", n.at.Round(time.Second), n.lives, float64(n.rss)/(1<<20), n.goroutines, n.fds)
		}
	}
	t.Flush()
}
