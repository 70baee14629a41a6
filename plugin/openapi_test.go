package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fractal-lazy/plugin/control"
	"fractal-lazy/schedule"
	"fractal-lazy/volume"
)

// openAPI is what these tests read of docs/openapi.yaml: keys by their indentation, which the file keeps to.
type openAPI struct {
	calls  []string            // "GET /path"
	fields map[string][]string // schema -> its properties
	states []string
	codes  []string
}

var enum = regexp.MustCompile(`enum: \[([^\]]*)\]`)

func readOpenAPI(t *testing.T) openAPI {
	t.Helper()
	b, err := os.ReadFile("../docs/openapi.yaml")
	must(t, err)
	api := openAPI{fields: map[string][]string{}}
	var section, path, schema, part string
	for line := range strings.Lines(string(b)) {
		text := strings.TrimSpace(line)
		key, _, isKey := strings.Cut(text, ":")
		if strings.HasPrefix(text, "/") { // a path holds no colon but the last
			key = strings.TrimSuffix(text, ":")
		}
		if !isKey {
			continue
		}
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case indent == 0:
			section = key
		case section == "paths" && indent == 2:
			path = key
		case section == "paths" && indent == 4 && slices.Contains([]string{"get", "post", "put", "delete"}, key):
			api.calls = append(api.calls, strings.ToUpper(key)+" "+path)
		case section == "components" && indent == 2:
			part = key
		case section == "components" && part == "schemas" && indent == 4:
			schema = key
			api.fields[schema] = []string{}
		case section == "components" && part == "schemas" && indent == 8:
			api.fields[schema] = append(api.fields[schema], key)
			if m := enum.FindStringSubmatch(text); m != nil && schema == "Info" {
				api.states = strings.Split(m[1], ", ")
			} else if m != nil {
				api.codes = strings.Split(m[1], ", ")
			}
		}
	}
	return api
}

func TestOpenAPI_HasEveryFieldOfEveryType(t *testing.T) {
	api := readOpenAPI(t)
	for _, v := range []any{control.Version{}, control.Setting{}, control.Status{}, volume.Health{}, volume.Check{}, volume.Info{}, volume.SnapshotInfo{},
		volume.Progress{}, control.CreateRequest{}, control.MountRequest{}, control.MountResult{}, control.UnmountRequest{}, control.SnapshotRequest{},
		control.HydrateRequest{}, control.DiffRequest{}, volume.DiffResult{}, volume.Change{}, control.PurgeRequest{}, volume.PurgeResult{}, volume.PurgeDecision{}, control.RemoveSnapshotRequest{},
		control.BrowseRequest{}, control.BrowseResult{}, control.CloneRequest{}, control.RestoreRequest{}, volume.RestoreResult{}, control.VerifyRequest{},
		volume.Verification{}, volume.Damage{}, control.ReplicateRequest{}, control.ImportButtervolumeRequest{}, volume.ButterResult{}, volume.ButterVolume{}, volume.ButterJob{}, volume.Replication{}, control.SynchronizeRequest{}, volume.Synchronization{}, control.ExportRequest{}, volume.Exported{}, volume.Imported{},
		control.Schedule{}, schedule.Listed{}, schedule.Due{}, control.JobRequest{}, control.Key{}, control.Event{}} {
		typ := reflect.TypeOf(v)
		var want []string
		for _, f := range reflect.VisibleFields(typ) {
			if !f.Anonymous { // the fields of what is embedded are its own
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				want = append(want, name)
			}
		}
		if got := api.fields[typ.Name()]; !slices.Equal(got, want) {
			t.Errorf("%s has %v, the type has %v", typ.Name(), got, want)
		}
		delete(api.fields, typ.Name())
	}
	for name := range api.fields {
		t.Errorf("schema %s is no type", name)
	}
	if want := []string{volume.StateNew, volume.StateUnmounted, volume.StateFollowing, volume.StateUploading, volume.StatePreparing, volume.StateHydrating, volume.StateComplete,
		volume.StateOffline, volume.StateFenced, volume.StateLocked, volume.StateSnapshot}; !slices.Equal(api.states, want) {
		t.Errorf("states %v, want %v", api.states, want)
	}
	for _, err := range []error{volume.ErrUnknown, volume.ErrNoSnapshot, volume.ErrExists, volume.ErrName, volume.ErrOption, volume.ErrInUse, volume.ErrHeld, volume.ErrFenced,
		volume.ErrNotReady, volume.ErrBusy, volume.ErrRollback, volume.ErrNotSaved, volume.ErrArchive, schedule.ErrJob, schedule.ErrUnknownJob, control.ErrRequest, context.Canceled, errors.New("else")} {
		if code, _ := control.Classify(err); !slices.Contains(api.codes, string(code)) {
			t.Errorf("code %s of %q is missing", code, err)
		}
	}
}

var docLine = regexp.MustCompile(`(?m)^//\t(GET|POST|DELETE) +(/[^ ?\n]+)`)

func TestOpenAPI_HasTheCallsThatTheServerAnswersAndTheDocsList(t *testing.T) {
	api := readOpenAPI(t)
	doc, err := os.ReadFile("control/doc.go")
	must(t, err)
	var listed []string
	for _, m := range docLine.FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1]+" "+m[2])
	}
	slices.Sort(listed)
	slices.Sort(api.calls)
	if !slices.Equal(listed, api.calls) {
		t.Errorf("package control lists\n%s\nthe file has\n%s", strings.Join(listed, "\n"), strings.Join(api.calls, "\n"))
	}
	s := New(Options{Metrics: http.NotFoundHandler()})
	for _, call := range api.calls {
		method, path, _ := strings.Cut(call, " ")
		r, err := http.NewRequest(method, strings.ReplaceAll(path, "{name}", "db"), nil)
		must(t, err)
		if _, pattern := s.api.Handler(r); pattern != call {
			t.Errorf("%s is answered by %q", call, pattern)
		}
	}
}

func TestHealth_SaysWhatIsMissingWithItsStatus(t *testing.T) {
	n := newNetwork(t)
	x := serve(t, nil, Options{})
	get := func() (int, volume.Health) {
		hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", x.socket)
		}}}
		resp, err := hc.Get("http://plugin" + control.Prefix + "/health")
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		var h volume.Health
		must(t, json.Unmarshal(b, &h))
		return resp.StatusCode, h
	}
	x.SetFault(errors.New("no pool under /x: make one"))
	if code, h := get(); code != http.StatusServiceUnavailable || h.OK || len(h.Checks) != 1 || !strings.Contains(h.Checks[0].Detail, "make one") {
		t.Errorf("with a fault: %d, %+v", code, h)
	}
	x.SetBackend(n.manager(t))
	if code, h := get(); code != http.StatusOK || !h.OK {
		t.Errorf("with volumes: %d, %+v", code, h)
	}
}
