package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"fractal-lazy/tests/kit"
)

// size of a run.
type size struct {
	rows    int // of 8 KiB that do not compress
	load    time.Duration
	link    kit.Link
	poolGiB uint64
}

var (
	full  = size{rows: 68_000, load: 10 * time.Second, link: kit.Link{RTT: 20 * time.Millisecond, Up: 100e6, Down: 100e6}, poolGiB: 8}
	short = size{rows: 16_000, load: 3 * time.Second, link: kit.Link{RTT: 20 * time.Millisecond, Up: 100e6, Down: 100e6}, poolGiB: 4}
)

func main() {
	binary := flag.String("binary", "bin/fractal-lazy", "the driver to show")
	isShort := flag.Bool("short", false, "a quarter of the data")
	keep := flag.Bool("keep-logs", false, "keep the logs in the work folder")
	working := flag.Int("working", 0, "instead, compare failovers with and without a recorded working set, so many times")
	rtt := flag.Duration("rtt", full.link.RTT, "round trip of the link")
	rate := flag.Int64("rate", full.link.Down, "bits a second of the link, in each direction")
	flag.Parse()
	s := full
	if *isShort {
		s = short
	}
	s.link = kit.Link{RTT: *rtt, Up: *rate, Down: *rate}
	play := (*demo).play
	limit := 5 * time.Minute
	if *working > 0 {
		play = func(d *demo, ctx context.Context) error { return d.compare(ctx, *working) }
		limit += time.Duration(*working) * time.Minute
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took more than %v", limit))
	defer cancel()
	if err := run(ctx, *binary, s, *keep, play); err != nil {
		fmt.Fprintln(os.Stderr, "demo failed:", err)
		os.Exit(1)
	}
}

// run plays the demo in a new folder and takes everything away again.
func run(ctx context.Context, binary string, s size, keep bool, play func(*demo, context.Context) error) (err error) {
	if os.Getuid() != 0 {
		return errors.New("mounting needs root: run it with sudo")
	}
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "fractal-demo-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL runs as another user
		return err
	}
	d := &demo{dir: dir, binary: binary, size: s}
	err = play(d, ctx)
	if err != nil {
		d.showLogs()
	}
	err = errors.Join(err, d.close())
	if left, lerr := kit.Leaks(dir); lerr != nil || len(left) > 0 {
		return errors.Join(err, lerr, fmt.Errorf("left behind: %q", left))
	}
	if keep || err != nil {
		fmt.Println("logs are in", dir)
		return err
	}
	return os.RemoveAll(dir)
}

// play is the story.
func (d *demo) play(ctx context.Context) error {
	say("1. A Hive with a block store, and device A with a pool of its own")
	if err := d.startHive(ctx); err != nil {
		return err
	}
	a, err := d.startDevice(ctx, "a", d.hiveURL)
	if err != nil {
		return err
	}
	say("2. PostgreSQL on a volume of A: %d MiB of rows that do not compress, and pgbench", d.size.rows*8>>10)
	life, err := d.liveOnA(ctx, a)
	if err != nil {
		return err
	}
	say("3. A dies: kill -9 for its PostgreSQL and its daemon")
	if err := a.die(); err != nil {
		return err
	}

	say("4. Device B takes over through %s", describe(d.size.link))
	lazy, err := d.takeOver(ctx, "b", life, false)
	if err != nil {
		return err
	}
	say("5. Device C does the same in the old way: everything first, then the start")
	old, err := d.takeOver(ctx, "c", life, true)
	if err != nil {
		return err
	}
	printTable(os.Stdout, d, life, lazy, old)
	if ratio := old.firstAnswer.Seconds() / lazy.firstAnswer.Seconds(); ratio < 10 {
		fmt.Printf("\nThe first answer came %.1f times sooner; the aim is 10, with all of the data (make demo).\n", ratio)
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Printf("\n%s  "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

func describe(l kit.Link) string {
	return fmt.Sprintf("a link of %d Mbit/s and %v round trip", l.Down/1e6, l.RTT)
}
