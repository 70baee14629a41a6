package plugin

import (
	"context"
	"fmt"
	"time"

	"fractal-lazy/volume"
)

// bounded runs fn and waits for it no longer than the call limit; then the answer is volume.ErrBusy while fn goes on with the server's own context, and its
// outcome is logged. A second call beside it is for the backend to put in order.
func (s *Server) bounded(op, name string, fn func(ctx context.Context, v Volumes) error) error {
	if !s.begin() {
		return errStopping
	}
	wait, cancel := context.WithTimeout(s.ctx, s.opt.CallLimit)
	defer cancel()
	v, err := s.backend.wait(wait)
	if err != nil {
		s.work.Done()
		return s.unlessStopping(err)
	}
	done := make(chan error, 1)
	go func() {
		defer s.work.Done()
		done <- s.safely(op, name, func() error { return fn(s.ctx, v) })
	}()
	select {
	case err := <-done:
		if err != nil {
			return s.unlessStopping(err)
		}
		return nil
	case <-wait.Done():
	}
	go func() { // ends with fn, which Run waits for
		if err := <-done; err != nil {
			s.opt.Log.Error().Err(err).Str("op", op).Str("volume", name).Msg("what went on in the background failed")
		}
	}()
	return s.unlessStopping(fmt.Errorf("%w: %s of %q takes longer than %s and goes on in the background",
		volume.ErrBusy, op, name, s.opt.CallLimit.Round(time.Millisecond)))
}

// unlessStopping replaces the errors that come of a server's end by one that says so.
func (s *Server) unlessStopping(err error) error {
	if s.ctx.Err() != nil {
		return errStopping
	}
	return err
}
