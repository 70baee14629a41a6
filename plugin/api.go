package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// routes adds the API of package control to Docker's paths.
func (s *Server) routes() {
	s.handler.HandleFunc(control.Prefix+"/", s.api.ServeHTTP)
	s.handler.HandleFunc("/metrics", s.api.ServeHTTP)
	handleAll := func(pattern string, fn http.HandlerFunc) { // whatever the length of the body
		s.api.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !s.begin() {
				writeError(w, errStopping)
				return
			}
			defer s.work.Done()
			fn(w, r)
		})
	}
	handle := func(pattern string, fn http.HandlerFunc) {
		handleAll(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, control.MaxBody)
			fn(w, r)
		})
	}
	const volumes = control.Prefix + "/volumes"
	handle("GET "+control.Prefix+"/version", s.answer("version", func(*http.Request) (any, error) { return s.opt.Version, nil }))
	handle("GET "+control.Prefix+"/status", s.answer("status", func(r *http.Request) (any, error) { return s.status(r.Context()), nil }))
	handle("GET "+control.Prefix+"/health", s.health)
	if s.opt.Metrics != nil {
		handle("GET /metrics", s.opt.Metrics.ServeHTTP)
	}
	handle("GET "+volumes, s.answer("list", s.list))
	handle("POST "+volumes, s.answer("create", s.create))
	handle("GET "+volumes+"/{name}", s.answer("get", func(r *http.Request) (any, error) {
		return with(s, r, func(v Volumes) (volume.Info, error) {
			info, err := v.Get(r.PathValue("name"))
			return withLag(v, info), err
		})
	}))
	handle("DELETE "+volumes+"/{name}", s.answer("remove", func(r *http.Request) (any, error) {
		force, _ := strconv.ParseBool(r.URL.Query().Get("force"))
		return with(s, r, func(v Volumes) (struct{}, error) {
			return struct{}{}, v.Remove(r.Context(), r.PathValue("name"), force)
		})
	}))
	s.historyRoutes(handle, volumes)
	handle("POST "+volumes+"/{name}/key", s.answer("key export", func(r *http.Request) (any, error) {
		return with(s, r, func(v Volumes) (control.Key, error) {
			k, err := v.KeyExport(r.PathValue("name"))
			return control.Key{Privkey: k}, err
		})
	}))
	handle("POST "+volumes+"/{name}/synchronize", s.stream("synchronize", s.synchronize))
	handle("POST "+volumes+"/{name}/replicate", s.stream("replicate", s.replicate))
	handle("POST "+control.Prefix+"/import/buttervolume", s.answer("import-buttervolume", s.importButtervolume))
	handle("POST "+volumes+"/{name}/export", s.export)
	handleAll("POST "+volumes+"/{name}/import", s.importCAR)
	handle("GET "+control.Prefix+"/schedule", s.answer("schedule", func(r *http.Request) (any, error) { return s.jobs(r, r.URL.Query().Get("volume"), nil) }))
	handle("POST "+control.Prefix+"/schedule", s.answer("schedule", s.setJob))
	for path, paused := range map[string]bool{"/schedule/pause": true, "/schedule/resume": false} {
		handle("POST "+control.Prefix+path, s.answer("schedule", func(r *http.Request) (any, error) {
			return s.jobs(r, "", func(v Volumes) error { return v.PauseJobs(paused) })
		}))
	}
	handle("POST "+volumes+"/{name}/mount", s.stream("mount", s.mount))
	handle("POST "+volumes+"/{name}/unmount", s.stream("unmount", s.unmount))
	handle("POST "+volumes+"/{name}/snapshot", s.stream("snapshot", s.snapshot))
	handle("POST "+volumes+"/{name}/flush", s.stream("flush", s.flush))
	handle("POST "+volumes+"/{name}/hydrate", s.stream("hydrate", s.hydrate))
	handle("POST "+volumes+"/{name}/verify", s.stream("verify", s.verify))
}

