package replica

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"fractal-lazy/mutant"
	"fractal-lazy/pace"
	"fractal-lazy/snapshot"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"
)

// Bounds of an upload. maxWaiting is the bytes in memory that are not stored yet.
const (
	batchBytes  = 16 << 20
	batchBlocks = 4096
	inFlight    = 2
	maxWaiting  = (inFlight + 1) * batchBytes
	idleFlush   = 2 * time.Second // a batch that nothing is added to is sent after this
	askInVain   = 4               // batches
	// Smaller blocks than askFrom, in bytes, are sent without asking for them, up to sendUnasked of a batch: an answer takes a request each, which with its
	// headers, its turn on a connection and its look at the disk is more than the block.
	askFrom     = 16 << 10
	sendUnasked = 1 << 20
)

// uploader is the sink of a build: it gathers blocks into batches and sends these while the build goes on. Put blocks while the
// store is slower than the build.
//
// Of each batch the store is first asked which blocks it has: and so a Job that goes on after a
// kill, a renamed file, or a copy sends nothing twice but some small blocks, whoever stored it, without a local record that could be wrong. A first
// snapshot stops asking after some batches of which the store had nothing.
//
// That the store has a block says nothing of how long: only the pin at the end proves that all is there.
type uploader struct {
	store  store.Store
	ctx    context.Context
	cancel context.CancelCauseFunc
	line   *pace.User     // nil: no limit
	log    func(sent int) // told of the bytes of each batch sent; may be nil

	room  *semaphore.Weighted // bytes not yet stored
	slots chan struct{}       // batches under way
	wg    sync.WaitGroup
	ask   atomic.Int32 // batches to ask about in vain before no more are asked about

	mu    sync.Mutex
	batch []store.Block
	bytes int
	last  time.Time // of the last Put
}

var _ snapshot.Sink = (*uploader)(nil)

// newUploader starts an upload. Where first is set, nothing suggests that the store has any of it.
func newUploader(ctx context.Context, st store.Store, first bool, line *pace.User, sent func(int)) *uploader {
	u := &uploader{store: st, line: line, log: sent, room: semaphore.NewWeighted(maxWaiting), slots: make(chan struct{}, inFlight)}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	u.ask.Store(1 << 30)
	if first {
		u.ask.Store(askInVain)
	}
	u.wg.Add(1)
	go u.flushIdle()
	return u
}

// Put implements snapshot.Sink. It takes b.Data over. After a batch failed it returns that error.
func (u *uploader) Put(ctx context.Context, b store.Block) error {
	if mutant.Is(mutant.UploadSkips) && b.CID.Prefix().Codec == store.Raw && b.CID.Hash()[2]%16 == 0 {
		return nil
	}
	// A batch that fails gives its room back, so nobody waits here for an upload that has ended.
	if err := u.room.Acquire(ctx, int64(len(b.Data))); err != nil {
		return err
	}
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	u.mu.Lock()
	u.batch = append(u.batch, b)
	u.bytes += len(b.Data)
	u.last = time.Now()
	if u.bytes >= batchBytes || len(u.batch) >= batchBlocks {
		u.sendLocked()
	}
	u.mu.Unlock()
	return nil
}

// Finish sends what is left and returns when all is stored, or the first error. No Put may be running or follow.
func (u *uploader) Finish() error {
	err := u.Flush()
	u.Abort()
	return err
}

// Flush is Finish of what was put until now; more may be put afterwards.
func (u *uploader) Flush() error {
	u.mu.Lock()
	u.sendLocked()
	u.mu.Unlock()
	// All room is free when every batch has come back.
	if u.room.Acquire(u.ctx, maxWaiting) == nil { // it fails with u.ctx only, which is looked at here:
		u.room.Release(maxWaiting)
	}
	return context.Cause(u.ctx)
}

// Abort ends the upload and waits for its goroutines. After Finish it does nothing.
func (u *uploader) Abort() {
	u.cancel(context.Canceled)
	u.wg.Wait()
}

// sendLocked starts the upload of the batch; the room for its bytes is what bounds how many wait for a slot.
func (u *uploader) sendLocked() {
	if len(u.batch) == 0 {
		return
	}
	batch, bytes := u.batch, u.bytes
	u.batch, u.bytes = nil, 0
	u.wg.Add(1)
	go func() {
		defer u.wg.Done()
		defer u.room.Release(int64(bytes))
		select {
		case u.slots <- struct{}{}:
		case <-u.ctx.Done():
			return
		}
		defer func() { <-u.slots }()
		if err := u.send(batch); err != nil {
			u.cancel(err)
		}
	}()
}

// send stores a batch, but for what the store has.
func (u *uploader) send(batch []store.Block) error {
	has := make([]bool, len(batch))
	var asked []int
	if u.ask.Load() > 0 {
		asked = toAsk(batch)
	}
	if len(asked) > 0 {
		cids := make([]cid.Cid, len(asked))
		for k, i := range asked {
			cids[k] = batch[i].CID
		}
		answer, err := u.store.Has(u.ctx, cids)
		if err != nil {
			return err
		}
		for k, i := range asked {
			has[i] = answer[k]
		}
	}
	sent, skipped := 0, false
	var blocks iter.Seq2[store.Block, error] = func(yield func(store.Block, error) bool) {
		for i, b := range batch {
			if has[i] {
				skipped = true
				continue
			}
			if err := u.line.Wait(u.ctx, len(b.Data)); err != nil {
				yield(store.Block{}, err)
				return
			}
			sent += len(b.Data)
			if !yield(b, nil) {
				return
			}
		}
	}
	if err := u.store.PutMany(u.ctx, blocks); err != nil {
		return err
	}
	switch {
	case skipped:
		u.ask.Store(1 << 30)
	case len(asked) > 0:
		u.ask.Add(-1)
	}
	if u.log != nil {
		u.log(sent)
	}
	return nil
}

// toAsk returns which blocks of a batch the store is asked for.
func toAsk(batch []store.Block) (list []int) {
	small := 0
	for _, b := range batch {
		if len(b.Data) < askFrom {
			small += len(b.Data)
		}
	}
	for i, b := range batch {
		if len(b.Data) >= askFrom || small > sendUnasked {
			list = append(list, i)
		}
	}
	return list
}

// flushIdle sends a batch that the build has stopped adding to, so that the store is busy while files are only compared.
func (u *uploader) flushIdle() {
	defer u.wg.Done()
	t := time.NewTicker(idleFlush / 4)
	defer t.Stop()
	for {
		select {
		case <-u.ctx.Done():
			return
		case now := <-t.C:
			u.mu.Lock()
			if now.Sub(u.last) >= idleFlush {
				u.sendLocked()
			}
			u.mu.Unlock()
		}
	}
}
