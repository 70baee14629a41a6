package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"fractal-lazy/tests/kit"
)

func main() {
	if os.Getenv(serveEnv) != "" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if code, done := kit.Inside(); done {
		os.Exit(code)
	}
	var c config
	flag.IntVar(&c.ops, "ops", 1_000_000, "how many operations")
	flag.Uint64Var(&c.seed, "seed", uint64(time.Now().UnixNano())%1_000_000, "what everything random follows from")
	flag.Uint64Var(&c.first, "first", 0, "the sequence to begin with")
	flag.Uint64Var(&c.sequences, "sequences", 0, "how many sequences, instead of -ops")
	flag.IntVar(&c.stage, "stage", 1500, "operations in a volume, before the next is made of its snapshot")
	flag.StringVar(&c.dir, "dir", "/dev/shm", "where the pool is made: up to 2 GiB")
	flag.IntVar(&c.omit, "omit", 0, "switch rule R1 to R4 of package lazy off; needs the build tag crashtest")
	flag.BoolVar(&c.verbose, "v", false, "a line for each sequence")
	flag.StringVar(&c.log, "log", "", "a file for all operations of the sequence that failed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("seed %d\n", c.seed)
	began := time.Now()
	t, err := c.run(ctx)
	fmt.Printf("%v, in %v\n", &t, time.Since(began).Round(time.Second))
	if c.verbose {
		fmt.Println(t.kinds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "model test failed:", err)
		os.Exit(1)
	}
}
