package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"

	"github.com/rs/zerolog"
)

type options struct {
	binary  string
	volumes int
	rounds  int
	limit   time.Duration
	sealed  bool
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the driver to measure (default: it is built)")
	flag.IntVar(&o.volumes, "volumes", 1000, "volumes in the pool")
	flag.IntVar(&o.rounds, "rounds", 9, "starts")
	flag.DurationVar(&o.limit, "limit", 200*time.Millisecond, "fail where the median to the socket is above this; 0: never")
	flag.BoolVar(&o.sealed, "sealed", false, "with keys that are sealed with a passphrase")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, 8*time.Minute, errors.New("it took more than 8 minutes"))
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
		os.Exit(1)
	}
}

// run measures in a new folder and takes everything away again.
func run(ctx context.Context, o options) (err error) {
	if os.Getuid() != 0 {
		return errors.New("a pool needs root: run it with sudo")
	}
	if o.volumes < 0 || o.rounds < 1 {
		return errors.New("-volumes has to be at least 0, and -rounds 1")
	}
	dir, err := os.MkdirTemp("", "bench-start-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.binary == "" {
		o.binary = filepath.Join(dir, "fractal-lazy")
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", o.binary, "fractal-lazy")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	pool, err := kit.NewPool(dir, 1<<30)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	b := &bench{options: o, dir: dir, root: filepath.Join(pool.Dir, "root")}
	if err := b.fill(ctx); err != nil {
		return err
	}
	return b.measure(ctx)
}

type bench struct {
	options
	dir, root string
	pass      string // file with the passphrase; empty: none
}

// fill makes the volumes.
func (b *bench) fill(ctx context.Context) error {
	if err := os.Mkdir(b.root, 0o700); err != nil {
		return err
	}
	if b.sealed {
		b.pass = filepath.Join(b.dir, "passphrase")
		if err := os.WriteFile(b.pass, []byte("six words that nobody would guess"), 0o600); err != nil {
			return err
		}
	}
	m, err := volume.Open(ctx, volume.Deps{Log: zerolog.Nop()}, volume.Options{Root: b.root, Interval: -1, PassphraseFile: b.pass})
	if err != nil {
		return err
	}
	begin := time.Now()
	for i := range b.volumes {
		if err := m.Create(ctx, fmt.Sprintf("volume-%04d", i), map[string]string{"interval": "30s", "size": "20GiB"}); err != nil {
			return errors.Join(err, m.Close(ctx))
		}
	}
	fmt.Printf("%d volumes made in %s\n", b.volumes, time.Since(begin).Round(time.Millisecond))
	return m.Close(ctx)
}

func (b *bench) measure(ctx context.Context) error {
	var sockets, lists []time.Duration
	for i := range b.rounds {
		socket, list, err := b.start(ctx, i)
		if err != nil {
			return err
		}
		fmt.Printf("start %d: socket after %s, list of %d volumes after %s\n", i+1, socket.Round(time.Millisecond), b.volumes, list.Round(time.Millisecond))
		sockets, lists = append(sockets, socket), append(lists, list)
	}
	slices.Sort(sockets)
	slices.Sort(lists)
	median := sockets[len(sockets)/2]
	fmt.Printf("median: socket after %s, list after %s\n", median.Round(time.Millisecond), lists[len(lists)/2].Round(time.Millisecond))
	if b.limit > 0 && median > b.limit {
		return fmt.Errorf("the socket comes after %s, and should within %s", median.Round(time.Millisecond), b.limit)
	}
	return nil
}

// start runs the driver once.
func (b *bench) start(ctx context.Context, i int) (socket, list time.Duration, err error) {
	path := filepath.Join(b.dir, "s.sock")
	env := []string{"FRACTAL_PASSPHRASE_FILE=" + b.pass}
	begin := time.Now()
	p, err := kit.Start(kit.ProcessOptions{Path: b.binary, Args: []string{"run", "--root", b.root, "--socket", path}, Env: env,
		Log: filepath.Join(b.dir, fmt.Sprintf("log-%d", i))})
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, p.Term(end))
		if err != nil {
			fmt.Fprintln(os.Stderr, p.LogTail(20))
		}
	}()
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			break
		}
		if err := ctx.Err(); err != nil {
			return 0, 0, context.Cause(ctx)
		}
		select {
		case <-p.Done():
			return 0, 0, errors.New("the driver ended")
		case <-time.After(time.Millisecond):
		}
	}
	socket = time.Since(begin)
	cl := control.NewClient(path)
	defer cl.Close()
	for {
		all, err := cl.List(ctx)
		if err == nil && len(all) == b.volumes {
			return socket, time.Since(begin), nil
		}
		if err == nil {
			return 0, 0, fmt.Errorf("%d volumes are listed", len(all))
		}
		if ctx.Err() != nil {
			return 0, 0, err
		}
		time.Sleep(time.Millisecond)
	}
}
