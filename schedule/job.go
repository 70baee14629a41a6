package schedule

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Errors of this package.
var (
	// ErrJob: an action or timer that cannot be; the message says what can.
	ErrJob = errors.New("invalid schedule")
	// ErrUnknownJob: the volume has no such job.
	ErrUnknownJob = errors.New("no such scheduled job")
	// ErrDamaged: a table that this program did not write.
	ErrDamaged = errors.New("damaged schedule")
)

// Bounds of a table.
const (
	MaxJobs   = 10000
	maxAction = 512 // bytes of an action with its argument
	maxTimer  = 128 // bytes of a timer
	maxName   = 255 // bytes of a volume's name
	maxError  = 1024
)

// Job is one line of the table. Volume and Action together name it.
type Job struct {
	Volume  string    `json:"volume"`
	Action  string    `json:"action"` // with its argument: purge:4h:1d
	Timer   string    `json:"timer"`  // as given: minutes, or a cron expression
	Paused  bool      `json:"paused,omitempty"`
	Created time.Time `json:"created"` // when it was set last, or let go on
	// Ran is when the last run that did what it was to do began; zero: none did.
	Ran time.Time `json:"ran,omitzero"`
	// Tried is when the last run began, Failed how many in a row failed up to it, and Error why the last one did.
	Tried  time.Time `json:"tried,omitzero"`
	Failed int       `json:"failed,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// Verb is the action without its argument.
func (j *Job) Verb() string { v, _ := cutAction(j.Action); return v }

// Arg is the argument of the action; empty where it has none.
func (j *Job) Arg() string { _, a := cutAction(j.Action); return a }

func cutAction(action string) (verb, arg string) {
	verb, arg, _ = strings.Cut(action, ":")
	return verb, arg
}

// is reports whether j is the job of this name.
func (j *Job) is(volume, action string) bool { return j.Volume == volume && j.Action == action }

func compare(a, b Job) int {
	return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Action, b.Action))
}

// check refuses what no table may hold. Whether there is such an action is not its business: a table outlives programs.
func (j *Job) check() error {
	switch {
	case j.Volume == "" || len(j.Volume) > maxName || strings.ContainsAny(j.Volume, "/\x00\n"):
		return fmt.Errorf("%w: name of a volume", ErrDamaged)
	case j.Action == "" || len(j.Action) > maxAction || strings.ContainsAny(j.Action, "\x00\n") || !utf8.ValidString(j.Action):
		return fmt.Errorf("%w: action of volume %s", ErrDamaged, j.Volume)
	case len(j.Error) > maxError || j.Failed < 0:
		return fmt.Errorf("%w: state of %s of volume %s", ErrDamaged, j.Action, j.Volume)
	}
	if _, err := ParseTimer(j.Timer); err != nil {
		return fmt.Errorf("%w: timer of %s of volume %s", ErrDamaged, j.Action, j.Volume)
	}
	return nil
}
