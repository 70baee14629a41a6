package supervise

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Options of Run. Args is needed.
type Options struct {
	Args []string // of the worker, without the program's name
	// Hold is how long items that block others are held without a worker that is ready; 0: 60 s.
	Hold time.Duration
	// Holder is the socket of a holder (Hold), which keeps items that block others beyond this process; it may come and go. Empty: none.
	Holder string
	Log    zerolog.Logger

	// path of the program; empty: this one's. Tests set it.
	path string
}

const (
	defaultHold = time.Minute
	maxPause    = 5 * time.Second
	// A worker that was ready, or lived, so long has not failed at its start.
	settled = 2 * time.Second
	// upgradeLimit is how long a new program may take to become ready.
	upgradeLimit = 30 * time.Second
)

// supervisor is one Run. Its fields belong to the goroutine of Run.
type supervisor struct {
	o     Options
	log   zerolog.Logger
	path  string // what SIGHUP starts
	exe   string // what is started
	items map[string]Item

	events chan event
	signal chan os.Signal

	worker  *worker
	ending  os.Signal // the first of SIGTERM and SIGINT
	alone   time.Time // since when no worker is ready; zero: one is
	served  bool      // a worker has been ready
	fails   int       // workers that died at their start, in a row
	replace bool      // the worker is being replaced
	trial   string    // the program of before, while a new one has not become ready
	more    bool      // another upgrade was asked for meanwhile
	heir    string    // the program that is to take this one's place, while that has not come to an end

	link     *link // to a holder; nil: none
	linked   bool  // there has been one
	links    chan *link
	reaching bool // one is being looked for
	reached  time.Time
}

// worker is a running child.
type worker struct {
	pid     int
	fd      int // our end of its socket
	started time.Time
	ready   bool
	// program is what it runs; nil: it was replaced at that moment. /proc/PID/exe does not say so: who has acted in another user's name is closed to
	// others, but for those with CAP_SYS_PTRACE, which a plugin has not.
	program os.FileInfo
	ended   chan syscall.WaitStatus
	// A pipe: when parkW is closed, listen ends.
	parkR, parkW int
}

// close closes what belongs to a worker that has ended.
func (w *worker) close() {
	unix.Close(w.fd)
	unix.Close(w.parkR)
	if w.parkW >= 0 {
		unix.Close(w.parkW)
	}
}

// event is a message of a worker, its end, or a step of a succession.
type event struct {
	w         *worker
	msg       message
	files     []*os.File
	status    *syscall.WaitStatus
	rehearsed bool // with err
	parked    bool
	err       error
}

// Run starts the worker, and again whenever it dies, until SIGTERM or SIGINT. It returns the worker's exit code; an error only where there was never
// any. As PID 1 it reaps what other processes leave.
func Run(o Options) (code int, err error) {
	if o.Hold <= 0 {
		o.Hold = defaultHold
	}
	path := o.path
	if path == "" {
		if path, err = os.Executable(); err != nil {
			return 1, fmt.Errorf("supervisor: %w", err)
		}
	}
	// The worker dies with the thread that started it; this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, rehearsal, err := inherit()
	if rehearsal != nil {
		defer rehearsal.Close()
		if err == nil {
			_, err = rehearsal.WriteString(rehearsed)
		}
		return 0, err
	}
	if err != nil {
		return 1, fmt.Errorf("supervisor: %w", err)
	}
	s := &supervisor{o: o, log: o.Log.With().Str("op", "supervise").Logger(), path: path, exe: path,
		items: map[string]Item{}, events: make(chan event, 16), signal: make(chan os.Signal, 8), alone: time.Now(),
		links: make(chan *link, 1)}
	notify(s.signal)
	defer signal.Stop(s.signal)
	if err := mask(unix.SIG_UNBLOCK); err != nil { // become has blocked them
		return 1, fmt.Errorf("supervisor: %w", err)
	}
	if before != nil {
		err = s.takeOver(before)
	} else {
		s.begin()
		err = s.start()
	}
	if err != nil {
		return 1, err
	}
	return s.run()
}

func (s *supervisor) run() (int, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var again time.Time // when to start the next worker; zero: one runs
	for {
		select {
		case e := <-s.events:
			if done := s.handle(e, &again); done != nil {
				return *done, nil
			}
		case sig := <-s.signal:
			if s.onSignal(sig) && s.worker == nil {
				return 0, nil
			}
		case l := <-s.links:
			s.onLink(l)
		case <-tick.C:
			s.expire()
			s.gone()
			s.reach()
		}
		if s.worker == nil && !again.IsZero() && !time.Now().Before(again) {
			again = time.Time{}
			if err := s.start(); err != nil {
				s.log.Error().Err(err).Msg("the worker cannot be started; tried again")
				again = time.Now().Add(s.pause())
			}
		}
	}
}

