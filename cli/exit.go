package cli

import (
	"context"
	"errors"
	"fmt"

	"fractal-lazy/plugin/control"
	"fractal-lazy/schedule"
	"fractal-lazy/volume"

	"github.com/spf13/cobra"
)

// Exit codes. Scripts rely on them.
const (
	ExitOK          = 0
	ExitFailure     = 1   // anything that has no code of its own
	ExitUsage       = 2   // unknown command, flag or option, bad name, bad value
	ExitUnknown     = 3   // no such volume or snapshot
	ExitHeld        = 4   // another machine holds the volume, or took it over
	ExitUnreachable = 5   // no daemon answers on the socket
	ExitNotReady    = 6   // pool, FUSE, Hive or block store is missing, or still being prepared
	ExitConflict    = 7   // exists already, or in use
	ExitProtected   = 8   // refused so that no data is lost or rolled back
	ExitDamaged     = 9   // verify found blocks missing or spoilt in the store, or import in its file
	ExitInterrupted = 130 // by SIGINT or SIGTERM
)

const exitHelp = `Exit codes: 0 done; 1 failed; 2 wrong usage, name or option; 3 no such volume or snapshot; 4 another machine holds the volume or took it over;
5 no daemon answers; 6 not ready (pool, FUSE, Hive or block store is missing); 7 exists already or in use; 8 refused, since data
would be lost or rolled back; 9 a published snapshot is damaged in the block store, or the file of an
import; 130 interrupted.`

var (
	errUsage       = errors.New("usage")
	errInterrupted = errors.New("interrupted")
	errDamaged     = errors.New("the snapshot is damaged in the block store")
	errFileExists  = errors.New("exists already")
)

// usageError is errUsage with a message of its own.
type usageError struct{ text string }

func (e usageError) Error() string        { return e.text }
func (e usageError) Is(target error) bool { return target == errUsage }

// exitStatus is the exit code of a process that has said itself what is wrong.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("ended with code %d", int(e)) }

// notPool is a state folder without BTRFS: not ready, like anything else that is missing.
type notPool struct{ error }

func (e notPool) Unwrap() error        { return e.error }
func (e notPool) Is(target error) bool { return target == volume.ErrNotReady }

// usage makes err one of usage, with a hint.
func usage(c *cobra.Command, err error) error {
	return usageError{fmt.Sprintf("%v\nTry `%s --help`.", err, c.CommandPath())}
}

// ExitCode returns the exit code for err.
func ExitCode(err error) int {
	for _, k := range []struct {
		code int
		errs []error
	}{
		{ExitOK, []error{nil}},
		{ExitInterrupted, []error{errInterrupted, context.Canceled}},
		{ExitUsage, []error{errUsage, volume.ErrName, volume.ErrOption, schedule.ErrJob, control.ErrRequest}},
		{ExitUnknown, []error{volume.ErrUnknown, volume.ErrNoSnapshot, schedule.ErrUnknownJob}},
		{ExitHeld, []error{volume.ErrHeld, volume.ErrFenced}},
		{ExitUnreachable, []error{control.ErrUnreachable}},
		{ExitConflict, []error{volume.ErrExists, volume.ErrInUse, errFileExists}},
		{ExitDamaged, []error{errDamaged, volume.ErrArchive}},
		{ExitProtected, []error{volume.ErrRollback, volume.ErrNotSaved}},
		{ExitNotReady, []error{volume.ErrNotReady, volume.ErrBusy}},
	} {
		for _, e := range k.errs {
			if errors.Is(err, e) {
				return k.code
			}
		}
	}
	return ExitFailure
}

// codeOf returns the stable name of err's kind, as in the control API.
func codeOf(err error) control.Code {
	switch {
	case errors.Is(err, errUsage):
		return "usage"
	case errors.Is(err, errDamaged):
		return "damaged"
	case errors.Is(err, errFileExists):
		return control.CodeExists
	case errors.Is(err, control.ErrUnreachable):
		return "unreachable"
	case errors.Is(err, errInterrupted):
		return control.CodeCancelled
	}
	code, _ := control.Classify(err)
	return code
}
