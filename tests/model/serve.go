package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/fusefs"
	"fractal-lazy/lazy"
	"fractal-lazy/seal"
	"fractal-lazy/store/ipfs"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// command is what a serving process is told. It serves one volume at a time.
type command struct {
	Do      string // mount, unmount, snapshot, pause, hydrate, half, wait
	Volume  string // path of the subvolume
	Mount   string
	Node    string // URL of the block node
	Key     string
	Through bool
	Rate    uint64
	Timeout time.Duration // of a fetch
	Fetch   bool          // everything, in the background, from the start
	To      string        // path of the snapshot to take
	Omit    int
}

type answer struct {
	Err      string
	Complete bool
	Remote   uint64
}

// server is our side of a serving process.
type server struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

const serveEnv = "MODEL_SERVER"

func startServer(stderr *os.File) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.Command(self)}
	s.cmd.Env = append(os.Environ(), serveEnv+"=1")
	s.cmd.Stderr = stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = json.NewDecoder(bufio.NewReader(out))
	return s, s.cmd.Start()
}

func (s *server) do(c command) (answer, error) {
	var a answer
	if err := json.NewEncoder(s.in).Encode(c); err != nil {
		return a, fmt.Errorf("serving process, %s: %w", c.Do, err)
	}
	if err := s.out.Decode(&a); err != nil {
		return a, fmt.Errorf("serving process, %s: %w", c.Do, err)
	}
	if a.Err != "" {
		return a, fmt.Errorf("serving process, %s: %s", c.Do, a.Err)
	}
	return a, nil
}

// kill ends the process as a power cut would, but for the kernel.
func (s *server) kill() error {
	err := s.cmd.Process.Kill()
	_ = s.cmd.Wait() // that it was killed
	return err
}

func (s *server) close() error { return errors.Join(s.in.Close(), s.cmd.Wait()) }

// serve is the process: it answers commands until its input ends.
func serve() error {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	s := &serving{}
	for {
		var c command
		if err := in.Decode(&c); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, s.unmount())
		}
		a := answer{}
		if err := s.do(&c); err != nil {
			a.Err = err.Error()
		}
		if s.tree != nil {
			st := s.tree.Status()
			a.Complete, a.Remote = st.Complete, st.BytesRemote
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

type serving struct {
	bt     *backing.Tree
	tree   *lazy.Tree
	fs     *fusefs.FS
	cancel context.CancelFunc
	ran    chan error
}

func (s *serving) do(c *command) error {
	switch c.Do {
	case "mount":
		return s.mount(c)
	case "unmount":
		return s.unmount()
	case "snapshot":
		return s.fs.Freeze(func() error { return backing.Snapshot(c.Volume, c.To, true) })
	case "pause":
		s.tree.Pause()
	case "hydrate":
		s.tree.SetRate(c.Rate)
		s.tree.Hydrate()
		s.tree.Resume()
	case "half":
		return s.half()
	case "wait":
		s.tree.SetRate(0)
		s.tree.Hydrate()
		s.tree.Resume()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return s.tree.Wait(ctx)
	default:
		return fmt.Errorf("%s is not known", c.Do)
	}
	return nil
}

// patience is how long something may take that has to happen.
const patience = 2 * time.Minute

func (s *serving) half() error {
	s.tree.SetRate(0)
	s.tree.Hydrate()
	s.tree.Resume()
	end := time.Now().Add(patience)
	for st := s.tree.Status(); !st.Complete && st.BytesRemote > st.BytesTotal/2; st = s.tree.Status() {
		if time.Now().After(end) {
			return errors.New("half of it does not come")
		}
		time.Sleep(time.Millisecond)
	}
	s.tree.Pause()
	return nil
}

func (s *serving) mount(c *command) (err error) {
	if c.Omit != 0 {
		if err := omit(c.Omit); err != nil {
			return err
		}
	}
	key, err := seal.ParsePrivkey(c.Key)
	if err != nil {
		return err
	}
	blocks, err := ipfs.NewClient(ipfs.Options{RPC: c.Node, Token: token})
	if err != nil {
		return err
	}
	if s.bt, err = backing.OpenTree(c.Volume); err != nil {
		return err
	}
	log := zerolog.New(os.Stderr).Level(zerolog.ErrorLevel)
	opt := lazy.Options{Volume: "model", Log: log, FetchTimeout: c.Timeout, Rate: c.Rate, Prefetch: lazy.PrefetchNone}
	if c.Fetch {
		opt.Prefetch = lazy.PrefetchAll
	}
	if s.tree, err = lazy.Open(context.Background(), s.bt, blocks, key.Sealer(), opt); err != nil {
		return err
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.ran = make(chan error, 1)
	go func() { s.ran <- s.tree.Run(ctx) }()
	s.fs, err = fusefs.Mount(s.bt, s.tree, c.Mount, fusefs.Options{NoPassthrough: !c.Through, Log: log})
	return err
}

func (s *serving) unmount() error {
	var errs []error
	if s.fs != nil {
		end := time.Now().Add(10 * time.Second)
		err := s.fs.Unmount()
		for errors.Is(err, unix.EBUSY) && time.Now().Before(end) { // the kernel closes late
			time.Sleep(5 * time.Millisecond)
			err = s.fs.Unmount()
		}
		if err != nil {
			return err
		}
	}
	if s.cancel != nil {
		s.cancel()
		if err := <-s.ran; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	if s.tree != nil {
		errs = append(errs, s.tree.Close())
	}
	if s.bt != nil {
		errs = append(errs, s.bt.Close())
	}
	*s = serving{}
	return errors.Join(errs...)
}
