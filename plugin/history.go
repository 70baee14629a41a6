package plugin

import (
	"net/http"
	"strconv"

	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"
)

// historyRoutes adds the calls that concern the snapshots of a volume.
func (s *Server) historyRoutes(handle func(pattern string, fn http.HandlerFunc), volumes string) {
	handle("GET "+volumes+"/{name}/snapshots", s.answer("snapshots", s.snapshots))
	handle("POST "+volumes+"/{name}/clone", s.answer("clone", s.clone))
	handle("POST "+volumes+"/{name}/restore", s.answer("restore", s.restore))
}

func (s *Server) snapshots(r *http.Request) (any, error) {
	local, _ := strconv.ParseBool(r.URL.Query().Get("local"))
	return with(s, r, func(v Volumes) (all []volume.SnapshotInfo, err error) {
		if local {
			all, err = v.LocalSnapshots(r.PathValue("name"))
		} else {
			all, err = v.Snapshots(r.Context(), r.PathValue("name"))
		}
		return append([]volume.SnapshotInfo{}, all...), err
	})
}

func (s *Server) restore(r *http.Request) (any, error) {
	var in control.RestoreRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return with(s, r, func(v Volumes) (volume.RestoreResult, error) {
		return v.Restore(r.Context(), r.PathValue("name"), in.Snapshot)
	})
}

func (s *Server) clone(r *http.Request) (any, error) {
	var in control.CloneRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := CheckName(in.New); err != nil {
		return nil, err
	}
	return with(s, r, func(v Volumes) (volume.RestoreResult, error) {
		return v.Clone(r.Context(), r.PathValue("name"), in.Snapshot, in.New)
	})
}
