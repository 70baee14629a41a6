package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"golang.org/x/sys/unix"
)

// totals count what a run did.
type totals struct {
	ops, sequences, stages, restarts, kills, snapshots, faults, timeouts, compared uint64
	states                                                                         map[string]int
	kinds                                                                          map[string]int // operations that succeeded
}

func (t *totals) String() string {
	return fmt.Sprintf("%d operations in %d sequences, %d volumes %v; %d restarts, %d kills, %d snapshots read back, %d faults, %d operations ended by one; %d objects compared",
		t.ops, t.sequences, t.stages, t.states, t.restarts, t.kills, t.snapshots, t.faults, t.timeouts, t.compared)
}

// config is what the command line says.
type config struct {
	ops       int
	seed      uint64
	first     uint64 // sequence
	sequences uint64 // 0: until ops are done
	stage     int    // operations of a stage
	omit      int
	dir       string
	verbose   bool
	log       string // file for all operations of the sequence that failed
}

// history is what the last operations were.
type history struct{ lines []string }

func (h *history) add(format string, args ...any) {
	h.lines = append(h.lines, fmt.Sprintf(format, args...))
	if len(h.lines) > 20_000 {
		h.lines = append(h.lines[:0:0], h.lines[10_000:]...)
	}
}

// sequence is one run of operations.
type sequence struct {
	*history
	w     *world
	conf  config
	t     *totals
	r     *rand.Rand
	plain *side
	mount *side
	g     *gen
	c     *compare
	srv   *server // serves the mount
	other *server // serves the second one
	mnt   string
	data  string // subvolume that is mounted
	still string // the snapshot before, for what changed since
	log   *os.File

	state   string
	through bool
	timeout time.Duration
	calm    int // steps until faults are lifted
}

// run does operations until enough were done.
func (conf config) run(ctx context.Context) (t totals, err error) {
	t.states, t.kinds = map[string]int{}, map[string]int{}
	if os.Getuid() != 0 {
		return t, errors.New("mounting needs root")
	}
	dir, err := os.MkdirTemp(conf.dir, "fractal-model-")
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := newWorld(dir)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	for n := conf.first; ctx.Err() == nil; n++ {
		if conf.sequences > 0 && n >= conf.first+conf.sequences || conf.sequences == 0 && t.ops >= uint64(conf.ops) {
			break
		}
		began, before := time.Now(), t.ops
		s := &sequence{history: &history{}, w: w, conf: conf, t: &t, r: rand.New(rand.NewPCG(conf.seed, n))}
		if err := s.run(ctx); err != nil {
			return t, fmt.Errorf("sequence %d of seed %d (again: -seed %d -first %d -sequences 1): %w", n, conf.seed, conf.seed, n, err)
		}
		t.sequences++
		if conf.verbose {
			fmt.Printf("sequence %d: %d operations in %v\n", n, t.ops-before, time.Since(began).Round(time.Millisecond))
		}
	}
	return t, ctx.Err()
}

func (s *sequence) run(ctx context.Context) error {
	make := func(root string) ([]string, error) { return makeTree(root, s.r) }
	return s.on(make, func(snap string) (err error) {
		for stage := range 4 {
			if err := s.stage(ctx, stage, snap); err != nil {
				return fmt.Errorf("volume %d (%s): %w", stage, s.state, err)
			}
			if ctx.Err() != nil {
				return nil
			}
			if snap, err = s.failover(stage == 3); err != nil {
				return fmt.Errorf("volume %d (%s): %w", stage, s.state, err)
			}
		}
		return nil
	})
}

