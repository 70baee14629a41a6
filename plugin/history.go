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
	handle("POST "+volumes+"/{name}/purge", s.answer("purge", s.purge))
	handle("POST "+volumes+"/{name}/snapshots/remove", s.answer("remove snapshot", s.removeSnapshot))
	handle("POST "+volumes+"/{name}/browse", s.stream("browse", s.browse))
	handle("POST "+volumes+"/{name}/diff", s.stream("diff", s.diff))
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

func (s *Server) importButtervolume(r *http.Request) (any, error) {
	var in control.ImportButtervolumeRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return with(s, r, func(v Volumes) (volume.ButterResult, error) {
		return v.ImportButtervolume(r.Context(), volume.ButterOptions{From: in.From, Schedule: in.Schedule, Zone: in.Zone, Volumes: in.Volumes, DryRun: in.DryRun})
	})
}

func (s *Server) purge(r *http.Request) (any, error) {
	var in control.PurgeRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return with(s, r, func(v Volumes) (volume.PurgeResult, error) {
		res, err := v.Purge(r.Context(), r.PathValue("name"), in.Pattern, volume.PurgeOptions{DryRun: in.DryRun, Local: in.Local, Remote: in.Remote})
		if res.Failed > 0 { // which, and why, is in the result
			err = nil
		}
		return res, err
	})
}

func (s *Server) removeSnapshot(r *http.Request) (any, error) {
	var in control.RemoveSnapshotRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return with(s, r, func(v Volumes) (volume.SnapshotInfo, error) {
		return v.RemoveSnapshot(r.Context(), r.PathValue("name"), in.Snapshot, in.Force)
	})
}

// browse makes the view of a snapshot and mounts it, or takes it away.
func (s *Server) browse(r request) (any, error) {
	var in control.BrowseRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	if in.End {
		return control.BrowseResult{}, r.v.EndBrowse(r.ctx, r.name, in.Snapshot)
	}
	view, i, err := r.v.Browse(r.ctx, r.name, in.Snapshot)
	if err != nil {
		return nil, err
	}
	path, err := waitMounted(r, view, volume.BrowseID)
	return control.BrowseResult{Volume: view, Mountpoint: path, Snapshot: i}, err
}

func (s *Server) diff(r request) (any, error) {
	var in control.DiffRequest
	if err := decode(r.http, &in); err != nil {
		return nil, err
	}
	return r.v.Diff(r.ctx, r.name, in.From, in.To, func(c volume.Change) error {
		r.emit(control.Event{Change: &c})
		return r.ctx.Err()
	})
}
