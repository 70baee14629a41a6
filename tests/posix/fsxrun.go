package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"

	"github.com/ipfs/go-cid"
)

// The states of the file that fsx works on.
const (
	statePlain   = "btrfs"   // without us: it shows that fsx is right
	stateLocal   = "local"   // complete, passed through to the kernel
	stateThrough = "through" // complete, through our process
	stateHalf    = "half"    // remote; the hydrator works beside it, slowly and then fast
)

const (
	fsxSize  = 3<<20 + 1234
	fsxMore  = 512 << 10 // what the file may grow by
	fsxRound = 2000      // operations on one file: after about as many nothing of it is remote any more
	fsxRate  = 1 << 20   // bytes a second of the hydrator, for the first half of the operations
	fsxWait  = 5 * time.Minute
)

// runFsx does ops operations in the state, on as many files as it takes.
func runFsx(ctx context.Context, s *stage, state string, ops int, seed uint64, out io.Writer) error {
	root, err := s.fsxSource(seed)
	if err != nil {
		return err
	}
	began, rounds := time.Now(), 0
	var missed []string
	for done := 0; done < ops; done += fsxRound {
		n := min(fsxRound, ops-done)
		round := seed<<20 + uint64(rounds)
		r := &fsxTurn{stage: s, state: state, root: root, content: seed, ops: n, seed: round}
		if err := r.run(ctx); err != nil {
			return fmt.Errorf("fsx, state %s, seed %d, round %d: %w", state, seed, rounds, err)
		}
		rounds++
		for _, m := range r.missed {
			if !slices.Contains(missed, m) {
				missed = append(missed, m)
			}
		}
	}
	slices.Sort(missed)
	fmt.Fprintf(out, "fsx %s: %d operations, files: %d, in %v, every byte right; the file system has no %s\n",
		state, ops, rounds, time.Since(began).Round(time.Second), strings.Join(missed, ", "))
	return nil
}

// fsxSource publishes a folder with one file.
func (s *stage) fsxSource(seed uint64) (cid.Cid, error) {
	path, err := s.plain("fsx-source")
	if err != nil {
		return cid.Undef, err
	}
	if err := writeContent(filepath.Join(path, "f"), seed, fsxSize); err != nil {
		return cid.Undef, err
	}
	return s.publish(path)
}

// fsxTurn is one file and its process.
type fsxTurn struct {
	stage   *stage
	state   string
	root    cid.Cid
	content uint64
	ops     int
	seed    uint64
	missed  []string
}

func (r *fsxTurn) run(ctx context.Context) (err error) {
	const name = "fsx"
	s, dir := r.stage, filepath.Join(r.stage.dir, "fsx-mnt")
	path, err := s.plain(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backing.DeleteSubvolume(path)) }()
	if r.state == statePlain {
		if err := writeContent(filepath.Join(path, "f"), r.content, fsxSize); err != nil {
			return err
		}
		return r.child(ctx, filepath.Join(path, "f"), func() error { return nil })
	}
	if _, err := lazy.Create(ctx, path, s.blocks, s.key.Sealer(), r.root); err != nil {
		return err
	}
	if r.state != stateHalf {
		if err := s.hydrate(ctx, name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m, err := s.mount(name, dir, lazy.Options{Rate: fsxRate}, fusefs.Options{NoPassthrough: r.state == stateThrough})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	hydrator := make(chan error, 1)
	// Half of the files are alone at first: the hydrator comes with the second half of the operations.
	random := rand.New(rand.NewPCG(r.seed, 3))
	start := make(chan struct{})
	go func() {
		<-start
		hydrator <- m.tree.Run(ctx)
	}()
	early := random.IntN(2) == 0
	if early {
		close(start)
	}
	err = r.child(ctx, filepath.Join(dir, "f"), func() error {
		if !early {
			close(start)
		}
		early = true
		m.tree.SetRate(0)
		if random.IntN(2) == 0 {
			wait, cancel := context.WithTimeout(ctx, fsxWait)
			defer cancel()
			return m.tree.Wait(wait)
		}
		return nil
	})
	if !early {
		close(start)
	}
	if err == nil && r.state == stateHalf {
		wait, stop := context.WithTimeout(ctx, fsxWait)
		err = m.tree.Wait(wait)
		stop()
	}
	cancel()
	if e := <-hydrator; e != nil && !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	if err := errors.Join(err, m.unmount()); err != nil {
		return err
	}
	// What the backing file has at the end.
	want, err := os.ReadFile(r.modelFile())
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(path, "f"))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("after the unmount BTRFS has %d bytes, want %d; they differ from byte %d on", len(got), len(want), differs(got, want))
	}
	return nil
}

func (r *fsxTurn) modelFile() string { return filepath.Join(r.stage.dir, "fsx-model") }

// child runs the operations in a process of its own; half is called after half of them, while the file is open.
func (r *fsxTurn) child(ctx context.Context, path string, half func() error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, path, fmt.Sprint(r.content), fmt.Sprint(r.ops), fmt.Sprint(r.seed), r.modelFile())
	cmd.Env = append(os.Environ(), fsxEnv+"=1", "GORACE=atexit_sleep_ms=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	if lines.Scan() {
		err = half()
		fmt.Fprintln(in)
		if lines.Scan() {
			r.missed = strings.Fields(lines.Text())
		}
	}
	in.Close()
	if e := cmd.Wait(); e != nil {
		err = errors.Join(err, fmt.Errorf("%w: %s", e, strings.TrimSpace(stderr.String())))
	}
	return err
}

// fsxEnv is set for the process that child starts.
const fsxEnv = "POSIX_FSX"

// fsxMain is that process. Arguments: the file, the seed of its content, operations, their seed, where the model goes at the end.
func fsxMain(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("fsx: %d arguments", len(args))
	}
	var n [3]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(args[1+i], 10, 64); err != nil {
			return fmt.Errorf("fsx: %w", err)
		}
	}
	x, err := newFsx(args[0], content(n[0], fsxSize), fsxSize+fsxMore, n[2])
	if err != nil {
		return err
	}
	ops := int(n[1])
	if err := x.run(ops / 2); err != nil {
		return err
	}
	fmt.Println("half")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if err := x.run(ops - ops/2); err != nil {
		return err
	}
	var missed []string
	for m := range x.missed {
		missed = append(missed, m)
	}
	fmt.Println(strings.Join(missed, " "))
	return errors.Join(x.close(), os.WriteFile(args[4], x.m.p, 0o600))
}
