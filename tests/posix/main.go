package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// config is what the command line says.
type config struct {
	pjdfstest, xfstests string
	tests               string
	only                string
	mounts              string
	limit               time.Duration
	ops                 int
	states              string
	seed                uint64
	dir                 string
	keep                bool
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		if err := helper(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "mount."+mountType+":", err)
			os.Exit(32)
		}
		return
	}
	if os.Getenv(fsxEnv) != "" {
		if err := fsxMain(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var c config
	flag.StringVar(&c.pjdfstest, "pjdfstest", "", "a built checkout of pjdfstest")
	flag.StringVar(&c.xfstests, "xfstests", "", "a built checkout of xfstests")
	flag.StringVar(&c.tests, "tests", "", "run these tests of xfstests only")
	flag.StringVar(&c.only, "only", "", "run this folder of pjdfstest only")
	flag.StringVar(&c.mounts, "mounts", "local,half", "states of the volumes that xfstests gets")
	flag.DurationVar(&c.limit, "limit", 3*time.Minute, "for one test of xfstests")
	flag.StringVar(&c.states, "states", "btrfs,local,through,half", "that fsx works in")
	flag.IntVar(&c.ops, "ops", 0, "operations of fsx for each state; 0: without fsx")
	flag.Uint64Var(&c.seed, "seed", 1, "what everything random follows from")
	flag.StringVar(&c.dir, "dir", os.TempDir(), "where pools and results are made")
	flag.BoolVar(&c.keep, "keep", false, "keep the results of xfstests")
	flag.Parse()
	if os.Getenv(insideEnv) == "" {
		if err := inside(); err != nil {
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "posix:", err)
		os.Exit(1)
	}
}

func (c config) run(ctx context.Context, out io.Writer) (err error) {
	if os.Getuid() != 0 {
		return errors.New("mounting needs root")
	}
	dir, err := os.MkdirTemp(c.dir, "posix-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the tests' users look into it
		return err
	}
	if c.keep {
		fmt.Fprintln(out, "results are kept in", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	socket := filepath.Join(dir, "socket")
	if err := furnish(dir, socket); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s, err := newStage(dir, 12<<30, zerolog.New(log).With().Timestamp().Logger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var wrong []error
	if c.pjdfstest != "" {
		wrong = append(wrong, c.runPjdfstest(ctx, s, out))
	}
	if c.xfstests != "" {
		wrong = append(wrong, c.runXfstests(ctx, s, socket, out))
	}
	for _, state := range strings.FieldsFunc(c.states, func(r rune) bool { return r == ',' }) {
		if c.ops > 0 && ctx.Err() == nil {
			wrong = append(wrong, runFsx(ctx, s, state, c.ops, c.seed, out))
		}
	}
	return errors.Join(wrong...)
}