// onSignal reports whether the signal asks for the end.
func (s *supervisor) onSignal(sig os.Signal) bool {
	if sig == syscall.SIGHUP {
		s.upgrade()
		return false
	}
	if s.ending == nil {
		s.ending = sig
	}
	if s.worker != nil {
		_ = syscall.Kill(s.worker.pid, sig.(syscall.Signal))
	}
	return true
}

// upgrade replaces the worker by what is at the program's path now. The worker is killed: what it leaves is what any crash leaves. One that is asked for during
// another one follows it.
func (s *supervisor) upgrade() {
	switch {
	case s.ending != nil:
		return
	case s.trial != "":
		s.more = true
		return
	}
	s.log.Info().Str("path", s.path).Msg("replacing the worker")
	s.trial, s.exe, s.heir = fmt.Sprintf("/proc/%d/exe", os.Getpid()), s.path, ""
	if s.worker != nil {
		s.replace = true
		_ = syscall.Kill(s.worker.pid, syscall.SIGKILL)
	}
}

// handle returns an exit code when the supervisor is to end.
func (s *supervisor) handle(e event, again *time.Time) *int {
	switch {
	case e.status != nil:
		return s.died(e.w, *e.status, again)
	case e.w != s.worker:
		for _, f := range e.files {
			f.Close()
		}
	case e.rehearsed && (e.err != nil || s.ending != nil):
		s.stay(e.err)
	case e.rehearsed:
		e.w.park()
	case e.parked:
		s.resign(e.w)
	default:
		s.message(e)
	}
	return nil
}

// resign lets the heir take this program's place, or goes on.
func (s *supervisor) resign(w *worker) {
	var err error
	if s.ending == nil {
		err = s.become()
	}
	s.stay(err)
	unix.Close(w.parkR)
	if err := w.unpark(); err != nil { // no descriptors: what it says is not heard, so another one has to be started
		s.log.Error().Err(err).Msg("the worker is started anew")
		w.parkR = -1
		_ = syscall.Kill(w.pid, syscall.SIGKILL)
	}
	go s.listen(w)
}

func (s *supervisor) message(e event) {
	switch e.msg.Kind {
	case kindPut:
		i := Item{Key: e.msg.Key, Data: e.msg.Data, Files: e.files, Blocks: e.msg.Blocks}
		old, there := s.items[i.Key]
		if i.check() != nil || !there && len(s.items) >= maxItems {
			s.log.Error().Str("key", i.Key).Msg("cannot be kept: too much")
			i.close()
			return
		}
		go old.close()
		s.items[i.Key] = i
		s.mirrorItem(i.Key)
	case kindDrop:
		old := s.items[e.msg.Key]
		go old.close() // of a mount, it may wait for the worker
		delete(s.items, e.msg.Key)
		if old.Blocks {
			s.mirror(message{Kind: kindDrop, Key: e.msg.Key}, nil)
		}
	case kindReady:
		e.w.ready, s.served = true, true
		s.fails = 0
		ev := s.log.Info()
		if !s.alone.IsZero() {
			ev = ev.Dur("pause", time.Since(s.alone))
		}
		ev.Int("worker", e.w.pid).Int("items", len(s.items)).Msg("worker is ready")
		if s.trial != "" {
			s.heir = s.exe
		}
		s.alone, s.trial = time.Time{}, ""
		s.mirror(message{Kind: kindReady}, nil)
		switch {
		case s.more && s.ending == nil:
			s.more = false
			s.upgrade()
		case s.heir == "" || s.ending != nil:
		case e.msg.Carry < carryVersion:
			s.stay(errors.New("the new program knows nothing of taking its place"))
		default:
			s.succeed(e.w)
		}
	default:
		for _, f := range e.files {
			f.Close()
		}
	}
}

// start starts a worker and tells it what was kept.
func (s *supervisor) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("supervisor: socket: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "worker")
	cmd := exec.Command(s.exe, s.o.Args...)
	cmd.Args[0] = s.path                                               // ps shows that, also where the program of before goes on as /proc/PID/exe
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr // not /dev/null, which may be missing
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(os.Environ(), EnvSocket+"="+strconv.Itoa(3))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // its own group: Ctrl-C is passed on, not doubled
	before, _ := os.Stat(s.exe)                                                       // where it cannot be looked at it does not start
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("start the worker %s: %w", s.exe, err)
	}
	w := &worker{pid: cmd.Process.Pid, fd: pair[0], started: time.Now(), ended: make(chan syscall.WaitStatus, 1), parkR: -1, parkW: -1}
	if err := w.unpark(); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		w.close()
		return err
	}
	if after, serr := os.Stat(s.exe); serr == nil && before != nil && os.SameFile(before, after) {
		w.program = after
	}
	s.worker, s.replace = w, false
	if s.alone.IsZero() {
		s.alone = w.started
	}
	_ = cmd.Process.Release() // reap waits for it
	s.tellOfHolder()
	go s.talk(w, s.snapshot())
	return nil
}

