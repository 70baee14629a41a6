package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	dockervolume "github.com/docker/go-plugins-helpers/volume"
	"github.com/rs/zerolog"
)

// CallLimit is the longest that a call of Docker waits for its answer. Docker gives up after 30 s; then it neither reads the answer nor
// undoes the call.
const CallLimit = 25 * time.Second

// Options of a Server. The zero Options are good for a test.
type Options struct {
	Version  control.Version
	Settings []control.Setting // for status; secrets hidden already
	Log      zerolog.Logger
	Metrics  http.Handler // of GET /metrics; nil: there is none

	CallLimit time.Duration // 0: CallLimit
}

// Server answers on one socket. Make it with New; then Listen, then Run.
type Server struct {
	opt      Options
	started  time.Time
	backend  *backend
	handler  *dockervolume.Handler
	api      *http.ServeMux // below handler: what is not Docker's
	listener *listener

	// ctx is that of work which outlives the call that asked for it; Run ends it.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	settings []control.Setting
	stopping bool              // no call begins any more
	rates    map[string]uint64 // what hydration of a mounted volume was limited to
}

// New returns a server that answers nothing yet.
func New(opt Options) *Server {
	if opt.CallLimit == 0 {
		opt.CallLimit = CallLimit
	}
	s := &Server{
		opt: opt, started: time.Now(), backend: newBackend(), settings: opt.Settings,
		rates: map[string]uint64{}, api: http.NewServeMux(),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.handler = dockervolume.NewHandler(&driver{s: s})
	s.routes()
	return s
}

// SetBackend gives the server its volumes and takes back a fault.
func (s *Server) SetBackend(v Volumes) { s.backend.set(v, nil) }

// SetFault makes err the answer to every call that needs volumes. It is volume.ErrNotReady, whatever else it is.
func (s *Server) SetFault(err error) {
	if !errors.Is(err, volume.ErrNotReady) {
		err = fmt.Errorf("%w: %w", volume.ErrNotReady, err)
	}
	s.backend.set(nil, err)
}

// SetSettings replaces what status shows, after the settings were read again.
func (s *Server) SetSettings(all []control.Setting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings = all
}

// Listen makes the socket. Calls queue from now on and are answered once Run is called.
func (s *Server) Listen(socket string) error {
	l, err := listen(socket)
	if err != nil {
		return err
	}
	s.listener = l
	return nil
}

// Adopt is Listen with the socket that a process before this one had, as Socket returned it; file stays the caller's.
// An error where it is not the one at that path: then Listen.
func (s *Server) Adopt(socket string, file *os.File, made Made) error {
	l, err := adopt(socket, file, made)
	if err != nil {
		return fmt.Errorf("adopt socket: %w", err)
	}
	s.listener = l
	return nil
}

// Socket returns a descriptor of the socket, for another process to Adopt. It is the caller's to close.
func (s *Server) Socket() (*os.File, Made, error) {
	f, err := s.listener.File()
	if err != nil {
		return nil, Made{}, fmt.Errorf("socket: %w", err)
	}
	return f, madeOf(s.listener.made), nil
}

// Run serves until ctx ends; then it takes no more calls, waits up to grace for those under way before it cancels them, and removes the
// socket. The backend is the caller's to close, afterwards.
func (s *Server) Run(ctx context.Context, grace time.Duration) error {
	served := make(chan error, 1)
	go func() { served <- s.handler.Serve(s.listener) }()
	var err error
	select {
	case <-ctx.Done():
		s.listener.Close()
		<-served // its error is that the listener was closed
	case err = <-served:
		err = fmt.Errorf("serve %s: %w", s.listener.path, err)
		s.listener.Close()
	}

	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	s.cancel()
	<-done
	s.listener.closeConns(answerGrace)
	return err
}

// answerGrace is how long an answer that is ready may take to be written.
const answerGrace = time.Second

var errStopping = fmt.Errorf("%w: the daemon is stopping", volume.ErrNotReady)

// begin counts a piece of work that Run waits for; false: the server is stopping. The caller calls s.work.Done.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.work.Add(1)
	return true
}

// safely turns a panic of fn into an error. What the caller is told repeats nothing of the panic, which might hold anything.
func (s *Server) safely(op, name string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.opt.Log.Error().Str("op", op).Str("volume", name).Interface("panic", r).Bytes("stack", debug.Stack()).
				Msg("a call failed by a mistake in the program")
			err = fmt.Errorf("%s failed by a mistake in the program; the daemon's log has more: please report it", op)
		}
	}()
	return fn()
}
