package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store"

	"github.com/google/uuid"
)

// breaking is a store that ends an upload: after so many more blocks it calls hit, once, and what hit returns fails the PutMany.
type breaking struct {
	store.Store
	left atomic.Int64
	hit  func() error
	sent atomic.Int64 // blocks
}

func (s *breaking) PutMany(ctx context.Context, blocks iter.Seq2[store.Block, error]) error {
	return s.Store.PutMany(ctx, func(yield func(store.Block, error) bool) {
		for b, err := range blocks {
			if err == nil && s.left.Add(-1) == 0 {
				err = s.hit()
			}
			s.sent.Add(1)
			if !yield(b, err) || err != nil {
				return
			}
		}
	})
}

func TestPublish_KilledUploadGoesOnToTheSameRoot(t *testing.T) {
	v := newVolume(t)
	names(60, func(i int, name string) { v.write(name, noise(uint64(i), 200_000+i)) })
	v.write("big", noise(99, 40<<20)) // several batches
	s := v.snapshot()

	w := newWorld(t)
	want := w.publish(s, Base{})
	total := len(w.blocks.CIDs())
	key := w.key

	w = newWorld(t)
	w.key = key
	check(t, w.hive.Create(t.Context(), key.Public()))
	b := &breaking{Store: w.blocks}
	w.store = b
	tries := 0
	for _, after := range []int64{1, 20, 50, 90, 70, 3, 110} {
		tries++
		ctx, cancel := context.WithCancel(t.Context())
		b.left.Store(after)
		broken := errors.New("broken")
		want := broken
		b.hit = func() error { return broken }
		if tries%2 == 0 {
			want = context.Canceled
			b.hit = func() error { cancel(); return nil }
		}
		_, err := w.publisher().Publish(ctx, w.job(s, Base{}))
		cancel()
		if err == nil {
			break // it got through before so many blocks were sent
		}
		wantError(t, err, want)
		if _, err := w.hive.Latest(t.Context(), key.Public()); !errors.Is(err, hive.ErrNotFound) {
			t.Fatalf("a manifest was posted: %v", err)
		}
	}
	b.left.Store(0)
	got := w.publish(s, Base{})
	if got.Base.Root != want.Base.Root {
		t.Errorf("root is %s, undisturbed it is %s", got.Base.Root, want.Base.Root)
	}
	w.wantTree(got, s)
	if sent := int(b.sent.Load()); sent > total+tries*(inFlight+1)*batchBytes/(256<<10) {
		t.Errorf("%d blocks were sent for %d, over %d attempts", sent, total, tries)
	}
}

func TestPublish_WhatIsStoredIsNotSentAgain(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("big", noise(1, 20<<20))
	s := v.snapshot()
	b := &breaking{Store: w.blocks}
	w.store = b
	w.publish(s, Base{})
	b.sent.Store(0)
	// As after a kill between upload and manifest: same key, nothing known.
	r, err := w.publisher().Publish(t.Context(), w.job(s, Base{}))
	check(t, err)
	// The root, its directory and the file's index: too small to be asked for.
	if n := b.sent.Load(); n > 3 {
		t.Errorf("%d blocks were sent again", n)
	}
	if r.Base.Generation != 1 {
		t.Errorf("generation %d", r.Base.Generation)
	}
}

func TestPublish_FencedMachineUploadsAndPostsNothing(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("file", []byte("x"))
	other := uuid.New()
	check(t, w.hive.SetWriter(t.Context(), w.key.Public(), &other))
	_, err := w.publisher().Publish(t.Context(), w.job(v.snapshot(), Base{}))
	wantError(t, err, ErrFenced)
	if n := len(w.blocks.CIDs()); n != 0 {
		t.Errorf("%d blocks were stored", n)
	}
}

// takenOver is a Hive that another machine takes over at a given call of Volume, or right before a Post.
type takenOver struct {
	Hive
	w       *world
	volumes int // calls of Volume before; -1: before Post
}

func (h *takenOver) take(ctx context.Context) {
	other := uuid.New()
	check(h.w.t, h.w.hive.SetWriter(ctx, h.w.key.Public(), &other))
}

func (h *takenOver) Volume(ctx context.Context, p seal.Pubkey) (hive.Volume, error) {
	if h.volumes == 0 {
		h.take(ctx)
	}
	h.volumes--
	return h.Hive.Volume(ctx, p)
}

func (h *takenOver) Post(ctx context.Context, p seal.Pubkey, signed []byte) (hive.Hash, error) {
	if h.volumes < -1 {
		h.take(ctx)
	}
	return h.Hive.Post(ctx, p, signed)
}

