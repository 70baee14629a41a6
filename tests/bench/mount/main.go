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
	binary := flag.String("binary", "", "the driver to measure (default: it is built)")
	rounds := flag.Int("rounds", 7, "fresh machines for each figure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, 4*time.Minute, errors.New("it took more than 4 minutes"))
	defer cancel()
	if err := run(ctx, *binary, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench-mount:", err)
		os.Exit(1)
	}
}

// run measures in a new folder and takes everything away again.
func run(ctx context.Context, binary string, rounds int) (err error) {
	if os.Getuid() != 0 {
		return errors.New("mounting needs root: run it with sudo")
	}
	if rounds < 1 {
		return errors.New("-rounds has to be at least 1")
	}
	dir, err := os.MkdirTemp("/var/tmp", "bench-mount-")
	if err != nil {
		return err
	}
	if binary == "" {
		binary = filepath.Join(dir, "fractal-lazy")
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "fractal-lazy")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	s := &stage{dir: dir, binary: binary}
	err = errors.Join(s.measure(ctx, rounds), s.close())
	if left, lerr := kit.Leaks(dir); lerr != nil || len(left) > 0 {
		return errors.Join(err, lerr, fmt.Errorf("left behind: %q", left))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "logs are in", dir)
		return err
	}
	return os.RemoveAll(dir)
}

// tree is one of the two volumes.
type tree struct {
	name    string
	files   int
	folders []int // how many on each level; the last level's hold the files
	key     string
}

// way is how a machine reaches the Hive.
type way struct {
	name string
	link *kit.Link // nil: the loopback as it is
}

// measure makes the volumes on a machine of their own, then measures.
func (s *stage) measure(ctx context.Context, rounds int) error {
	trees := []*tree{
		{name: "1,000 files", files: 1000, folders: []int{10}},
		{name: "100,000 files", files: 100_000, folders: []int{10, 100}},
	}
	ways := []way{
		{name: "loopback"},
		{name: "100 Mbit/s, 20 ms", link: &kit.Link{RTT: 20 * time.Millisecond, Up: 100e6, Down: 100e6}},
	}
	if err := s.startHive(ctx); err != nil {
		return err
	}
	if err := s.makeVolumes(ctx, trees); err != nil {
		return err
	}
	var rows []row
	for _, w := range ways {
		results := make([]row, len(trees))
		for range rounds {
			// In turns, so that what else this machine does hits both.
			for i, t := range trees {
				f, err := s.fresh(ctx, t, w, false)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", t.name, w.name, err)
				}
				results[i].lazy = append(results[i].lazy, f)
			}
		}
		for i, t := range trees {
			f, err := s.fresh(ctx, t, w, true)
			if err != nil {
				return fmt.Errorf("%s, %s, everything first: %w", t.name, w.name, err)
			}
			results[i].way, results[i].tree, results[i].old = w.name, t.name, f
		}
		rows = append(rows, results...)
	}
	printTable(os.Stdout, rows, rounds)
	return nil
}