// snapshot is the items, with descriptors of their own, as they are now.
func (s *supervisor) snapshot() (all []Item) {
	for _, key := range slices.Sorted(maps.Keys(s.items)) {
		i, err := s.items[key].copy()
		if err != nil {
			s.log.Error().Err(err).Str("key", key).Msg("cannot be handed over")
			continue
		}
		all = append(all, i)
	}
	return all
}

// talk tells the worker what was kept, and listens to it.
func (s *supervisor) talk(w *worker, items []Item) {
	go func() { w.ended <- reap(w.pid) }()
	err := tell(w.fd, items)
	if err != nil { // the worker is gone, or about to be
		status := <-w.ended
		s.events <- event{w: w, status: &status}
		return
	}
	s.listen(w)
}

// listen takes the worker's messages till the last, and then waits for its end; or till it is parked.
func (s *supervisor) listen(w *worker) {
	for {
		if !w.readable() {
			s.events <- event{w: w, parked: true}
			return
		}
		m, files, ok, err := receive(w.fd)
		if !ok {
			break
		}
		if err != nil {
			s.log.Error().Err(err).Msg("a message of the worker was not understood")
			continue
		}
		s.events <- event{w: w, msg: m, files: files}
	}
	status := <-w.ended
	s.events <- event{w: w, status: &status}
}

// reap waits for the end of pid, and meanwhile for whatever else is a child of this process: PID 1 gets those that nobody else waits for.
func reap(pid int) syscall.WaitStatus {
	var ws syscall.WaitStatus
	for {
		// The program before this one may have been told of its end already. Then it is no child any more, and what others leave must not be waited for.
		p, err := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || p == pid {
			return ws
		}
		break
	}
	for {
		p, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0 // no such child: it was waited for already
		case p == pid:
			return ws
		}
	}
}

// died is called when the worker has ended and all that it had said is done.
func (s *supervisor) died(w *worker, ws syscall.WaitStatus, again *time.Time) *int {
	w.close()
	s.worker = nil
	code := ws.ExitStatus()
	if ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	// One that ends by itself before any was ever ready, and says why, would say the same again. (A panic ends with 2.)
	hopeless := !s.served && ws.Exited() && code != 2 && len(s.items) == 0
	if s.ending != nil || hopeless {
		for _, i := range s.items {
			i.close()
		}
		return &code
	}
	now := time.Now()
	if s.alone.IsZero() {
		s.alone = now
	}
	if w.ready || now.Sub(w.started) > settled || s.replace {
		s.fails = 0
	} else {
		s.fails++
	}
	if !s.replace {
		l := s.log.Error().Int("worker", w.pid).Int("code", code).Dur("lived", now.Sub(w.started))
		if ws.Signaled() {
			l = l.Stringer("signal", ws.Signal())
		}
		l.Int("items", len(s.items)).Msg("the worker died; another one is started")
		s.fallBack()
	}
	*again = now.Add(s.pause())
	return nil
}

// fallBack returns to the program of before an upgrade.
func (s *supervisor) fallBack() {
	if s.trial != "" {
		s.log.Error().Str("path", s.exe).Msg("the new program did not become ready: going on with the one of before")
		s.exe, s.trial = s.trial, ""
	}
}

// pause is how long to wait before the next start.
func (s *supervisor) pause() time.Duration {
	if s.fails < 2 {
		return 0
	}
	return min(50*time.Millisecond<<min(s.fails-2, 10), maxPause)
}

// expire lets go of what makes others wait, when nobody was there to serve it for too long. A worker that is not ready has it as well: it is started anew.
func (s *supervisor) expire() {
	if s.alone.IsZero() {
		return
	}
	alone := time.Since(s.alone)
	if s.trial != "" && s.worker != nil && time.Since(s.worker.started) > upgradeLimit {
		_ = syscall.Kill(s.worker.pid, syscall.SIGKILL)
		return
	}
	if alone < s.o.Hold {
		return
	}
	n := 0
	for key, i := range s.items {
		if i.Blocks {
			go i.close()
			delete(s.items, key)
			s.mirror(message{Kind: kindDrop, Key: key}, nil)
			n++
		}
	}
	if n == 0 {
		return
	}
	s.log.Error().Int("mounts", n).Dur("alone", alone).Msg("no worker for too long: mounts are given up, so that who uses them can be ended")
	if s.worker != nil {
		_ = syscall.Kill(s.worker.pid, syscall.SIGKILL)
	}
}
