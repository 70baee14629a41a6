package control

import (
	"context"
	"errors"
	"net/http"

	"fractal-lazy/schedule"
	"fractal-lazy/volume"
)

// Code names the kind of an error on the wire. Codes are stable.
type Code string

const (
	CodeUnknown   Code = "unknown_volume"
	CodeNoSnap    Code = "unknown_snapshot"
	CodeExists    Code = "exists"
	CodeName      Code = "bad_name"
	CodeOption    Code = "bad_option"
	CodeInUse     Code = "in_use"
	CodeHeld      Code = "held"
	CodeFenced    Code = "fenced"
	CodeNotReady  Code = "not_ready"
	CodeBusy      Code = "busy"
	CodeRollback  Code = "rollback"
	CodeNotSaved  Code = "not_saved"
	CodeArchive   Code = "bad_file"
	CodeJob       Code = "bad_schedule"
	CodeNoJob     Code = "unknown_job"
	CodeRequest   Code = "bad_request"
	CodeCancelled Code = "cancelled"
	CodeInternal  Code = "internal"
)

var (
	// ErrUnreachable: nothing answers on the socket, or it stopped in the middle.
	ErrUnreachable = errors.New("the daemon cannot be reached")
	// ErrRequest: the daemon did not understand the request; client and daemon are of different versions.
	ErrRequest = errors.New("bad request")
)

// kinds maps sentinel errors to codes and HTTP status, in both directions. The first that matches counts.
var kinds = []struct {
	err    error
	code   Code
	status int
}{
	{volume.ErrUnknown, CodeUnknown, http.StatusNotFound},
	{volume.ErrNoSnapshot, CodeNoSnap, http.StatusNotFound},
	{volume.ErrExists, CodeExists, http.StatusConflict},
	{volume.ErrName, CodeName, http.StatusBadRequest},
	{volume.ErrOption, CodeOption, http.StatusBadRequest},
	{volume.ErrInUse, CodeInUse, http.StatusConflict},
	{volume.ErrHeld, CodeHeld, http.StatusLocked},
	{volume.ErrFenced, CodeFenced, http.StatusLocked},
	{volume.ErrRollback, CodeRollback, http.StatusConflict},
	{volume.ErrNotSaved, CodeNotSaved, http.StatusConflict},
	{volume.ErrArchive, CodeArchive, http.StatusBadRequest},
	{volume.ErrBusy, CodeBusy, http.StatusServiceUnavailable},
	{volume.ErrNotReady, CodeNotReady, http.StatusServiceUnavailable},
	{schedule.ErrJob, CodeJob, http.StatusBadRequest},
	{schedule.ErrUnknownJob, CodeNoJob, http.StatusNotFound},
	{ErrRequest, CodeRequest, http.StatusBadRequest},
	{context.Canceled, CodeCancelled, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, CodeBusy, http.StatusServiceUnavailable},
}

// Classify returns the code and the HTTP status of err, which is not nil.
func Classify(err error) (Code, int) {
	var e *Error
	if errors.As(err, &e) {
		for _, k := range kinds {
			if k.code == e.Code {
				return k.code, k.status
			}
		}
		return e.Code, http.StatusInternalServerError
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.code, k.status
		}
	}
	return CodeInternal, http.StatusInternalServerError
}

// Error is what the daemon answered. errors.Is matches it with the sentinel of package volume that its Code stands for.
type Error struct {
	Message string
	Code    Code
}

func (e *Error) Error() string { return e.Message }

// Is tells whether target is the sentinel of e's code.
func (e *Error) Is(target error) bool {
	for _, k := range kinds {
		if k.code == e.Code && k.err == target {
			return true
		}
	}
	return false
}
