package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// config is what the command line says.
type config struct {
	images int
	perRun int
	seed   uint64
	omit   int
	plain  bool
	names  bool
	first  bool // the first wrong image ends it
	dir    string
}

func main() {
	if dir := os.Getenv(appEnv); dir != "" {
		if err := serveApp(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var c config
	flag.IntVar(&c.images, "images", 200, "how many crashes to look at")
	flag.IntVar(&c.perRun, "per-run", 25, "how many of them are of one run of the applications")
	flag.Uint64Var(&c.seed, "seed", 1, "what everything random follows from")
	flag.StringVar(&c.dir, "dir", "/dev/shm", "where the images are made")
	flag.IntVar(&c.omit, "omit", 0, "switch rule R1 to R6 of package lazy off; needs the build tag crashtest")
	flag.BoolVar(&c.plain, "plain", false, "without the driver, to see what BTRFS itself does")
	flag.BoolVar(&c.names, "names", false, "hardly anything but work on names, in every run and not in one of five")
	rules := flag.Int("rules", 0, "after that, up to so many images for each rule switched off, until one is wrong, as one has to be")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c, *rules); err != nil {
		fmt.Fprintln(os.Stderr, "crash test failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config, rules int) error {
	r, err := c.crash(ctx)
	if err != nil {
		return err
	}
	if c.omit == 0 && r.bad > 0 {
		return fmt.Errorf("%d of %d images are wrong", r.bad, r.images)
	}
	for n := 1; n <= 6 && rules > 0; n++ {
		c := c
		c.omit, c.images, c.first = n, rules, true
		c.perRun = min(c.perRun, 10) // a rule that is missing shows in some runs of the applications, and there in many images
		r, err := c.crash(ctx)
		if err != nil {
			return err
		}
		if r.bad == 0 {
			return fmt.Errorf("rule R%d was switched off, and %d images did not show it", n, r.images)
		}
	}
	return nil
}

// result counts.
type result struct{ images, bad, stale, runs, live, ops int }

// crash looks at c.images crashes.
func (c config) crash(ctx context.Context) (res result, err error) {
	if os.Getuid() != 0 {
		return res, errors.New("mounting needs root")
	}
	dir, err := os.MkdirTemp(c.dir, "fractal-crash-")
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := omit(0); err != nil && c.omit != 0 {
		return res, err
	}
	w, err := newWorld(dir, c.seed)
	if err != nil {
		return res, err
	}
	began := time.Now()
	var recording, checking time.Duration
	for res.images < c.images && ctx.Err() == nil && !(c.first && res.bad > 0) {
		run := res.runs
		res.runs++
		random := rand.New(rand.NewPCG(c.seed, uint64(run)))
		v := variantOf(run, random)
		if c.plain {
			v.state = "plain"
		}
		v.names = v.names || c.names
		t := time.Now()
		if err := omit(c.omit); err != nil && c.omit != 0 {
			return res, err
		}
		rec, err := w.record(v, random.Uint64())
		if err := omit(0); err != nil && c.omit != 0 {
			return res, err
		}
		recording += time.Since(t)
		if err != nil {
			return res, fmt.Errorf("run %d of seed %d (%v): %w", run, c.seed, v, err)
		}
		res.ops += rec.ops
		res.live += len(rec.live)
		if len(rec.live) > 0 && c.omit == 0 {
			return res, fmt.Errorf("run %d of seed %d (%v): %s", run, c.seed, v, strings.Join(rec.live, "\n"))
		}
		t = time.Now()
		images, bad := min(c.perRun, c.images-res.images), 0
		play := &replay{base: append(disk{}, rec.fresh...), log: rec.log}
		for _, m := range rec.images(images, random) {
			if ctx.Err() != nil {
				break
			}
			k := &checker{w: w, m: rec.model, at: m.at}
			if err := w.examine(play.disk(m), v, k); err != nil {
				return res, err
			}
			res.images++
			if k.stale > 0 {
				res.stale++
			}
			if len(k.problems) > 0 {
				bad++
				if bad <= 3 {
					fmt.Printf("run %d of seed %d (%v), entry %d of %d, lose %v: %d problems\n  %s\n", run, c.seed, v, m.at, len(rec.log), m.lose,
						len(k.problems), strings.Join(k.problems[:min(len(k.problems), 5)], "\n  "))
				}
			}
		}
		res.bad += bad
		checking += time.Since(t)
		fmt.Printf("run %d (%v): %d operations, %d requests to the device, %d images, %d wrong\n", run, v, rec.ops, len(rec.log), images, bad)
	}
	fmt.Printf("rule off: %d; %d images of %d runs with %d operations in %v (recording %v, checking %v): %d wrong, %d with an old name because of a contradiction in the log of BTRFS; wrong without a crash: %d\n",
		c.omit, res.images, res.runs, res.ops, time.Since(began).Round(time.Second), recording.Round(time.Second), checking.Round(time.Second), res.bad, res.stale, res.live)
	return res, ctx.Err()
}
