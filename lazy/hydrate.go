package lazy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fractal-lazy/fusefs"
	"fractal-lazy/mark"

	"golang.org/x/sys/unix"
)

// Prefetch says what Run brings without being asked: PrefetchAll,
// PrefetchMetadata, PrefetchNone, or a number as decimal text: so many bytes of the snapshot's content, at most, are
// brought to be here, what is here already included; metadata comes beside it.
type Prefetch string

// The named values of Prefetch.
const (
	PrefetchAll      Prefetch = "all"
	PrefetchMetadata Prefetch = "metadata"
	PrefetchNone     Prefetch = "none"
)

// budget returns how many bytes of content p allows.
func (p Prefetch) budget() (uint64, error) {
	switch p {
	case PrefetchAll, "":
		return ^uint64(0), nil
	case PrefetchMetadata, PrefetchNone:
		return 0, nil
	}
	n, err := strconv.ParseUint(string(p), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("prefetch %q is neither all, metadata, none nor a number of bytes", string(p))
	}
	return n, nil
}

const (
	// hydrating bounds what the hydrator has under way: each holds at most a
	// block, sealed and opened. How many of them fly is the fetcher's to say.
	hydrating = 40
	// firstDirectories are filled beside readers, who will want to go through
	// them: an application that starts spends a good part of its waiting on
	// the few kilobytes of one directory after the other.
	firstDirectories = 256
	// maxLogged bounds the lines of one pass over a volume of which many files
	// cannot be brought for the same reason.
	maxLogged = 20
	// Between two passes over what could not be fetched.
	minPause = 2 * time.Second
	maxPause = time.Minute
)

// hydrator is one run of Tree.Run.
type hydrator struct {
	t     *Tree
	slots chan struct{}
	wg    sync.WaitGroup

	// Of this pass:
	left    atomic.Uint64 // could not be brought
	logged  atomic.Uint64 // lines in the log
	budget  budget        // for the goroutine of pass
	giveUp  func()        // called where nothing comes; nil: the pass goes on
	lastErr atomic.Pointer[error]
}

