package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"fractal-lazy/tests/kit"
)

func main() {
	minutes := flag.Float64("minutes", 20, "how long")
	binary := flag.String("binary", "", "the driver (default: it is built)")
	dir := flag.String("dir", "/var/tmp", "where the pools are, in a folder that is taken away again")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *dir, time.Duration(*minutes*float64(time.Minute))); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run soaks for a time, prints what was noted, and says whether it is steady.
func run(ctx context.Context, binary, parent string, long time.Duration) (err error) {
	if os.Getuid() != 0 {
		return errors.New("mounting needs root: run it with sudo")
	}
	dir, err := os.MkdirTemp(parent, "soak-")
	if err != nil {
		return err
	}
	if binary == "" {
		if binary, err = build(ctx, dir); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	end := time.Now().Add(long)
	notes, err := soak(ctx, dir, binary, func(lives int) bool { return time.Now().Before(end) })
	if left, lerr := kit.Leaks(dir); lerr != nil || len(left) > 0 {
		return errors.Join(err, lerr, fmt.Errorf("left behind: %q", left))
	}
	printNotes(os.Stdout, notes)
	if err != nil {
		fmt.Fprintln(os.Stderr, "logs are in", dir)
		return err
	}
	return errors.Join(steady(notes), os.RemoveAll(dir))
}

func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "fractal-lazy")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "fractal-lazy")
	cmd.Stderr = os.Stderr
	return binary, cmd.Run()
}
