package lazy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/mark"

	"golang.org/x/sys/unix"
)

const (
	// finishDelay gathers files into one batch, which costs one sync.
	finishDelay = 100 * time.Millisecond
	finishBatch = 256
	// finishQueue is how many files may wait: each holds a descriptor, and a
	// disk that syncs slowly must not use up all there are.
	finishQueue = 1024
	// fewFiles are synced one by one; more by one sync of the file system.
	fewFiles = 3
	// doneMargin is how far in the future the mark of a clean file puts the
	// moment until which its change time is the marking's own. The file stays
	// locked until inodes are stamped with a later time, so nothing else can
	// fall into that time.
	doneMargin = 15 * time.Millisecond
)

// finisher turns the marks of files that miss nothing from pending to clean,
// in batches (R5).
type finisher struct {
	t    *Tree
	done chan struct{}
	wake chan struct{}

	mu    sync.Mutex
	queue []*file // each with a reference
	known map[*file]bool
	busy  bool
	idle  *sync.Cond // the queue is shorter, or busy has changed
}

func newFinisher(t *Tree) *finisher {
	f := &finisher{t: t, done: make(chan struct{}), wake: make(chan struct{}, 1), known: map[*file]bool{}}
	f.idle = sync.NewCond(&f.mu)
	go f.run(t.ctx)
	return f
}

// close waits for the end of run, after the Tree's context has ended.
func (n *finisher) close() {
	<-n.done
	n.mu.Lock()
	queue := n.queue
	n.queue, n.known = nil, map[*file]bool{}
	n.idle.Broadcast()
	n.mu.Unlock()
	for _, f := range queue {
		f.Close()
	}
}

// consider adds a small file whose last window may just have arrived. Large
// ones are added when the hydrator has been through them, and so are those that
// come while the queue is full: a reader does not wait for it.
func (n *finisher) consider(f *file) {
	if f.content.Depth > 0 || n.full() {
		return
	}
	for i := range f.content.Windows {
		if !f.here.has(f.content.Windows[i].Index) {
			return
		}
	}
	n.add(f)
}

// add has f finished, if it misses nothing.
func (n *finisher) add(f *file) {
	n.t.mu.Lock()
	open := n.t.ctx.Err() == nil && n.t.files[f.ino] == f
	if open {
		f.refs++
	}
	n.t.mu.Unlock()
	if !open {
		return
	}
	n.mu.Lock()
	again := n.known[f]
	if !again {
		n.known[f] = true
		n.queue = append(n.queue, f)
	}
	n.mu.Unlock()
	if again {
		f.Close()
		return
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *finisher) full() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.queue) >= finishQueue
}

// room returns when there is room in the queue.
func (n *finisher) room(ctx context.Context) error {
	if !n.full() {
		return nil
	}
	return n.until(ctx, func() bool { return len(n.queue) < finishQueue })
}

// wait returns when everything that was added is through.
func (n *finisher) wait(ctx context.Context) error {
	return n.until(ctx, func() bool { return !n.busy && len(n.queue) == 0 })
}

// until waits for is, which is asked with mu held, or for the end of ctx or of the Tree.
func (n *finisher) until(ctx context.Context, is func() bool) error {
	defer context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.idle.Broadcast()
	})()
	n.mu.Lock()
	defer n.mu.Unlock()
	for !is() && ctx.Err() == nil && n.t.ctx.Err() == nil {
		n.idle.Wait()
	}
	return ctx.Err()
}

func (n *finisher) run(ctx context.Context) {
	defer close(n.done)
	for {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(finishDelay):
		case <-ctx.Done():
			return
		}
		for batch := n.take(); len(batch) > 0; batch = n.take() {
			if err := n.finish(ctx, batch); err != nil && ctx.Err() == nil {
				n.t.opt.Log.Error().Err(err).Str("volume", n.t.opt.Volume).Str("op", "finish").Msg("files stay pending for now")
			}
			for _, f := range batch {
				f.Close()
			}
		}
	}
}

func (n *finisher) take() []*file {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := min(len(n.queue), finishBatch)
	batch := n.queue[:k:k]
	n.queue = n.queue[k:]
	for _, f := range batch {
		delete(n.known, f)
	}
	n.busy = k > 0
	n.idle.Broadcast()
	return batch
}

