package volume

import "time"

// States of a volume, as Info shows them.
const (
	StateNew       = "new"       // never mounted here
	StateUnmounted = "unmounted" // at rest; all that it holds is published, or its key never left this machine
	StateFollowing = "following" // unmounted; kept warm with what other machines publish
	StateUploading = "uploading" // unmounted; its last changes are still on their way to the Hive
	StatePreparing = "preparing" // being mounted
	StateHydrating = "hydrating" // mounted, part of it is still remote
	StateComplete  = "complete"  // mounted, needs no network
	StateOffline   = "offline"   // mounted without having asked the Hive; nothing is published until it answers
	StateFenced    = "fenced"    // another machine took the volume over; nothing is published from here
	StateLocked    = "locked"    // its key is sealed, and the passphrase is missing or wrong
	StateSnapshot  = "snapshot"  // a read-only view of one snapshot
)

// Info is what inspect shows. Never the private key.
type Info struct {
	Name           string            `json:"name"`
	Pubkey         string            `json:"pubkey"`
	State          string            `json:"state"`
	Generation     uint64            `json:"generation"`      // of the snapshot that the data here comes from; 0: none yet
	LastReplicated *time.Time        `json:"last_replicated"` // all that was written before then is published
	BytesTotal     uint64            `json:"bytes_total"`
	BytesRemote    uint64            `json:"bytes_remote"`
	FilesTotal     uint64            `json:"files_total"`
	FilesRemote    uint64            `json:"files_remote"`
	BytesFetched   uint64            `json:"bytes_fetched"`         // over the network since the mount, sealed
	BytesTaken     uint64            `json:"bytes_taken,omitempty"` // of content, from older snapshots on this machine, since the mount
	Rate           float64           `json:"rate"`                  // bytes a second
	ETASeconds     float64           `json:"eta_seconds"`           // 0: unknown or done
	StalledSince   *time.Time        `json:"stalled_since"`
	StalledWhy     string            `json:"stalled_why,omitempty"`
	Paused         bool              `json:"paused"`
	Fenced         bool              `json:"fenced"`
	FencedBy       string            `json:"fenced_by,omitempty"`    // the machine that took over
	Divergent      []string          `json:"divergent,omitempty"`    // paths of local snapshots with changes that were never published
	LockedWhy      string            `json:"locked_why,omitempty"`   // why its key is not open
	OfflineWhy     string            `json:"offline_why,omitempty"`  // why the Hive was not asked
	Unpublished    int               `json:"unpublished,omitempty"`  // local snapshots that wait for their upload
	UploadPhase    string            `json:"upload_phase,omitempty"` // of the upload that runs
	UploadBytes    uint64            `json:"upload_bytes,omitempty"`
	UploadError    string            `json:"upload_error,omitempty"`       // why the last try failed
	UploadLag      *float64          `json:"upload_lag_seconds,omitempty"` // how long changes have been here, at most, that are not published; 0: all is; nil where nobody asked Manager.Lag
	Mounts         []string          `json:"mounts"`                       // ids, ascending
	Mountpoint     string            `json:"mountpoint"`                   // empty: not mounted
	Mount          string            `json:"mount,omitempty"`              // fuse or direct; empty: not mounted
	MountWhy       string            `json:"mount_why,omitempty"`          // why it is fuse although the option says direct
	SizeUsed       uint64            `json:"size_used,omitempty"`          // bytes that count against the option size
	SizeSoft       string            `json:"size_soft,omitempty"`          // why the limit is not held by the pool, where it is not
	LeftOut        string            `json:"left_out,omitempty"`           // what of a direct mount no snapshot holds
	Options        map[string]string `json:"options"`                      // effective; no key
	Created        time.Time         `json:"created"`
	Newest         uint64            `json:"newest_generation,omitempty"` // the newest that the Hive ever showed this machine
	Synchronized   *time.Time        `json:"synchronized,omitempty"`      // following: when all that the budget allows was here at last
	CloneOf        string            `json:"clone_of,omitempty"`          // public key of the volume that part of it is still to be fetched from; it is published after that
}

// Where a snapshot is.
const (
	WhereHere    = "here"    // a local snapshot; lost with this machine
	WhereNetwork = "network" // its manifest is at the Hive, its blocks in the block store
	WhereBoth    = "both"
)

// SnapshotInfo is a line of `snapshots`.
type SnapshotInfo struct {
	Generation uint64    `json:"generation"` // 0: not published
	Hash       string    `json:"hash,omitempty"`
	Root       string    `json:"root,omitempty"`
	Created    time.Time `json:"created"`
	Size       uint64    `json:"size"` // bytes added
	SizeTotal  uint64    `json:"size_total"`
	Local      string    `json:"local,omitempty"` // uuid of the local snapshot
	ID         string    `json:"id,omitempty"`    // uuid under which it was taken, here or on another machine
	Where      string    `json:"where"`           // WhereHere, WhereNetwork or WhereBoth
	Remote     bool      `json:"remote"`
	Machine    string    `json:"machine,omitempty"`
	Unchanged  bool      `json:"unchanged,omitempty"` // equal to the newest published one: nothing was posted
	Note       string    `json:"note,omitempty"`      // why a local snapshot is kept; NotePresent
}

// Progress of long work. Done and Total in bytes; Total 0: unknown.
type Progress struct {
	Phase      string  `json:"phase"`
	Done       uint64  `json:"done"`
	Total      uint64  `json:"total"`
	Rate       float64 `json:"rate"`
	ETASeconds float64 `json:"eta_seconds"`
}

// Check is one line of Health.
type Check struct {
	Name   string `json:"name"` // pool, fuse, passthrough, hive, store, mounts, keys
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what is missing and the command that mends it
}

// Health is the state of what volumes need. OK: volumes can be made, mounted
// and published; a missing passthrough costs speed only and does not clear it.
type Health struct {
	OK     bool    `json:"ok"`
	Checks []Check `json:"checks"`
}
