package schedule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	tableVersion = 1
	// MaxTable is the longest table, in bytes. Each job has bounds of its own below.
	MaxTable = 16 << 20
)

// Table is the file: all jobs, sorted by volume and action. docs/FORMAT.md lists its fields.
type Table struct {
	Version int   `json:"version"`
	Paused  bool  `json:"paused,omitempty"` // all of them, whatever each one says
	Jobs    []Job `json:"jobs"`
}

// Decode reads a table and checks every field. The error is ErrDamaged.
func Decode(b []byte) (*Table, error) {
	if len(b) > MaxTable {
		return nil, fmt.Errorf("%w: over %d bytes", ErrDamaged, MaxTable)
	}
	var t Table
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes behind its end", ErrDamaged)
	}
	if t.Version != tableVersion {
		return nil, fmt.Errorf("%w: version %d, this program knows %d", ErrDamaged, t.Version, tableVersion)
	}
	if len(t.Jobs) > MaxJobs {
		return nil, fmt.Errorf("%w: over %d jobs", ErrDamaged, MaxJobs)
	}
	for i := range t.Jobs {
		if err := t.Jobs[i].check(); err != nil {
			return nil, err
		}
		if i > 0 && compare(t.Jobs[i-1], t.Jobs[i]) >= 0 {
			return nil, fmt.Errorf("%w: jobs out of order", ErrDamaged)
		}
	}
	return &t, nil
}

// Encode returns the bytes of the file.
func (t *Table) Encode() ([]byte, error) {
	t.Version = tableVersion
	if t.Jobs == nil {
		t.Jobs = []Job{}
	}
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schedule: %w", err)
	}
	return append(b, '\n'), nil
}

func (t *Table) clone() *Table {
	c := *t
	c.Jobs = slices.Clone(t.Jobs)
	return &c
}

func (t *Table) find(volume, action string) *Job {
	i := slices.IndexFunc(t.Jobs, func(j Job) bool { return j.is(volume, action) })
	if i < 0 {
		return nil
	}
	return &t.Jobs[i]
}

// set adds a job, or gives one a new timer: it goes on from its last run.
func (t *Table) set(volume, action, timer string, now time.Time) error {
	j := Job{Volume: volume, Action: action, Timer: timer, Created: now}
	if err := j.check(); err != nil {
		return fmt.Errorf("%w: %q on volume %q", ErrJob, clip(action), clip(volume))
	}
	if old := t.find(volume, action); old != nil {
		old.Timer, old.Paused, old.Created = timer, false, now
		return nil
	}
	if len(t.Jobs) >= MaxJobs {
		return fmt.Errorf("%w: there are %d already", ErrJob, MaxJobs)
	}
	t.Jobs = append(t.Jobs, j)
	slices.SortFunc(t.Jobs, compare)
	return nil
}