// Run brings what Options.Prefetch asks for, in the background: what the application
// is known to need first, then directories, then small files, then the rest, each in the order of inode numbers,
// which is about the order of their blocks. It returns nil when the volume is complete, else
// the error of ctx or of a disk that fails.
func (t *Tree) Run(ctx context.Context) error {
	if t.complete.Load() {
		return nil
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	beside.Go(func() { t.foresee(ctx, t.wanted()) })

	pause := minPause
	for {
		want := t.wanted()
		h := &hydrator{t: t, slots: make(chan struct{}, hydrating)}
		complete, err := h.pass(withPriority(ctx, background), want)
		if complete && err == nil {
			if err = t.release(); err == nil {
				t.opt.Log.Info().Str("volume", t.opt.Volume).Str("op", "hydrate").Msg("volume is complete, no network is needed any more")
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !isTransient(err):
			return fmt.Errorf("hydrate volume %s: %w", t.opt.Volume, err)
		case err != nil:
			t.opt.Log.Warn().Err(err).Str("volume", t.opt.Volume).Str("op", "hydrate").Msg("background fetching pauses")
		}
		var again <-chan time.Time
		if h.left.Load() > 0 || err != nil || want == PrefetchAll { // what could not be finished is left as well
			again = time.After(pause)
			pause = min(2*pause, maxPause)
		} else {
			pause = minPause
		}
		select {
		case <-t.wake:
			pause = minPause
		case <-again:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *Tree) wanted() Prefetch {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.want
}

// pass goes once through everything and reports whether nothing is remote.
func (h *hydrator) pass(ctx context.Context, want Prefetch) (complete bool, err error) {
	defer h.wg.Wait()
	if h.budget.all, err = want.budget(); err != nil {
		return false, err
	}
	if _, err := h.census(ctx); err != nil {
		return false, err
	}
	if want != PrefetchNone {
		if err := h.directories(ctx); err != nil {
			return false, err
		}
	}
	if h.budget.all > 0 {
		h.budget.spent = h.t.spent()
		for _, small := range []bool{true, false} {
			if err := h.files(ctx, small); err != nil {
				return false, err
			}
		}
		h.wg.Wait()
		if err := h.t.finish.wait(ctx); err != nil {
			return false, err
		}
	}
	if h.left.Load() > 0 || !h.t.filled.Load() {
		return false, nil
	}
	n, err := h.census(ctx)
	if err != nil || n > 0 {
		return false, err
	}
	// The last marks may just have been written, by a finisher who still holds their files.
	return true, h.t.finish.wait(ctx)
}

// census counts what is marked, sets the counters to it, and returns the
// number of marks that stand for something remote; who knows for what, where
// one is damaged.
func (h *hydrator) census(ctx context.Context) (marks uint64, err error) {
	var n tally
	t := h.t
	err = t.bt.EachXattr(ctx, mark.DirName, 0, func(ino uint64, value []byte) error {
		marks++
		if m, err := mark.DecodeDir(value); err == nil {
			n.files += m.Ref.Files
			n.bytes += m.Ref.Bytes
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = t.bt.EachXattr(ctx, mark.FileName, 0, func(ino uint64, value []byte) error {
		m, err := mark.DecodeFile(value)
		if err == nil && m.State != mark.Pending {
			return nil
		}
		marks++
		n.files++
		if err != nil {
			return nil
		}
		n.bytes += less(m.Content.Data, t.stored(ino))
		return nil
	})
	if err != nil {
		return 0, err
	}
	t.count.set(n)
	return marks, nil
}

// stored is how many bytes of an inode are on disk, roughly: compressed ones
// count as what they take.
func (t *Tree) stored(ino uint64) uint64 {
	fd, err := t.bt.Open(ino, unix.O_PATH)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return uint64(st.Blocks) * 512
}

// directories fills every directory. New marks get higher inode numbers than
// all before, so that going on where the last search ended finds most of them.
// Where several directories are filled at once, one may get its mark behind the search, as one may that a reader filled half-way: so it
// ends with a look from the start, and goes on from what that finds.
func (h *hydrator) directories(ctx context.Context) error {
	t := h.t
	if t.filled.Load() {
		return nil
	}
	soon := firstDirectories
	behind := uint64(0) // what the last look from the start found
	for from := uint64(0); ; {
		found := false
		err := t.bt.EachXattr(ctx, mark.DirName, from, func(ino uint64, _ []byte) error {
			found = true
			from = ino + 1
			p := background
			if soon > 0 {
				soon--
				p = ahead
			}
			return h.do(ctx, func() error { return t.fillAt(ctx, ino, p) })
		})
		h.wg.Wait()
		if err != nil {
			return err
		}
		if found {
			continue
		}
		if h.left.Load() > 0 {
			return nil
		}
		first, err := t.firstUnfilled(ctx)
		if err != nil {
			return err
		}
		if first == 0 {
			break
		}
		if first <= behind { // it was tried, and nobody said why it is not filled
			h.left.Add(1)
			return nil
		}
		from, behind = first, first
	}
	if err := t.dropHidden(ctx); err != nil {
		return err
	}
	t.filled.Store(true)
	return nil
}

// firstUnfilled returns the marked directory with the lowest inode number; 0: there is none.
func (t *Tree) firstUnfilled(ctx context.Context) (first uint64, err error) {
	found := errors.New("found")
	err = t.bt.EachXattr(ctx, mark.DirName, 0, func(ino uint64, _ []byte) error {
		first = ino
		return found
	})
	if errors.Is(err, found) {
		err = nil
	}
	return first, err
}

// files brings pending files: those with their windows in the mark, or the
// larger ones, until the budget is spent.
func (h *hydrator) files(ctx context.Context, small bool) error {
	t := h.t
	err := t.bt.EachXattr(ctx, mark.FileName, 0, func(ino uint64, value []byte) error {
		m, err := mark.DecodeFile(value)
		if err != nil {
			h.judge(fmt.Errorf("inode %d: %w", ino, err))
			return nil
		}
		if m.State != mark.Pending || small != (m.Content.Depth == 0) {
			return nil
		}
		if small && !h.affords(less(m.Content.Data, t.stored(ino))) {
			return errSpent
		}
		return h.file(ctx, ino)
	})
	if errors.Is(err, errSpent) {
		return nil
	}
	return err
}

// file brings all windows of one file, and has it finished. What is wrong with
// one file is no reason to leave the others: an error is the end of ctx.
func (h *hydrator) file(ctx context.Context, ino uint64) error {
	if err := h.t.finish.room(ctx); err != nil {
		return err
	}
	f, err := h.t.acquire(ino)
	if f == nil || err != nil {
		h.judge(err)
		return ctx.Err()
	}
	if f.content.Depth == 0 {
		return h.do(ctx, func() error {
			defer f.Close()
			err := f.bring(ctx, 0, f.content.Size)
			if err == nil {
				h.t.finish.add(f)
			}
			return err
		}, f.Close)
	}
	var windows sync.WaitGroup
	for w, werr := range h.t.reader.Windows(ctx, f.content, 0, ^uint64(0)) {
		if werr != nil {
			h.judge(h.t.wrap(ino, werr))
			break
		}
		if f.here.has(w.Index) {
			continue
		}
		if !h.affords(f.cost(w, h.budget.all)) {
			err = errSpent
			break
		}
		windows.Add(1)
		err = h.do(ctx, func() error {
			defer windows.Done()
			return f.bringWindow(ctx, w)
		}, windows.Done)
		if err != nil {
			break
		}
	}
	h.wg.Go(func() {
		defer f.Close()
		windows.Wait()
		h.t.finish.add(f)
	})
	return err
}

// do runs work in one of the hydrator's places, waiting for a free one. Where
// ctx ends before, undo is called in its stead.
func (h *hydrator) do(ctx context.Context, work func() error, undo ...func()) error {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		for _, u := range undo {
			u()
		}
		return ctx.Err()
	}
	h.wg.Go(func() {
		defer func() { <-h.slots }()
		h.judge(work())
	})
	return nil
}

// judge counts what could not be brought, and logs what is worth a line: the
// fetcher has told of the network already.
func (h *hydrator) judge(err error) {
	switch {
	case err == nil, errors.Is(err, unix.ESTALE): // removed meanwhile
		return
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, fusefs.ErrRemote):
		h.lose(err)
		return
	}
	h.lose(err)
	if h.logged.Add(1) <= maxLogged {
		h.t.opt.Log.Error().Err(err).Str("volume", h.t.opt.Volume).Str("op", "hydrate").Msg("cannot be brought")
	}
}
