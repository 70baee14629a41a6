package volume

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// butterSnap is a snapshot of Buttervolume, as its name says: VOLUME@TIME, or VOLUME@TIME@HOST for what was sent to a host.
type butterSnap struct {
	name   string
	volume string
	at     time.Time
	host   string
}

// butterTime is the form of the times in those names, with or without a fraction of a second.
const butterTime = "2006-01-02T15:04:05"

// parseButterSnap reads the name of a snapshot; not ok where it holds no time.
func parseButterSnap(name string, zone *time.Location) (s butterSnap, ok bool) {
	s.name = name
	vol, rest, ok := strings.Cut(name, "@")
	if !ok {
		return s, false
	}
	at, host, _ := strings.Cut(rest, "@")
	s.volume, s.host = vol, host
	t, err := time.ParseInLocation(butterTime, at, zone)
	s.at = t
	return s, err == nil && t.Unix() > 0
}

// ButterJob is one line of Buttervolume's schedule, and what became of it.
type ButterJob struct {
	Volume string `json:"volume"` // theirs
	Action string `json:"action"` // theirs
	As     string `json:"as"`     // the action here; empty: there is none
	Timer  string `json:"timer"`
	Paused bool   `json:"paused"`
	Status string `json:"status"`
	Note   string `json:"note,omitempty"`
}

// maxButterSchedule bounds schedule.csv, in bytes.
const maxButterSchedule = 1 << 20

// readButterJobs reads a schedule.csv; where none is named, those that Buttervolume may have. One that `buttervolume scheduled pause`
// renamed counts, too, with all its jobs paused.
func readButterJobs(file, from string) ([]ButterJob, error) {
	files := []string{file}
	if file == "" {
		files = []string{filepath.Join(from, "config", "schedule.csv"), filepath.Join(from, "schedule.csv"), "/etc/buttervolume/schedule.csv"}
	}
	for _, f := range files {
		for _, name := range []string{f, f + ".disabled"} {
			b, err := readFile(name, maxButterSchedule)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("its schedule: %w", err)
			}
			jobs, err := parseButterJobs(string(b), strings.HasSuffix(name, ".disabled"))
			if err != nil {
				return nil, fmt.Errorf("%w: its schedule %s: %w", ErrOption, name, err)
			}
			return jobs, nil
		}
	}
	if file != "" {
		return nil, fmt.Errorf("%w: no schedule of Buttervolume at %s", ErrOption, file)
	}
	return nil, nil
}

// parseButterJobs reads the lines Name,Action,Timer,Active and says for each what it is here. It is a pure function.
func parseButterJobs(text string, paused bool) (jobs []ButterJob, err error) {
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord = -1
	for {
		f, err := r.Read()
		if err == io.EOF {
			return jobs, nil
		}
		if err != nil {
			return nil, err
		}
		if len(f) < 3 || len(f) > 4 {
			return nil, fmt.Errorf("line %d has %d fields, and not Name,Action,Timer,Active", len(jobs)+1, len(f))
		}
		j := ButterJob{Volume: f[0], Action: f[1], Timer: strings.TrimSpace(f[2]), Paused: paused || len(f) == 4 && f[3] == "False"}
		j.As, j.Note = butterAction(j.Action)
		jobs = append(jobs, j)
	}
}

// butterAction gives the action here that does what theirs does; empty where there is none, and the note says why. It is a pure function.
func butterAction(action string) (as, note string) {
	verb, arg, has := strings.Cut(action, ":")
	switch {
	case action == "snapshot":
		return action, ""
	case verb == "purge" && has:
		if a, b, two := strings.Cut(arg, ":"); two && a == b {
			return "purge:" + a, "the pattern " + arg + " is the old form of " + a
		}
		return action, ""
	case verb == "replicate" && has:
		return "replicate:ssh://root@" + arg, "the driver's ssh key and the host's key have to be in ROOT/ssh, and fractal-lazy has to run on " + arg + ": see docs/BUTTERVOLUME.md"
	case verb == "synchronize" && has:
		return "", "it copied files from other hosts over those of this one; here a machine that is to stand by follows the volume, with the volume's key: see docs/BUTTERVOLUME.md"
	}
	return "", "Buttervolume knows no such action either"
}

// importButterJobs schedules the jobs of the volumes that are here; names are theirs to ours. A job that is here already stays as it is.
func (m *Manager) importButterJobs(jobs []ButterJob, names map[string]string, dry bool) ([]ButterJob, error) {
	out := append([]ButterJob{}, jobs...)
	for i := range out {
		j := &out[i]
		as, here := names[j.Volume]
		j.Status = ButterLeftOut
		switch {
		case j.As == "":
		case !here:
			j.Note = "its volume was not taken over"
		case j.Timer == timerZero:
			j.Note = "it never runs"
		case dry:
			j.Status = ButterWould
		default:
			r, err := m.scheduler()
			if err != nil {
				return out, err
			}
			added, err := r.Add(as, j.As, j.Timer, j.Paused)
			switch {
			case err != nil:
				j.Note = err.Error()
			case added:
				j.Status = ButterImported
			default:
				j.Status = ButterAlready
			}
		}
	}
	return out, nil
}
