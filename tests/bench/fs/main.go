package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"fractal-lazy/tests/kit"
)

func main() {
	var b bench
	short := flag.Bool("short", false, "a tenth of the work")
	bySetting := flag.Bool("settings", false, "what each setting brings: with all of them, and with each of them off")
	counts := flag.Bool("counts", false, "count requests and system calls instead of measuring time")
	flag.IntVar(&b.rounds, "rounds", 0, "how often everything is run (default: 5, short 3)")
	flag.IntVar(&b.files, "files", 0, "files in the tree (default: 50000, short 5000)")
	only := flag.String("only", "meta,sqlite,fio,pgbench", "which rows")
	dir := flag.String("dir", "/var/tmp", "where the pool's file is, in a folder that is taken away again")
	flag.StringVar(&b.profile, "profile", "", "a folder for CPU profiles of the processes that serve")
	kind := flag.String("child", "", "internal: serve a mount of this kind")
	data := flag.String("data", "", "internal")
	mountpoint := flag.String("mountpoint", "", "internal")
	off := flag.String("off", "", "settings to switch off, with commas")
	cpuprofile := flag.String("cpuprofile", "", "internal")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *kind != "" {
		err = child(*kind, *data, *mountpoint, *off, *cpuprofile)
	} else {
		b.size(*short)
		err = b.run(ctx, *dir, *only, *off, *bySetting, *counts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-fs:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	rounds, files, inserts int
	seconds                int // of each fio job and pgbench run
	fileMiB                int
	profile                string

	dir  string
	pool string
	tar  string
	all  []*place
	rows []*row
}

// size sets what was not asked for otherwise.
func (b *bench) size(short bool) {
	def := func(v *int, long, brief int) {
		if *v == 0 {
			*v = long
			if short {
				*v = brief
			}
		}
	}
	def(&b.rounds, 5, 3)
	def(&b.files, 50_000, 5_000)
	def(&b.inserts, 2_000, 200)
	def(&b.seconds, 5, 1)
	def(&b.fileMiB, 256, 64)
}

func (b *bench) run(ctx context.Context, dir, only, off string, bySetting, counts bool) (err error) {
	if os.Getuid() != 0 {
		return errors.New("mounting needs root: run it with sudo")
	}
	if b.dir, err = os.MkdirTemp(dir, "bench-fs-"); err != nil {
		return err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if left, lerr := kit.Leaks(b.dir); lerr != nil || len(left) > 0 {
			err = errors.Join(err, lerr, fmt.Errorf("left behind: %q", left))
			return // a folder with a mount below is not to be removed
		}
		err = errors.Join(err, os.RemoveAll(b.dir))
	}()
	p, err := kit.NewPool(b.dir, 16<<30)
	if err != nil {
		return err
	}
	b.pool = p.Dir
	defer func() { err = errors.Join(err, p.Close()) }()
	defer func() {
		for _, p := range b.all {
			err = errors.Join(err, p.unmount())
		}
	}()
	if b.profile != "" {
		if b.profile, err = filepath.Abs(b.profile); err != nil {
			return err
		}
	}
	if counts {
		return b.counts(ctx)
	}
	if bySetting {
		return b.bySetting(ctx, only)
	}
	return b.compare(ctx, only, off)
}

// compare puts our mount beside plain BTRFS and the stock loopback.
func (b *bench) compare(ctx context.Context, only, off string) error {
	plain, err := b.newPlace("BTRFS", "", "")
	if err != nil {
		return err
	}
	ours, err := b.newPlace("mount", "ours", off)
	if err != nil {
		return err
	}
	stock, err := b.newPlace("loopback", "loopback", "")
	if err != nil {
		return err
	}
	direct, err := b.newPlace("direct", "bind", "")
	if err != nil {
		return err
	}
	places := []*place{plain, ours, stock, direct}
	fmt.Printf("%d rounds, interleaved; medians. 1.00 is as fast as plain BTRFS, 0.50 half as fast.\n\n", b.rounds)
	for _, what := range strings.Split(only, ",") {
		if err := b.rowsOf(ctx, what, places); err != nil {
			return err
		}
	}
	fmt.Println()
	b.printRatios(os.Stdout, plain, places[1:])
	b.printCommands(os.Stdout)
	return nil
}

// rowsOf measures one group of rows.
func (b *bench) rowsOf(ctx context.Context, what string, places []*place) error {
	switch what {
	case "meta":
		if err := b.makeTar(ctx); err != nil {
			return err
		}
		return b.metadata(ctx, metaRows, places)
	case "sqlite":
		return b.metadata(ctx, sqliteRows, places)
	case "fio":
		return b.fio(ctx, places)
	case "pgbench":
		return b.pgbench(ctx, places)
	}
	return fmt.Errorf("no rows are called %q", what)
}
