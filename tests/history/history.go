package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"
)

// config of a run.
type config struct {
	ops     int
	seed    uint64
	length  int // operations of one history
	crashes float64
	dir     string
	trace   io.Writer // nil: no line for each operation
}

// totals of a run.
type totals struct {
	ops, histories, crashes, reads, collections, refused, snapshots int
	changes                                                         int            // that diffs told
	kinds                                                           map[string]int // of operations
	seen                                                            map[string]int // what operations did to their end
}

// due is what a long run has to have seen.
var due = []string{"exports", "imports", "snapshots brought back by an import", "imports to a new place", "diffs", "damage found", "verifications", "snapshots looked into"}

// unseen are those of due that a run has not.
func (t *totals) unseen() (what []string) {
	for _, d := range due {
		if t.seen[d] == 0 {
			what = append(what, d)
		}
	}
	return what
}

func list(m map[string]int) string {
	var all []string
	for k, n := range m {
		all = append(all, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (t *totals) String() string {
	return fmt.Sprintf("%d operations in %d histories, %d of them refused; %d crashes, %d snapshots, %d states read back, %d collections, %d changes told by diffs\ntried: %s\ndone: %s",
		t.ops, t.histories, t.refused, t.crashes, t.snapshots, t.reads, t.collections, t.changes, list(t.kinds), list(t.seen))
}

// run does histories until there were enough operations.
func (c config) run(ctx context.Context) (t totals, err error) {
	t.kinds, t.seen = map[string]int{}, map[string]int{}
	for n := uint64(0); t.ops < c.ops && ctx.Err() == nil; n++ {
		seed := c.seed + n
		if err := c.history(ctx, seed, min(c.length, c.ops-t.ops), &t); err != nil {
			return t, fmt.Errorf("history of seed %d: %w", seed, err)
		}
		t.histories++
	}
	return t, ctx.Err()
}

// history is one world with its model.
type history struct {
	r        *rand.Rand
	t        *totals
	c        config
	dir      string
	clock    string
	ahead    int64
	near     *place // that all machines use
	far      *place // the second place
	forest   *forest
	machines []*machine
	reader   *machine // has keys, and never mounts a volume itself
	vols     []*vol
	files    []*file
	made     int
	now      string   // the operation under way
	log      []string // of operations

	brought map[string]string // roots that were replicated, and are not removed at the second place
	editing *instance         // whose files were changed since the last look
	extra   []*machine
}

func (c config) history(ctx context.Context, seed uint64, ops int, t *totals) (err error) {
	h := &history{r: rand.New(rand.NewPCG(seed, 1)), t: t, c: c, ahead: 0, brought: map[string]string{}}
	defer func() { err = errors.Join(err, h.close(err != nil)) }()
	if err := h.begin(); err != nil {
		return err
	}
	for i := 0; i < ops && ctx.Err() == nil; i++ {
		if err := h.step(); err != nil {
			return h.explain(fmt.Errorf("operation %d, %s: %w", i+1, h.now, err))
		}
		t.ops++
	}
	h.note("end")
	if err := h.finish(); err != nil {
		return h.explain(fmt.Errorf("at the end: %w", err))
	}
	return nil
}

// explain adds what was done before.
func (h *history) explain(err error) error {
	return fmt.Errorf("%w\nbefore that:\n  %s", err, strings.Join(h.log[max(0, len(h.log)-60):], "\n  "))
}

func (h *history) begin() (err error) {
	if h.dir, err = os.MkdirTemp(h.c.dir, "history-"); err != nil {
		return err
	}
	h.clock = filepath.Join(h.dir, "clock")
	if err := h.pass(0); err != nil {
		return err
	}
	if h.near, err = newPlace(filepath.Join(h.dir, "near"), nil); err != nil {
		return err
	}
	if h.far, err = newPlace(filepath.Join(h.dir, "far"), nil); err != nil {
		return err
	}
	if h.forest, err = newForest(filepath.Join(h.dir, "model")); err != nil {
		return err
	}
	for _, name := range []string{"a", "b"} {
		m, err := newMachine(h.dir, name, h.clock, h.near, h.far)
		if m != nil {
			h.machines = append(h.machines, m)
		}
		if err != nil {
			return err
		}
	}
	h.reader, err = newMachine(h.dir, "reader", h.clock, h.near, h.far)
	return err
}

// close takes everything away. After a failure the logs stay where they are.
func (h *history) close(failed bool) error {
	var errs []error
	for _, m := range slices.Concat(h.machines, h.extra, []*machine{h.reader}) {
		if m == nil {
			continue
		}
		if failed {
			if b, err := os.ReadFile(m.log()); err == nil {
				name := filepath.Join(h.c.dir, "history-failed-"+m.name+".log")
				errs = append(errs, os.WriteFile(name, b, 0o644))
			}
		}
		errs = append(errs, m.close())
	}
	if h.forest != nil {
		errs = append(errs, h.forest.close())
	}
	for _, p := range []*place{h.near, h.far} {
		if p != nil {
			errs = append(errs, p.close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(h.dir)
}

// pass lets time pass.
func (h *history) pass(d time.Duration) error {
	h.ahead += int64(d / time.Second)
	tmp := h.clock + ".new"
	if err := os.WriteFile(tmp, fmt.Append(nil, h.ahead), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, h.clock)
}

func (h *history) time() time.Time { return time.Now().Add(time.Duration(h.ahead) * time.Second) }

// note says what is done now.
func (h *history) note(format string, args ...any) {
	h.now = fmt.Sprintf(format, args...)
	h.log = append(h.log, h.now)
	if h.c.trace != nil {
		fmt.Fprintf(h.c.trace, "%s %s\n", time.Now().Format("15:04:05.000"), h.now)
	}
}

// result adds to the note how it went.
func (h *history) result(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.log[len(h.log)-1] += ": " + text
	if h.c.trace != nil {
		fmt.Fprintf(h.c.trace, "%s   %s\n", time.Now().Format("15:04:05.000"), text)
	}
}

// saw counts what an operation did to its end.
func (h *history) saw(what string) { h.t.seen[what]++ }

func (h *history) chance(p float64) bool { return h.r.Float64() < p }

func pick[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

// step is one operation, and a look at everything after it.
func (h *history) step() error {
	gap := []time.Duration{time.Second, time.Second, 3 * time.Second, 10 * time.Second, 50 * time.Second, 3 * time.Minute, 20 * time.Minute, 3 * time.Hour}
	if err := h.pass(pick(h.r, gap)); err != nil {
		return err
	}
	for _, m := range h.machines { // nobody is away for long
		if m.down && h.chance(0.3) {
			h.note("start %s", m.name)
			if err := m.start(); err != nil {
				return err
			}
		}
		if m.cable.pulled.Load() && h.chance(0.3) {
			h.note("plug %s", m.name)
			m.cable.pulled.Store(false)
		}
	}
	for try := 0; ; try++ {
		o := h.choose()
		did, err := o.do(h)
		if err != nil {
			return err
		}
		if did {
			h.t.kinds[o.name]++
			err := h.look()
			h.editing = nil
			return err
		}
		if try > 1000 {
			return errors.New("nothing can be done any more")
		}
	}
}

// do makes one call to m; by chance its driver dies in the middle. An error is returned where the driver lives.
func (h *history) do(m *machine, call func(ctx context.Context, c *control.Client) error) (crashed bool, err error) {
	if !h.chance(h.c.crashes) {
		return false, m.call(call)
	}
	when := time.Duration(h.r.ExpFloat64() * float64(pick(h.r, []time.Duration{2, 10, 40})) * float64(time.Millisecond))
	done := make(chan error, 1)
	go func() { done <- m.call(call) }()
	time.Sleep(when)
	kerr := m.kill()
	err = <-done
	h.crashed(m)
	if err == nil {
		// It answered before; what it said is true.
		h.result("done, then machine %s crashes", m.name)
		return false, kerr
	}
	h.result("machine %s crashes", m.name)
	return true, kerr
}

func (h *history) crashed(m *machine) {
	h.t.crashes++
	m.crashes++
	for _, v := range h.vols {
		if c := v.copies[m]; c != nil {
			c.mount = ""
		}
	}
}

// refused returns nil for an error that the machine may give here.
func (h *history) refused(m *machine, err error, may ...error) error {
	if m.cable.pulled.Load() {
		may = append(may, volume.ErrNotReady, volume.ErrBusy)
	}
	for _, e := range may {
		if errors.Is(err, e) {
			h.t.refused++
			h.result("refused: %v", err)
			return nil
		}
	}
	if m.cable.pulled.Load() && !errors.Is(err, errWrong) {
		h.t.refused++
		h.result("without the network: %v", err)
		return nil
	}
	return err
}

// describe reads all of a folder.
func (h *history) describe(path string) ([]kit.Entry, error) {
	h.t.reads++
	return kit.Describe(path)
}