// on calls do with a snapshot of what make makes on the plain side.
func (s *sequence) on(make func(root string) (frozen []string, err error), do func(snap string) error) (err error) {
	if err := s.w.begin(); err != nil {
		return errors.Join(err, s.w.end())
	}
	if s.log, err = os.CreateTemp(s.w.dir, "log-"); err != nil {
		return err
	}
	s.mnt = filepath.Join(s.w.dir, "mnt")
	if err := os.MkdirAll(s.mnt, 0o700); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.stop(), s.w.end())
		if err != nil {
			if s.conf.log != "" {
				err = errors.Join(err, os.WriteFile(s.conf.log, []byte(strings.Join(s.lines, "\n")), 0o644))
			}
			b, _ := os.ReadFile(s.log.Name()) // what there is
			err = fmt.Errorf("%w\nthe last operations:\n  %s\nthe log of the serving processes:\n%.4000s", err, strings.Join(s.last(err), "\n  "), b)
		}
		s.log.Close()
		os.Remove(s.log.Name())
	}()
	plain, err := s.w.subvolume("plain")
	if err != nil {
		return err
	}
	frozen, err := make(plain)
	if err != nil {
		return err
	}
	if s.plain, err = newSide("plain", plain); err != nil {
		return err
	}
	s.g = newGen(s.r, s.plain)
	s.g.frozen = frozen
	s.c = newCompare(s.plain, nil)
	snap := s.w.path("source")
	if err := errors.Join(backing.SyncFS(plain), backing.Snapshot(plain, snap, true)); err != nil {
		return err
	}
	return do(snap)
}

// last is what of the history goes into a report: the last operations, and those before that were on the same path.
func (s *sequence) last(err error) []string {
	const n = 40
	lines := s.lines
	cut := max(0, len(lines)-n)
	var out []string
	if _, rest, ok := strings.Cut(err.Error(), `"`); ok {
		name, _, _ := strings.Cut(rest, `"`)
		for _, l := range lines[:cut] {
			if strings.Contains(l, `"`+name+`"`) || strings.HasPrefix(l, "--") {
				out = append(out, l)
			}
		}
	}
	out = out[max(0, len(out)-n):]
	return append(out, lines[cut:]...)
}

func (s *sequence) stop() error {
	var errs []error
	s.w.faults.LiftAll()
	for _, d := range []*side{s.mount, s.plain} {
		if d != nil {
			d.close()
		}
	}
	for _, p := range []*server{s.srv, s.other} {
		if p == nil {
			continue
		}
		if _, err := p.do(command{Do: "unmount"}); err != nil {
			errs = append(errs, err, p.kill())
			continue
		}
		errs = append(errs, p.close())
	}
	for _, m := range []string{s.mnt, s.mnt + "-second"} {
		for unix.Unmount(m, unix.MNT_DETACH) == nil {
			errs = append(errs, fmt.Errorf("%s was still mounted", m))
		}
	}
	return errors.Join(errs...)
}

// stage makes a volume of the published snapshot, and works in it.
func (s *sequence) stage(ctx context.Context, n int, snap string) error {
	s.state = []string{"remote", "half", "running", "remote", "complete"}[s.r.IntN(5)]
	s.through = s.r.IntN(4) > 0
	s.timeout = 0
	if s.r.IntN(3) == 0 {
		s.timeout = 400 * time.Millisecond
	}
	s.t.stages++
	s.t.states[s.state]++
	s.add("-- volume %d: %s, passthrough %v, fetch timeout %v", n, s.state, s.through, s.timeout)
	if err := s.volume(n == 0, snap); err != nil {
		return err
	}
	for range s.conf.stage {
		if ctx.Err() != nil {
			return nil
		}
		if err := s.step(); err != nil {
			return err
		}
		if s.r.IntN(250) == 0 {
			if err := s.event(); err != nil {
				return err
			}
		}
	}
	return nil
}

// volume makes one of the snapshot, which is published where it is the first, and serves it.
func (s *sequence) volume(first bool, snap string) (err error) {
	root := s.w.base.Root
	if first {
		if root, err = s.w.publish(snap, true); err != nil {
			return err
		}
		s.w.base.Local = ""
	}
	if s.data, err = s.w.volume(root); err != nil {
		return err
	}
	s.still, s.c.inexact = "", !first
	if err := s.serve(s.state); err != nil {
		return err
	}
	s.c.another(s.mount)
	return nil
}

// serve starts to serve s.data, and brings it to a state.
func (s *sequence) serve(state string) (err error) {
	if s.srv == nil {
		if s.srv, err = startServer(s.log); err != nil {
			return err
		}
	}
	c := command{Do: "mount", Volume: s.data, Mount: s.mnt, Node: s.w.node, Key: s.w.key.Reveal(), Through: s.through, Timeout: s.timeout, Omit: s.conf.omit}
	if _, err := s.srv.do(c); err != nil {
		return err
	}
	switch state {
	case "half":
		_, err = s.srv.do(command{Do: "half"})
	case "running":
		_, err = s.srv.do(command{Do: "hydrate", Rate: 256 << 10 << s.r.IntN(6)})
	case "complete":
		_, err = s.srv.do(command{Do: "wait"})
	}
	if err != nil {
		return err
	}
	s.mount, err = newSide("mount", s.mnt)
	return err
}