// with calls fn with the backend, or returns why there is none.
func with[T any](s *Server, r *http.Request, fn func(Volumes) (T, error)) (T, error) {
	v, err := s.backend.wait(r.Context())
	if err != nil {
		var none T
		return none, err
	}
	return fn(v)
}

// answer makes a handler of a call that has one answer.
func (s *Server) answer(op string, fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var out any
		err := s.safely(op, r.PathValue("name"), func() (err error) {
			out, err = fn(r)
			return err
		})
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// What cannot be written has no reader any more.
		_ = json.NewEncoder(w).Encode(out)
	}
}

func writeError(w http.ResponseWriter, err error) {
	code, status := control.Classify(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(control.Event{Error: err.Error(), Code: code})
}

// decode reads a request's body strictly, so that a misspelt field does not pass for its default, nor one half of a body for all of it. No body is that of all defaults.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w: %v", control.ErrRequest, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes behind the JSON", control.ErrRequest)
	}
	return nil
}

func (s *Server) list(r *http.Request) (any, error) {
	return with(s, r, func(v Volumes) ([]volume.Info, error) { return listWithLag(v), nil })
}

// withLag adds what only the disk can tell. Docker's own calls do without: they answer from memory.
func withLag(v Volumes, info volume.Info) volume.Info {
	if lag, err := v.Lag(info.Name); err == nil {
		seconds := lag.Round(time.Millisecond).Seconds()
		info.UploadLag = &seconds
	}
	return info
}

func listWithLag(v Volumes) []volume.Info {
	all := []volume.Info{}
	for _, info := range v.List() {
		all = append(all, withLag(v, info))
	}
	return all
}

func (s *Server) create(r *http.Request) (any, error) {
	var in control.CreateRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := CheckName(in.Name); err != nil {
		return nil, err
	}
	return with(s, r, func(v Volumes) (volume.Info, error) {
		if err := v.Create(r.Context(), in.Name, in.Options); err != nil {
			return volume.Info{}, err
		}
		return v.Get(in.Name)
	})
}

// jobs lists what is scheduled, after a change of it; nil: without one.
func (s *Server) jobs(r *http.Request, name string, change func(Volumes) error) (any, error) {
	return with(s, r, func(v Volumes) (out control.Schedule, err error) {
		if change != nil {
			if err := change(v); err != nil {
				return out, err
			}
		}
		out.Jobs, out.Paused, err = v.Jobs(name)
		return out, err
	})
}

func (s *Server) setJob(r *http.Request) (any, error) {
	var in control.JobRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return s.jobs(r, "", func(v Volumes) error { return v.SetJob(in.Volume, in.Action, in.Timer) })
}

// health answers 200 where volumes can be made, mounted and published, else 503; the body says what is wrong either way.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	h := s.status(r.Context()).Health
	w.Header().Set("Content-Type", "application/json")
	if !h.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// What cannot be written has no reader any more.
	_ = json.NewEncoder(w).Encode(h)
}

// status never fails: what is wrong is what it tells.
func (s *Server) status(ctx context.Context) control.Status {
	s.mu.Lock()
	st := control.Status{Version: s.opt.Version, PID: os.Getpid(), Started: s.started, Settings: s.settings, Volumes: []volume.Info{}}
	s.mu.Unlock()
	opening, cancel := context.WithTimeout(ctx, openingLimit)
	defer cancel()
	v, err := s.backend.wait(opening)
	if err != nil {
		st.Error = err.Error()
		st.Health = volume.Health{Checks: []volume.Check{{Name: "daemon", Detail: st.Error}}}
		return st
	}
	ctx, cancel = context.WithTimeout(ctx, statusLimit)
	defer cancel()
	st.Ready = true
	st.Health = v.Health(ctx)
	st.Volumes = listWithLag(v)
	return st
}

const (
	openingLimit = 2 * time.Second  // how long status waits for a daemon that has just been started
	statusLimit  = 10 * time.Second // bounds the questions that status puts to the Hive and to the block store
)
