package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"fractal-lazy/mutant"
	"fractal-lazy/seal"
	"fractal-lazy/tests/kit"
)

func main() {
	if code, done := enter(); done {
		os.Exit(code)
	}
	var c config
	var trace, mutants bool
	var only string
	flag.IntVar(&c.ops, "ops", 5000, "how many operations")
	flag.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano())%1_000_000, "what everything random follows from; a history that failed begins with its own")
	flag.IntVar(&c.length, "length", 150, "operations in one history: then everything is read back, and the next begins with empty machines")
	flag.Float64Var(&c.crashes, "crashes", 0.08, "share of the calls in which the machine crashes")
	flag.StringVar(&c.dir, "dir", os.TempDir(), "where the pools are made: up to 2 GiB")
	flag.BoolVar(&mutants, "mutants", false, "have each fault of package mutant found, in at most -ops operations of its own; built with -tags crashtest")
	flag.StringVar(&only, "only", "", "of -mutants, one by its name")
	flag.BoolVar(&trace, "v", false, "a line for each operation")
	flag.Parse()
	if trace {
		c.trace = os.Stdout
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("seed %d\n", c.seed)
	began := time.Now()
	if mutants {
		err := findMutants(ctx, c, mutant.Mutant(only))
		fmt.Println("in", time.Since(began).Round(time.Second))
		if err != nil {
			fmt.Fprintln(os.Stderr, "history:", err)
			os.Exit(1)
		}
		return
	}
	t, err := c.run(ctx)
	fmt.Printf("%v\nin %v\n", &t, time.Since(began).Round(time.Second))
	if err != nil {
		fmt.Fprintln(os.Stderr, "history failed:", err)
		os.Exit(1)
	}
	if what := t.unseen(); len(what) > 0 && t.ops >= longRun {
		fmt.Fprintf(os.Stderr, "history failed: none of these in %d operations: %q\n", t.ops, what)
		os.Exit(1)
	}
}

// longRun is how many operations have to see everything.
const longRun = 2000

func parsePub(text string) (seal.Pubkey, error) { return seal.ParsePubkey(text) }

// enter is what every main of this package begins with. Where it returns true the process has done what it was started for.
func enter() (code int, done bool) {
	if c := os.Getenv(daemonEnv); c != "" {
		if err := daemon(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1, true
		}
		return 0, true
	}
	return kit.Inside()
}