// step does one operation on both sides and compares.
func (s *sequence) step() error {
	if s.calm > 0 {
		if s.calm--; s.calm == 0 {
			s.w.faults.LiftAll()
			s.add("-- faults are lifted")
		}
	}
	return s.perform(s.g.draw())
}

// perform does o on both sides and compares.
func (s *sequence) perform(o *op) error {
	since := time.Now()
	line := len(s.lines)
	s.add("%v", o)
	s.t.ops++
	zeros := s.punchesZeros(o)
	m := s.mount.do(o)
	for try := 0; s.mayFail(m); try++ {
		if try == 20 {
			return fmt.Errorf("%v: %v, also without a fault", o, m)
		}
		s.t.timeouts++
		s.w.faults.LiftAll()
		s.calm = 0
		if o.H != 0 && s.mount.open[o.H] != nil && o.Kind != "close" && s.plain.open[o.H] == nil {
			return fmt.Errorf("%v: open in spite of %v", o, m)
		}
		m = s.mount.do(o)
	}
	p := s.plain.do(o)
	if m != p && s.timeout > 0 && m.err == 0 && m.n < p.n && (o.Kind == "pread" || o.Kind == "copy") {
		s.w.faults.LiftAll() // a part of it came
		s.calm = 0
		m = s.mount.do(o)
	}
	if len(s.lines) > line {
		s.lines[line] += ": " + p.String()
	}
	if m != p && o.Kind == "lseek" && s.c.handle(o.H, since, true) == nil {
		m = p // a hole in the place of zeros, or the other way round; nothing but those, see compare.content
	}
	if m != p && !s.excused(o, m, p) {
		return fmt.Errorf("%v: %v, plain %v", o, m, p)
	}
	if zeros && p.err == 0 {
		if k := s.pair(o.H); k != nil {
			k.zeros = true
		}
	}
	if o.Kind == "store" || o.Kind == "mapkeep" || o.Kind == "mmap" && o.Flags&unix.MAP_SHARED != 0 {
		s.loosen(o.H)
	}
	if p.err == 0 {
		s.g.note(o)
		s.t.kinds[o.Kind]++
	}
	for try := 0; ; try++ {
		err := s.touched(o, since)
		if err == nil || try == 20 || s.timeout == 0 || !errors.Is(err, syscall.EIO) {
			if err != nil {
				err = fmt.Errorf("after %v (%v): %w", o, p, err)
			}
			return err
		}
		s.w.faults.LiftAll()
		s.calm = 0
	}
}

