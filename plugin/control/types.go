package control

import (
	"encoding/json"
	"time"

	"fractal-lazy/schedule"
	"fractal-lazy/volume"
)

// Prefix is the path that all requests begin with.
const Prefix = "/fractal/v1"

// MaxBody bounds a request's body and a line of an answer, in bytes.
const MaxBody = 4 << 20

// DefaultMountID is the id under which the commands mount. Docker's ids are hex, so it is none of them.
const DefaultMountID = "cli"

// Version of the daemon.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
}

// Setting is one setting in force; a secret's value is never here.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Status is the whole daemon at a glance.
type Status struct {
	Version  Version       `json:"version"`
	PID      int           `json:"pid"`
	Started  time.Time     `json:"started"`
	Ready    bool          `json:"ready"`           // the pool is open
	Error    string        `json:"error,omitempty"` // why it is not
	Settings []Setting     `json:"settings"`
	Health   volume.Health `json:"health"`
	Volumes  []volume.Info `json:"volumes"`
}

// CreateRequest makes a volume. Options are those of `docker volume create -o`.
type CreateRequest struct {
	Name    string            `json:"name"`
	Options map[string]string `json:"options,omitempty"`
}

// ExportRequest names the snapshot to write: a generation, hash, CID, id or time; empty: the newest published one.
type ExportRequest struct {
	Snapshot string `json:"snapshot,omitempty"`
}

// Headers of an export, each with JSON escaped as in a query.
const (
	ExportHeader = "Fractal-Export" // a volume.Exported
	ErrorTrailer = "Fractal-Error"  // an Event
)

// MountRequest mounts for the user ID; empty: DefaultMountID.
type MountRequest struct {
	ID string `json:"id,omitempty"`
}

// MountResult says where.
type MountResult struct {
	Mountpoint string `json:"mountpoint"`
}

// UnmountRequest gives up the mount of ID. With Wait, and where it was the last one, the answer comes when the final upload is done and the
// volume given back; with WaitSeconds not later than then: the error is CodeBusy, and the upload goes on.
type UnmountRequest struct {
	ID   string `json:"id,omitempty"`
	Wait bool   `json:"wait,omitempty"`
	// WaitSeconds bounds the waiting; 0: as long as it takes.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
}

// SnapshotRequest takes a snapshot; with Wait the answer comes when it is published.
type SnapshotRequest struct {
	Wait bool `json:"wait,omitempty"`
}

// RestoreRequest names the snapshot that the volume is to hold.
type RestoreRequest struct {
	Snapshot string `json:"snapshot"`
}

// CloneRequest makes a new volume of a snapshot; empty: of the present state.
type CloneRequest struct {
	New      string `json:"new"`
	Snapshot string `json:"snapshot,omitempty"`
}

// PurgeRequest removes what Pattern does not keep. Neither Local nor Remote: both.
type PurgeRequest struct {
	Pattern string `json:"pattern"`
	DryRun  bool   `json:"dry_run,omitempty"`
	Local   bool   `json:"local,omitempty"`
	Remote  bool   `json:"remote,omitempty"`
}

// RemoveSnapshotRequest removes one snapshot; with Force also changes that were never published.
type RemoveSnapshotRequest struct {
	Snapshot string `json:"snapshot"`
	Force    bool   `json:"force,omitempty"`
}

// BrowseRequest mounts a snapshot read-only, or, with End, takes that away.
type BrowseRequest struct {
	Snapshot string `json:"snapshot"`
	End      bool   `json:"end,omitempty"`
}

// BrowseResult says where a snapshot is shown, and as which volume.
type BrowseResult struct {
	Volume     string              `json:"volume"`
	Mountpoint string              `json:"mountpoint"`
	Snapshot   volume.SnapshotInfo `json:"snapshot"`
}

// DiffRequest compares two snapshots; "now" is what the volume holds at the moment; To empty: the newest.
type DiffRequest struct {
	From string `json:"from"`
	To   string `json:"to,omitempty"`
}

// HydrateRequest starts hydration, or changes how it goes on. What is nil stays as it is.
type HydrateRequest struct {
	Wait  bool    `json:"wait,omitempty"`
	Pause *bool   `json:"pause,omitempty"`
	Rate  *uint64 `json:"rate,omitempty"` // bytes a second, 0: without limit
}

// VerifyRequest reads a published snapshot back. Snapshot empty: the newest. Sample is a share of the blocks of content, 0 or 1: all.
type VerifyRequest struct {
	Snapshot string  `json:"snapshot,omitempty"`
	Sample   float64 `json:"sample,omitempty"`
}

// SynchronizeRequest brings the newest generation here. Budget empty: what the option prefetch says.
type SynchronizeRequest struct {
	Budget string `json:"budget,omitempty"`
}

// ReplicateRequest brings published snapshots to a second place. Snapshot empty: what was written until now.
type ReplicateRequest struct {
	Remote   string `json:"remote"`
	Snapshot string `json:"snapshot,omitempty"`
}

// ImportButtervolumeRequest takes over what Buttervolume has; see volume.ButterOptions.
type ImportButtervolumeRequest struct {
	From     string   `json:"from,omitempty"`
	Schedule string   `json:"schedule,omitempty"`
	Zone     string   `json:"zone,omitempty"`
	Volumes  []string `json:"volumes,omitempty"`
	DryRun   bool     `json:"dry_run,omitempty"`
}

// Schedule is what is scheduled.
type Schedule struct {
	Paused bool              `json:"paused"` // all jobs, whatever each one says
	Jobs   []schedule.Listed `json:"jobs"`   // by volume and action
}

// JobRequest schedules an action on a volume. Timer is minutes, a cron
// expression, or pause, resume, delete or 0.
type JobRequest struct {
	Volume string `json:"volume"`
	Action string `json:"action"`
	Timer  string `json:"timer"`
}

// Key is a private key, as base64.
type Key struct {
	Privkey string `json:"privkey"`
}

// Event is one line of a stream: exactly one of Progress, Change, Result and Error is there.
type Event struct {
	Progress *volume.Progress `json:"progress,omitempty"`
	Change   *volume.Change   `json:"change,omitempty"` // of a diff: any number of lines before the result
	Result   json.RawMessage  `json:"result,omitempty"`
	Error    string           `json:"error,omitempty"`
	Code     Code             `json:"code,omitempty"`
}
