package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// events writes the lines of one stream. Its methods may be called at once.
type events struct {
	mu     sync.Mutex
	w      http.ResponseWriter
	begun  bool
	closed bool
	last   time.Time
}

// progressEvery keeps a stream from being flooded by a fast piece of work.
const progressEvery = 100 * time.Millisecond

// progress sends p unless one was sent just before.
func (e *events) progress(p volume.Progress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); !e.closed && now.Sub(e.last) >= progressEvery {
		e.last = now
		e.sendLocked(control.Event{Progress: &p})
	}
}

// emit sends a line, whatever was sent just before.
func (e *events) emit(v control.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.sendLocked(v)
	}
}

func (e *events) sendLocked(v control.Event) {
	if !e.begun {
		e.begun = true
		e.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	// A reader that is gone cancels the request's context; that ends the work.
	if json.NewEncoder(e.w).Encode(v) == nil {
		_ = http.NewResponseController(e.w).Flush()
	}
}

// end sends the last line. An error before the first line is an answer of its own, with its status.
func (e *events) end(result any, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true // a late report of progress must not touch w any more
	if err == nil {
		var b []byte
		if b, err = json.Marshal(result); err == nil {
			e.sendLocked(control.Event{Result: b})
			return
		}
	}
	if !e.begun {
		writeError(e.w, err)
		return
	}
	code, _ := control.Classify(err)
	e.sendLocked(control.Event{Error: err.Error(), Code: code})
}

// request is what a streaming call has.
type request struct {
	ctx  context.Context
	http *http.Request
	name string
	v    Volumes
	p    func(volume.Progress)
	emit func(control.Event) // of a line that must not be left out
}

// stream makes a handler of a call that reports progress.
func (s *Server) stream(op string, fn func(request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		e := &events{w: w}
		var out any
		err := s.safely(op, r.PathValue("name"), func() error {
			v, err := s.backend.wait(r.Context())
			if err != nil {
				return err
			}
			// The server's end ends a call that would go on for hours.
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(s.ctx, cancel)()
			out, err = fn(request{ctx: ctx, http: r, name: r.PathValue("name"), v: v, p: e.progress, emit: e.emit})
			if err != nil {
				err = s.unlessStopping(err)
			}
			return err
		})
		e.end(out, err)
	}
}

func id(given string) string {
	if given == "" {
		return control.DefaultMountID
	}
	return given
}

// retryBusy is the pause before a mount that is being prepared is asked for again.
const retryBusy = 200 * time.Millisecond

// mount waits as long as the preparations take: a terminal has more patience than Docker.
func (s *Server) mount(r request) (any, error) {
	var in control.MountRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	path, err := waitMounted(r, r.name, id(in.ID))
	return control.MountResult{Mountpoint: path}, err
}

func waitMounted(r request, name, id string) (path string, err error) {
	for {
		path, err := r.v.Mount(r.ctx, name, id)
		if err == nil || !errors.Is(err, volume.ErrBusy) {
			return path, err
		}
		r.p(volume.Progress{Phase: "preparing"})
		select {
		case <-r.ctx.Done():
			return "", err
		case <-time.After(retryBusy):
		}
	}
}

// unmount gives the mount up; with wait, and where it was the last, it stays until all is published and the writer given back, or for wait_seconds.
func (s *Server) unmount(r request) (any, error) {
	var in control.UnmountRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	if in.WaitSeconds < 0 || in.WaitSeconds > maxWait.Seconds() || in.WaitSeconds != in.WaitSeconds {
		return nil, fmt.Errorf("%w: wait_seconds is not between 0 and %.0f", control.ErrRequest, maxWait.Seconds())
	}
	if in.Wait && in.WaitSeconds > 0 {
		limit := time.Duration(in.WaitSeconds * float64(time.Second))
		outer := r.ctx
		ctx, cancel := context.WithTimeout(outer, limit)
		defer cancel()
		r.ctx = ctx
		info, err := s.unmountAndWait(r, in)
		if err != nil && ctx.Err() == context.DeadlineExceeded && outer.Err() == nil {
			err = notReleased(r, limit, err)
		}
		return info, err
	}
	return s.unmountAndWait(r, in)
}

// maxWait bounds wait_seconds.
const maxWait = 30 * 24 * time.Hour

// notReleased says how far the final upload of a volume came in the time that a caller had for it.
func notReleased(r request, limit time.Duration, err error) error {
	info, gerr := r.v.Get(r.name)
	if gerr != nil {
		return err
	}
	p := uploadProgress(info)
	what := fmt.Sprintf("%d snapshots wait for their upload", info.Unpublished)
	switch {
	case info.Mountpoint != "":
		what = "it is still being unmounted"
	case info.Unpublished == 0:
		what = "it is published, and not yet given back"
	}
	return fmt.Errorf("%w: volume %s is not given back after %s: %s (%s, %d bytes sent); it goes on in the background, and the same call waits for it again",
		volume.ErrBusy, r.name, limit, what, p.Phase, p.Done)
}

func (s *Server) unmountAndWait(r request, in control.UnmountRequest) (any, error) {
	for {
		err := r.v.Unmount(r.ctx, r.name, id(in.ID))
		if err == nil {
			break
		}
		if !errors.Is(err, volume.ErrBusy) {
			return nil, err
		}
		r.p(volume.Progress{Phase: "unmounting"})
	}
	s.forgetRate(r.v, r.name)
	info, err := r.v.Get(r.name)
	if err != nil || !in.Wait || len(info.Mounts) > 0 {
		return info, err
	}
	done := make(chan error, 1)
	go func() { done <- s.safely("unmount", r.name, func() error { return r.v.WaitReleased(r.ctx, r.name) }) }() // ends with r.ctx
	tick := time.NewTicker(pollUpload)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return nil, err
			}
			return r.v.Get(r.name)
		case <-tick.C:
			if info, err := r.v.Get(r.name); err == nil {
				r.p(uploadProgress(info))
			}
		}
	}
}