// excused: the kernel does not know what is immutable or append-only on a FUSE mount, so where an operation
// has two reasons to fail, or to do nothing, it may see the other one first; and access says that such a file can be written.
func (s *sequence) excused(o *op, m, p result) bool {
	if p.err != unix.EPERM {
		return false
	}
	switch m.err {
	case 0:
		return o.Kind == "access" || o.Kind == "copy" && m.n == 0 && s.nothingToCopy(o) || o.Kind == "removexattr" && o.To == "system.posix_acl_default"
	case unix.EACCES, unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EISDIR, unix.EINVAL, unix.EXDEV, unix.ELOOP, unix.ENODATA, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// nothingToCopy reports whether a copy has no bytes to copy: the kernel does not ask a FUSE file system then.
func (s *sequence) nothingToCopy(o *op) bool {
	var st unix.Stat_t
	h := s.plain.open[o.H]
	return o.N == 0 || h != nil && unix.Fstat(h.fd, &st) == nil && o.Off >= st.Size
}

// punchesZeros reports whether o punches what is zeros already: BTRFS moves the time where they are data and not where they are a hole, and
// one may stand for the other.
func (s *sequence) punchesZeros(o *op) bool {
	h := s.plain.open[o.H]
	if o.Kind != "fallocate" || o.Mode&unix.FALLOC_FL_PUNCH_HOLE == 0 || h == nil {
		return false
	}
	fd, err := unix.Open(proc(h.fd), unix.O_RDONLY|openAlways, 0) // it may be open only for writing
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	b := make([]byte, o.N)
	n, err := unix.Pread(fd, b, o.Off)
	return err == nil && len(bytes.Trim(b[:n], "\x00")) == 0
}

// mayFail reports whether an operation may end like this for a fetch that timed out.
func (s *sequence) mayFail(m result) bool {
	return s.timeout > 0 && (m.err == unix.EIO || m.err == unix.EFAULT)
}

// pair is what is known of an open file; nil: nothing.
func (s *sequence) pair(n int) *pair {
	var st unix.Stat_t
	if h := s.plain.open[n]; h != nil && unix.Fstat(h.fd, &st) == nil {
		return s.c.pairs[st.Ino]
	}
	return nil
}

func (s *sequence) loosen(n int) {
	if k := s.pair(n); k != nil {
		k.loose, k.last = true, false
	}
}

// touched compares what an operation may have changed.
func (s *sequence) touched(o *op, since time.Time) error {
	deep := s.r.IntN(100)
	for _, p := range []string{o.Path, o.To} {
		if p == "" || p == o.To && (strings.HasSuffix(o.Kind, "xattr") || o.Kind == "symlink") {
			continue
		}
		if err := s.c.path(p, since, deep < 6); err != nil {
			return err
		}
		switch o.Kind {
		case "open", "tmpfile", "mkdir", "mknod", "symlink", "link", "linkat", "unlink", "rmdir", "remove", "rename":
			if err := s.c.path(path.Dir(p), since, false); err != nil {
				return err
			}
		}
	}
	for _, n := range []int{o.H, o.H2} {
		if n == 0 {
			continue
		}
		if err := s.c.handle(n, since, deep < 6); err != nil {
			return err
		}
	}
	return nil
}

// event is something that happens now and then.
func (s *sequence) event() error {
	switch n := s.r.IntN(20); {
	case n < 11:
		s.fault()
		return nil
	case n < 14:
		s.w.faults.LiftAll() // with one that stays it would wait for ever
		s.calm = 0
		_, err := s.srv.do(command{Do: []string{"pause", "hydrate", "wait"}[n-11], Rate: 512 << 10 << s.r.IntN(6)})
		s.add("-- %s", []string{"pause", "hydrate", "wait until it is complete"}[n-11])
		return err
	case n < 16:
		s.add("-- restart")
		s.t.restarts++
		return s.restart(false)
	case n < 18:
		s.add("-- kill")
		s.t.kills++
		return s.restart(true)
	default:
		s.add("-- snapshot")
		return s.second(s.r.IntN(2) == 0)
	}
}

// fault puts a fault in force for some steps.
func (s *sequence) fault() {
	s.t.faults++
	times := 1 + s.r.IntN(2)
	r := faulty.Rule{Times: times}
	hangs := false
	switch s.r.IntN(6) {
	case 0:
		r.Fault, r.Times = faulty.Delay(3*time.Millisecond), 0
	case 1:
		r.Fault = faulty.Fail(store.ErrUnavailable)
	case 2:
		r.Fault = faulty.FlipBit(s.r.IntN(10_000))
	case 3:
		r.Fault = faulty.Truncate(s.r.IntN(2000))
	case 4:
		r.Fault, r.Times, hangs = faulty.Hang(), 0, true
	case 5:
		r.Fault = faulty.Cut(s.r.IntN(500), store.ErrUnavailable)
		if s.timeout > 0 {
			r.Fault, r.Times = faulty.Fail(store.ErrUnavailable), 0
		}
	}
	a := s.w.faults.Inject(r)
	s.calm = 60
	if hangs && s.timeout == 0 {
		time.AfterFunc(50*time.Millisecond, a.Lift)
	}
	s.add("-- fault: %+v", r.Fault)
}

// closeFiles closes all open files of both sides.
func (s *sequence) closeFiles() {
	s.plain.closeFiles()
	s.mount.close()
	s.g.closedAll()
	s.c.closed()
}

// restart ends the serving process, or kills it, and starts another.
func (s *sequence) restart(kill bool) error {
	if !kill {
		s.closeFiles()
		if _, err := s.srv.do(command{Do: "unmount"}); err != nil {
			return err
		}
	} else {
		if err := s.srv.kill(); err != nil {
			return err
		}
		return s.again()
	}
	return s.serveAgain()
}

// again has another process serve, after the one before was killed.
func (s *sequence) again() error {
	s.closeFiles()
	s.srv = nil
	if err := unix.Unmount(s.mnt, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount after a kill: %w", err)
	}
	return s.serveAgain()
}

func (s *sequence) serveAgain() error {
	if err := s.serve([]string{"remote", s.state}[s.r.IntN(2)]); err != nil {
		return err
	}
	s.c.mount = s.mount
	return nil
}

// snapshot takes one, publishes it, and makes a volume of it.
func (s *sequence) snapshot(whole bool) (volume string, err error) {
	s.w.faults.LiftAll()
	snap := s.w.path("snapshot")
	if _, err := s.srv.do(command{Do: "snapshot", Volume: s.data, To: snap}); err != nil {
		return "", err
	}
	root, err := s.w.publish(snap, whole)
	if err != nil {
		return "", err
	}
	s.t.snapshots++
	if s.still != "" {
		if err := s.w.drop(s.still); err != nil {
			return "", err
		}
	}
	s.still = snap
	return s.w.volume(root)
}

// second reads a snapshot back on a second mount, as another machine would.
func (s *sequence) second(whole bool) (err error) {
	volume, err := s.snapshot(whole)
	if err != nil {
		return err
	}
	if s.other == nil {
		if s.other, err = startServer(s.log); err != nil {
			return err
		}
	}
	mnt := s.mnt + "-second"
	if err := os.MkdirAll(mnt, 0o700); err != nil {
		return err
	}
	_, err = s.other.do(command{Do: "mount", Volume: volume, Mount: mnt, Node: s.w.node, Key: s.w.key.Reveal(), Through: s.r.IntN(2) == 0, Fetch: s.r.IntN(2) == 0})
	if err != nil {
		return err
	}
	side, err := newSide("second", mnt)
	if err != nil {
		return err
	}
	// What is compared must not count for the mount.
	c := newCompare(s.plain, side)
	c.full, c.inexact = s.c.full, true
	for ino, k := range s.c.pairs {
		c.pairs[ino] = &pair{plain: k.plain, mount: k.mount, loose: k.loose}
	}
	err = c.everything()
	s.t.compared += c.count
	side.close()
	if err != nil {
		return fmt.Errorf("on a second mount of a snapshot (made anew: %v): %w", whole, err)
	}
	if _, err := s.other.do(command{Do: "unmount"}); err != nil {
		return err
	}
	return s.w.drop(volume)
}

// failover ends a stage.
func (s *sequence) failover(final bool) (snap string, err error) {
	s.w.faults.LiftAll()
	s.calm = 0
	live := func() error {
		s.add("-- everything is compared")
		err := s.c.everything()
		for try := 0; try < 20 && s.timeout > 0 && errors.Is(err, syscall.EIO); try++ {
			err = s.c.everything()
		}
		s.t.compared += s.c.count
		s.c.count = 0
		return err
	}
	first := s.r.IntN(2) == 0
	if first {
		if err := live(); err != nil {
			return "", err
		}
	}
	if s.r.IntN(2) == 0 || final {
		s.add("-- a second mount is compared")
		if err := s.second(s.r.IntN(2) == 0); err != nil {
			return "", err
		}
	}
	if !first {
		if err := live(); err != nil {
			return "", err
		}
	}
	if final && s.r.IntN(2) == 0 {
		if _, err := s.srv.do(command{Do: "wait"}); err != nil {
			return "", err
		}
		s.add("-- complete")
		if err := live(); err != nil {
			return "", err
		}
	}
	s.closeFiles()
	snap = s.w.path("last")
	if _, err := s.srv.do(command{Do: "snapshot", Volume: s.data, To: snap}); err != nil {
		return "", err
	}
	if _, err := s.w.publish(snap, s.still == ""); err != nil {
		return "", err
	}
	s.w.base.Local = ""
	if _, err := s.srv.do(command{Do: "unmount"}); err != nil {
		return "", err
	}
	old := []string{s.data, snap}
	if s.still != "" {
		old = append(old, s.still)
	}
	s.still = ""
	return snap, s.w.drop(old...)
}
