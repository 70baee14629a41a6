package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/tests/kit"
)

// scale of a run.
type scale struct {
	files  int // small ones
	big    int // MiB
	rounds int
}

func main() {
	var s scale
	flag.IntVar(&s.files, "files", 10_000, "small files in the volume; a hundredth of them changes, a tenth is renamed")
	flag.IntVar(&s.big, "big", 256, "MiB of the large file")
	flag.IntVar(&s.rounds, "rounds", 2, "how often each change is made and measured")
	dir := flag.String("dir", "/var/tmp", "where the pool's file and the backups are, in a folder that is taken away again")
	only := flag.String("tools", "", "names of the tools to run, with commas; empty: all")
	profile := flag.String("profile", "", "folder for CPU profiles of ours, one a backup; empty: none")
	child := flag.String("publish", "", "internal: publish what this file describes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *child != "" {
		err = publish(ctx, *child)
	} else {
		err = run(ctx, s, *dir, *only, *profile)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-snapshot:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	scale
	dir     string // outside of the pool
	pool    string
	volume  string
	profile string // folder for profiles; empty: none
	tools   []tool
	rows    []*row
	n       int // snapshots taken
}

func run(ctx context.Context, s scale, dir, only, profile string) (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("mounting needs root: run it with sudo")
	}
	if s.files < 100 || s.big < 8 || s.rounds < 1 {
		return fmt.Errorf("too small: at least 100 files, 8 MiB, 1 round")
	}
	b := &bench{scale: s, profile: profile}
	if b.dir, err = os.MkdirTemp(dir, "bench-snapshot-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	p, err := kit.NewPool(b.dir, uint64(s.files)*64<<10+uint64(s.big)*16<<20+4<<30)
	if err != nil {
		return err
	}
	defer func() {
		if e := p.Close(); err == nil {
			err = e
		}
	}()
	b.pool, b.volume = p.Dir, filepath.Join(p.Dir, "volume")
	if err := backing.CreateSubvolume(b.volume); err != nil {
		return err
	}
	if b.tools, err = newTools(ctx, b, only); err != nil {
		return err
	}
	defer func() {
		for _, t := range b.tools {
			t.close()
		}
	}()
	fmt.Printf("%d files of 1 to 8 KiB and one of %d MiB; %d rounds\n\n", s.files, s.big, s.rounds)
	if err := b.fill(); err != nil {
		return err
	}
	if err := b.measure(ctx, "first snapshot", 1, func(int) error { return nil }); err != nil {
		return err
	}
	for _, c := range b.changes() {
		if err := b.measure(ctx, c.name, s.rounds, c.do); err != nil {
			return err
		}
	}
	fmt.Println("\nRatios are ours / theirs: below 1 is less. Wall of ours is the whole process; publish is what a running driver spends.")
	return nil
}

// measure makes a change and has every tool back it up, some times.
func (b *bench) measure(ctx context.Context, name string, rounds int, change func(round int) error) error {
	r := newRow(name, b.tools)
	for round := range rounds {
		if err := change(round); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := backing.SyncFS(b.volume); err != nil {
			return err
		}
		paths := make([]string, len(b.tools))
		for i := range b.tools {
			b.n++
			paths[i] = filepath.Join(b.pool, fmt.Sprintf("snapshot-%d", b.n))
			if err := backing.Snapshot(b.volume, paths[i], true); err != nil {
				return err
			}
		}
		for k := range b.tools {
			i := (k + round) % len(b.tools)
			c, err := b.tools[i].backup(ctx, paths[i])
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, b.tools[i].name(), err)
			}
			r.add(i, c)
			time.Sleep(200 * time.Millisecond) // what one leaves to be written is not the next one's
		}
	}
	r.print(os.Stdout)
	return nil
}