// finish does one batch.
//
// Order: 1 nothing of the file is missing, and from then on never will be; 2
// attributes that the mark kept; 3 they and its data are durable: a rename
// logs the mark of an inode without its times; 4 the mark says
// clean, or goes where the application changed the file. A crash before 4
// leaves a pending file without missing ranges, which is finished again.
//
// What fails for one file keeps no other from being finished; the first error
// is returned. A file that stays pending is looked at again with the next
// window that is fetched of it, or by the hydrator.
func (n *finisher) finish(ctx context.Context, batch []*file) error {
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	var ready []*file
	for _, f := range batch {
		ok, err := f.hasAll(ctx, f.here.has)
		if err == nil && ok {
			ok, err = f.restore()
		}
		if err != nil {
			note(err)
		} else if ok {
			ready = append(ready, f)
		}
	}
	ready, err := n.sync(ready)
	if err != nil {
		note(err)
	}

	var locked []*file
	var until time.Time
	defer func() {
		waitStamped(until)
		for _, f := range locked {
			f.local.Store(true)
			f.mu.Unlock()
		}
	}()
	for _, f := range ready {
		// A disk that failed to write leaves holes again, and may have told
		// another of it than us: only what is there after the sync counts.
		ok, err := f.hasAll(ctx, func(uint64) bool { return false })
		if err != nil {
			note(err)
			continue
		}
		if !ok {
			f.here.clear()
			note(fmt.Errorf("inode %d of volume %s: fetched data did not reach the disk", f.ino, n.t.opt.Volume))
			continue
		}
		f.mu.Lock()
		if f.local.Load() || f.fd < 0 {
			f.mu.Unlock()
			continue
		}
		done, err := f.settleLocked()
		if err != nil {
			f.mu.Unlock()
			note(err)
			continue
		}
		locked = append(locked, f)
		if done.After(until) {
			until = done
		}
		n.t.count.finished()
	}
	return first
}

// sync makes the content of files durable, without a log while a filling is
// open (R6), and returns those of which it is.
func (n *finisher) sync(files []*file) (durable []*file, err error) {
	if omit(r5) {
		return files, nil
	}
	if len(files) > fewFiles {
		if err := unix.Syncfs(n.t.bt.RootFD()); err != nil {
			return nil, fmt.Errorf("sync file system: %w", err)
		}
		return files, nil
	}
	for _, f := range files {
		f.mu.RLock()
		failed := error(nil)
		if f.fd >= 0 {
			failed = n.t.commit.sync(f.fd, func() error { return n.t.bt.Fsync(f.fd, false) })
		}
		f.mu.RUnlock()
		if failed != nil {
			err = fmt.Errorf("sync inode %d: %w", f.ino, failed)
			continue
		}
		durable = append(durable, f)
	}
	return durable, err
}

// hasAll reports whether nothing of f is missing. Windows that are known not
// to be are not looked at.
func (f *file) hasAll(ctx context.Context, known func(window uint64) bool) (bool, error) {
	for w, err := range f.t.reader.Windows(withPriority(ctx, background), f.content, 0, ^uint64(0)) {
		if err != nil {
			return false, f.t.wrap(f.ino, err)
		}
		if known(w.Index) {
			continue
		}
		missing, err := f.missing(w)
		if err != nil || len(missing) > 0 {
			return false, err
		}
		f.here.add(w.Index)
	}
	return true, nil
}

// restore gives the inode what its mark keeps for it, of a file that misses
// nothing: nothing but an application will change it from now on. It reports
// whether the file may be finished.
func (f *file) restore() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.local.Load() || f.fd < 0 {
		return false, nil
	}
	if !f.m.Attributes() {
		return true, nil
	}
	if f.m.Kept {
		if pending, err := f.namesPending(); pending || err != nil {
			return false, err
		}
	}
	return true, f.t.lifted(f.fd, f.restoreLocked)
}

// settleLocked writes the last word of a file's mark and returns the time
// until which the file has to stay locked.
func (f *file) settleLocked() (time.Time, error) {
	if !f.m.Kept {
		if err := f.t.lifted(f.fd, func() error { return mark.Remove(mark.FD(f.fd), mark.FileName) }); err != nil || !f.m.Held {
			return time.Time{}, err
		}
		return time.Time{}, f.t.protect(f.fd, f.m.Flags)
	}
	m := &mark.File{State: mark.Clean, Content: f.m.Content, Ctime: f.m.Ctime}
	for {
		done := time.Now().Add(doneMargin)
		m.Done = toWire(done)
		err := f.t.lifted(f.fd, func() error { return mark.Set(mark.FD(f.fd), m) })
		if err != nil {
			return done, err
		}
		if err := f.t.protect(f.fd, f.m.Flags); err != nil {
			return done, err
		}
		st, err := backing.Statx(f.fd)
		if err != nil || m.Unchanged(wireTime(st.Ctime)) {
			return done, err
		}
		// The machine was slow between the two, or its clock was set: once more.
	}
}