func TestPublish_TakenOverDuringTheUploadIsFenced(t *testing.T) {
	for _, at := range []int{1, -1} { // before the last question, and after it
		w, v := newWorld(t), newVolume(t)
		v.write("file", []byte("x"))
		p := New(Deps{Store: w.store, Hive: &takenOver{Hive: w.hive, w: w, volumes: at}, Nodes: w.nodes})
		_, err := p.Publish(t.Context(), w.job(v.snapshot(), Base{}))
		wantError(t, err, ErrFenced)
		if _, err := w.hive.Latest(t.Context(), w.key.Public()); !errors.Is(err, hive.ErrNotFound) {
			t.Errorf("a manifest was posted: %v", err)
		}
	}
}

// losing forwards to a Hive and loses the answers to its first posts.
func (w *world) losing(posts int) *hive.Client {
	w.t.Helper()
	inner := w.server.Config.Handler
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && posts > 0 {
			posts--
			inner.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		inner.ServeHTTP(out, r)
	}))
	w.t.Cleanup(server.Close)
	c, err := hive.NewClient(server.URL, w.token, nil)
	check(w.t, err)
	return c
}

func TestPublish_LostAnswerOfPostIsMadeUpFor(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	v.write("new", []byte("new"))
	s := v.snapshot()
	p := New(Deps{Store: w.store, Hive: w.losing(1), Nodes: w.nodes})
	_, err := p.Publish(t.Context(), w.job(s, first.Base))
	wantError(t, err, hive.ErrUnavailable)
	held, err := w.hive.Latest(t.Context(), w.key.Public())
	check(t, err)
	if held.Generation != 2 {
		t.Fatalf("generation %d: the lost answer was not one", held.Generation)
	}
	// After a restart: nothing is remembered, the cache of nodes is gone.
	w.nodes = t.TempDir()
	second := w.publish(s, first.Base)
	if second.Base.Hash != held.Hash() {
		t.Error("another manifest was posted")
	}
	// A third attempt that counts other sizes finds its manifest too.
	j := w.job(s, first.Base)
	j.Base.SizeTotal += 1000
	j.Created = w.now
	third, err := w.publisher().Publish(t.Context(), j)
	check(t, err)
	if third.Base.Hash != held.Hash() || third.Base.SizeTotal != held.SizeTotal {
		t.Error("the manifest that the Hive holds was not taken")
	}
}

func TestPublish_StaleBaseIsBehind(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	v.write("new", []byte("new"))
	w.publish(v.snapshot(), first.Base)
	v.write("newer", []byte("newer"))
	_, err := w.publisher().Publish(t.Context(), w.job(v.snapshot(), first.Base))
	wantError(t, err, ErrBehind)
}

func TestPublish_BaseThatTheStoreLostIsSentAgain(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	for i, c := range w.blocks.CIDs() {
		if i%3 == 0 {
			w.blocks.Remove(c)
		}
	}
	check(t, w.blocks.Unpin(t.Context(), first.Base.Root))
	v.write("dir-3/file-003", []byte("changed"))
	s := v.snapshot()
	p := w.publisher()
	if _, err := p.Publish(t.Context(), w.job(s, first.Base)); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error is %v", err)
	}
	if latest, err := w.hive.Latest(t.Context(), w.key.Public()); err != nil || latest.Generation != 1 {
		t.Fatalf("a manifest was posted for a tree with missing blocks: %v, %v", latest, err)
	}
	second, err := p.Publish(t.Context(), w.job(s, first.Base))
	check(t, err)
	w.wantTree(second, s)
	if ok, err := w.blocks.Pinned(t.Context(), second.Base.Root); !ok || err != nil {
		t.Error("not pinned")
	}
}

func TestPublish_BaseThatIsNotPinnedIsPinnedInFull(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	check(t, w.blocks.Unpin(t.Context(), first.Base.Root))
	v.write("new", []byte("new"))
	s := v.snapshot()
	second := w.publish(s, first.Base)
	w.blocks.GC()
	w.wantTree(second, s)
}

func TestPublish_ReportsProgressInOrder(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("big", noise(1, 4<<20))
	j := w.job(v.snapshot(), Base{})
	var phases []string
	var last Progress
	j.Progress = func(p Progress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		if p.Bytes < last.Bytes || p.Files < last.Files || p.BytesUploaded < last.BytesUploaded {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}
	_, err := w.publisher().Publish(t.Context(), j)
	check(t, err)
	if got := fmt.Sprint(phases); got != "[read upload pin publish]" {
		t.Error(got)
	}
	if last.Bytes != 4<<20 || last.BytesUploaded < 4<<20 || last.Files != 1 {
		t.Errorf("%+v", last)
	}
}

func TestPublish_NeverLogsTheKey(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("file", []byte("x"))
	j := w.job(v.snapshot(), Base{})
	j.Base.Local = "/nowhere"
	secret := w.key.RevealSecret()
	text := fmt.Sprintf("%v %+v %#v", j, j, j)
	if bytes.Contains([]byte(text), []byte(w.key.Reveal())) || bytes.Contains([]byte(text), secret[:]) {
		t.Error("a printed Job shows its key")
	}
}