// pollUpload is how often an upload that is waited for is looked at.
const pollUpload = 250 * time.Millisecond

func uploadProgress(info volume.Info) volume.Progress {
	p := volume.Progress{Phase: info.UploadPhase, Done: info.UploadBytes}
	switch {
	case p.Phase != "":
	case info.UploadError != "":
		p.Phase = "waiting to try again: " + info.UploadError
	default:
		p.Phase = "waiting"
	}
	return p
}

func (s *Server) snapshot(r request) (any, error) {
	var in control.SnapshotRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	return r.v.Snapshot(r.ctx, r.name, in.Wait, r.p)
}

func (s *Server) flush(r request) (any, error) { return r.v.Flush(r.ctx, r.name, r.p) }

func (s *Server) verify(r request) (any, error) {
	var in control.VerifyRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	return r.v.Verify(r.ctx, r.name, volume.VerifyOptions{Snapshot: in.Snapshot, Sample: in.Sample}, r.p)
}

func (s *Server) replicate(r request) (any, error) {
	var in control.ReplicateRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	return r.v.Replicate(r.ctx, r.name, in.Snapshot, in.Remote, r.p)
}

func (s *Server) synchronize(r request) (any, error) {
	var in control.SynchronizeRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	return r.v.Synchronize(r.ctx, r.name, in.Budget, r.p)
}

func (s *Server) hydrate(r request) (any, error) {
	var in control.HydrateRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	info, err := r.v.Get(r.name)
	if err != nil {
		return nil, err
	}
	if in.Pause != nil || in.Rate != nil {
		if err := s.setHydration(r.v, info, in); err != nil {
			return nil, err
		}
	}
	if in.Pause == nil && in.Rate == nil || in.Wait {
		if err := r.v.Hydrate(r.ctx, r.name, in.Wait, r.p); err != nil {
			return nil, err
		}
	}
	return r.v.Get(r.name)
}

// setHydration changes what the request names and keeps the rest.
func (s *Server) setHydration(v Volumes, info volume.Info, in control.HydrateRequest) error {
	s.mu.Lock()
	rate := s.rates[info.Name]
	s.mu.Unlock()
	paused := info.Paused
	if in.Pause != nil {
		paused = *in.Pause
	}
	if in.Rate != nil {
		rate = *in.Rate
	}
	if err := v.SetHydration(info.Name, paused, rate); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rates[info.Name] = rate
	return nil
}

// forgetRate drops the limit of a volume that is not mounted any more: the next mount begins without one.
func (s *Server) forgetRate(v Volumes, name string) {
	if info, err := v.Get(name); err == nil && info.Mountpoint != "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rates, name)
}
