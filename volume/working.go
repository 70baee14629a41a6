package volume

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/replica"
	"fractal-lazy/snapshot/wire"
)

// The working set of a volume is what applications need when they begin to work with it: the files that are opened in the first while after a mount, and of the
// large ones what is read of them while they are served from here. It goes with the snapshots that are published from then on (replica.Working), so
// that a machine that takes the volume over fetches it before anybody asks (lazy/foresee.go).
const (
	// recordFor is how long after the first file is opened the working set is recorded.
	recordFor = 30 * time.Second
	// keepAgain is the pause before a recording that cannot be kept yet is tried again.
	keepAgain = 5 * time.Second
	// Bounds of working.json: files, parts of one (more count as one), bytes.
	maxUsedFiles = 4096
	maxUsedParts = 64
	maxWorking   = 1 << 20
)

// recordWorking keeps the working set of a mount once it is known. It ends with ctx, and then keeps nothing.
func (m *Manager) recordWorking(ctx context.Context, v *vol, tree *backing.Tree, r *recorder) {
	defer r.over.Store(true)
	select {
	case <-r.first:
	case <-ctx.Done():
		return
	}
	if !pause(ctx, m.record) {
		return
	}
	w := replica.Working{Files: r.end(tree)}
	info, err := backing.Info(v.data())
	if err == nil && len(w.Files) > 0 {
		w.Subvolume = info.UUID
		for kept := false; !kept && err == nil; {
			if kept, err = m.keepWorking(ctx, v, &w); !kept && !pause(ctx, keepAgain) {
				return
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		m.logger(v, "record").Warn().Err(err).Msg("what the application needs first is not recorded")
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// keepWorking writes working.json, unless a snapshot waits for its upload: a kill in the middle of that upload must find the same working set when it goes on, or
// the manifest would be another one than the Hive may have by then.
func (m *Manager) keepWorking(ctx context.Context, v *vol, w *replica.Working) (kept bool, err error) {
	if err := v.enter(ctx, stepSnapshot); err != nil {
		return false, err
	}
	defer v.leave()
	if v.record().pending() != nil {
		return false, nil
	}
	b, err := encodeWorking(w)
	if err != nil {
		return false, err
	}
	if was, err := readFile(v.workingFile(), maxWorking); err == nil && bytes.Equal(was, b) {
		return true, nil
	}
	if err := writeFile(v.workingFile(), b); err != nil {
		return false, err
	}
	m.logger(v, "record").Debug().Int("files", len(w.Files)).Msg("what the application needed first is recorded")
	return true, nil
}

func (v *vol) workingFile() string { return filepath.Join(v.dir, "working.json") }

// working is what was kept last; nil: nothing that is of use.
func (v *vol) working() *replica.Working {
	b, err := readFile(v.workingFile(), maxWorking)
	if err != nil {
		return nil
	}
	w, err := decodeWorking(b)
	if err != nil { // the next recording replaces it
		return nil
	}
	return w
}

// workingRecord is working.json.
type workingRecord struct {
	Version   int        `json:"version"`
	Subvolume string     `json:"subvolume"` // UUID, as hex
	Files     []usedFile `json:"files"`
}

type usedFile struct {
	Ino  uint64      `json:"ino"`
	Data [][2]uint64 `json:"data,omitempty"` // offset and length, in bytes; none: all of it
}

func encodeWorking(w *replica.Working) ([]byte, error) {
	r := workingRecord{Version: 1, Subvolume: hex.EncodeToString(w.Subvolume[:])}
	for _, u := range w.Files {
		f := usedFile{Ino: u.Ino}
		for _, d := range u.Data {
			f.Data = append(f.Data, [2]uint64{d.Off, d.Len})
		}
		r.Files = append(r.Files, f)
	}
	b, err := json.Marshal(r)
	for err == nil && len(b) >= maxWorking { // the last ones are needed least
		r.Files = r.Files[:len(r.Files)/2]
		b, err = json.Marshal(r)
	}
	return append(b, '\n'), err
}

func decodeWorking(b []byte) (*replica.Working, error) {
	var r workingRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("working set: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("working set: something follows it")
	}
	id, err := hex.DecodeString(r.Subvolume)
	switch {
	case r.Version != 1:
		return nil, fmt.Errorf("working set of version %d, want 1", r.Version)
	case err != nil || len(id) != 16:
		return nil, fmt.Errorf("working set of subvolume %q, want 32 hexadecimal digits", clip(r.Subvolume))
	case len(r.Files) > maxUsedFiles:
		return nil, fmt.Errorf("working set of %d files, want at most %d", len(r.Files), maxUsedFiles)
	}
	w := &replica.Working{Subvolume: [16]byte(id)}
	for _, f := range r.Files {
		u := replica.Used{Ino: f.Ino}
		if len(f.Data) > maxUsedParts {
			return nil, fmt.Errorf("working set: %d parts of inode %d, want at most %d", len(f.Data), f.Ino, maxUsedParts)
		}
		end := uint64(0)
		for _, p := range f.Data {
			if p[0] < end || p[0] > wire.MaxFileSize || p[1] == 0 || p[1] > wire.MaxFileSize {
				return nil, fmt.Errorf("working set: part %v of inode %d", p, f.Ino)
			}
			end = p[0] + p[1]
			u.Data = append(u.Data, wire.Range{Off: p[0], Len: p[1]})
		}
		w.Files = append(w.Files, u)
	}
	return w, nil
}
