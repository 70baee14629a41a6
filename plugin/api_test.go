package plugin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"fractal-lazy/plugin/control"
	"fractal-lazy/schedule"
	"fractal-lazy/volume"
)

func bg(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestControl_VolumeMovesToAnotherMachine(t *testing.T) {
	ctx, n := bg(t), newNetwork(t)
	a, b := serve(t, n.manager(t), Options{}), serve(t, n.manager(t), Options{})

	info, err := a.client.Create(ctx, "db", nil)
	must(t, err)
	if info.Name != "db" || len(info.Pubkey) != 64 || info.State != volume.StateNew {
		t.Errorf("create: %+v", info)
	}
	path, err := a.client.Mount(ctx, "db", "", nil)
	must(t, err)
	data := bytes.Repeat([]byte("content "), 1<<18)
	put(t, filepath.Join(path, "file"), data)
	snap, err := a.client.Flush(ctx, "db", nil)
	must(t, err)
	if snap.Generation == 0 || !snap.Remote || snap.Hash == "" {
		t.Errorf("flush: %+v", snap)
	}
	put(t, filepath.Join(path, "last words"), []byte("x"))
	info, err = a.client.Unmount(ctx, "db", control.UnmountRequest{Wait: true}, nil)
	must(t, err)
	if info.Mountpoint != "" || info.Generation != snap.Generation+1 || info.State != volume.StateUnmounted {
		t.Errorf("unmount that waits ended before the final upload: %+v", info)
	}
	all, err := a.client.Snapshots(ctx, "db", false)
	must(t, err)
	if len(all) < 2 || all[0].Generation != snap.Generation {
		t.Errorf("snapshots: %+v", all)
	}

	jobs, err := a.client.SetJob(ctx, control.JobRequest{Volume: "db", Action: "snapshot", Timer: "@daily"})
	must(t, err)
	if len(jobs.Jobs) != 1 || jobs.Jobs[0].Next.At.IsZero() || jobs.Paused {
		t.Errorf("schedule: %+v", jobs)
	}
	jobs, err = a.client.PauseJobs(ctx, true)
	must(t, err)
	if list, err := a.client.Schedule(ctx, "db"); err != nil || !jobs.Paused || !list.Paused || len(list.Jobs) != 1 || !list.Jobs[0].Next.At.IsZero() {
		t.Errorf("paused: %+v, %+v, %v", jobs, list, err)
	}

	key, err := a.client.KeyExport(ctx, "db")
	must(t, err)
	_, err = b.client.Create(ctx, "moved", map[string]string{"privkey": key, "prefetch": "none"})
	must(t, err)
	path, err = b.client.Mount(ctx, "moved", "", nil)
	must(t, err)
	var reports int
	info, err = b.client.Hydrate(ctx, "moved", control.HydrateRequest{Wait: true}, func(volume.Progress) { reports++ })
	must(t, err)
	if info.State != volume.StateComplete || info.BytesRemote != 0 || reports == 0 {
		t.Errorf("hydrate: %+v after %d reports", info, reports)
	}
	if got, err := get(filepath.Join(path, "file")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(filepath.Join(path, "last words")); err != nil {
		t.Error(err)
	}
	_, err = b.client.Unmount(ctx, "moved", control.UnmountRequest{Wait: true}, nil)
	must(t, err)
	must(t, b.client.Remove(ctx, "moved", false))
	if _, err := b.client.Get(ctx, "moved"); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("get after remove: %v", err)
	}
}

func TestControl_ErrorsKeepTheirKind(t *testing.T) {
	ctx, n := bg(t), newNetwork(t)
	a, b := serve(t, n.manager(t), Options{}), serve(t, n.manager(t), Options{})
	_, err := a.client.Create(ctx, "db", nil)
	must(t, err)
	_, err = a.client.Mount(ctx, "db", "", nil)
	must(t, err)
	_, err = a.client.Flush(ctx, "db", nil)
	must(t, err)
	key, err := a.client.KeyExport(ctx, "db")
	must(t, err)
	_, err = b.client.Create(ctx, "db", map[string]string{"privkey": key})
	must(t, err)

	for _, x := range []struct {
		what string
		do   func() error
		want error
		says string
	}{
		{"get", func() error { _, err := a.client.Get(ctx, "nobody"); return err }, volume.ErrUnknown, "nobody"},
		{"get of a path", func() error { _, err := a.client.Get(ctx, "../../etc"); return err }, volume.ErrName, ""},
		{"mount", func() error { _, err := a.client.Mount(ctx, "nobody", "", nil); return err }, volume.ErrUnknown, "nobody"},
		{"flush", func() error { _, err := a.client.Flush(ctx, "nobody", nil); return err }, volume.ErrUnknown, ""},
		{"create", func() error { _, err := a.client.Create(ctx, "x/y", nil); return err }, volume.ErrName, "letters, digits"},
		{"option", func() error { _, err := a.client.Create(ctx, "y", map[string]string{"x": "y"}); return err }, volume.ErrOption, "interval"},
		{"again", func() error { _, err := a.client.Create(ctx, "db", map[string]string{"interval": "7s"}); return err }, volume.ErrExists, "db"},
		{"job", func() error {
			_, err := a.client.SetJob(ctx, control.JobRequest{Volume: "db", Action: "snap", Timer: "60"})
			return err
		}, schedule.ErrJob, "snapshot"},
		{"no job", func() error {
			_, err := a.client.SetJob(ctx, control.JobRequest{Volume: "db", Action: "snapshot", Timer: "pause"})
			return err
		}, schedule.ErrUnknownJob, "scheduled"},
		{"remove", func() error { return a.client.Remove(ctx, "db", false) }, volume.ErrInUse, "db"},
		{"held", func() error { _, err := b.client.Mount(ctx, "db", "", nil); return err }, volume.ErrHeld, "takeover=always"},
		{"not mounted", func() error { _, err := b.client.Hydrate(ctx, "db", control.HydrateRequest{}, nil); return err }, volume.ErrNotReady, "not mounted"},
	} {
		if err := x.do(); !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: got %v, want %v that says %q", x.what, err, x.want, x.says)
		}
	}
}

func TestControl_RateAndPauseAreSetApart(t *testing.T) {
	ctx, n := bg(t), newNetwork(t)
	rec := &recorder{Volumes: n.manager(t)}
	x := serve(t, rec, Options{})
	_, err := x.client.Create(ctx, "db", nil)
	must(t, err)
	_, err = x.client.Mount(ctx, "db", "", nil)
	must(t, err)
	rate, yes, no := uint64(1<<20), true, false
	for _, r := range []control.HydrateRequest{{Rate: &rate}, {Pause: &yes}, {Pause: &no}} {
		_, err := x.client.Hydrate(ctx, "db", r, nil)
		must(t, err)
	}
	_, err = x.client.Unmount(ctx, "db", control.UnmountRequest{}, nil)
	must(t, err)
	_, err = x.client.Mount(ctx, "db", "", nil)
	must(t, err)
	_, err = x.client.Hydrate(ctx, "db", control.HydrateRequest{Pause: &no}, nil)
	must(t, err)
	want := []string{"false 1048576", "true 1048576", "false 1048576", "false 0"}
	if !reflect.DeepEqual(rec.set, want) {
		t.Errorf("got %v, want %v", rec.set, want)
	}
}

// recorder is a real Manager whose calls are written down.
type recorder struct {
	Volumes
	set []string
}

func (r *recorder) SetHydration(name string, paused bool, rate uint64) error {
	r.set = append(r.set, fmt.Sprint(paused, rate))
	return r.Volumes.SetHydration(name, paused, rate)
}

func TestControl_StatusShowsHealthSettingsAndVolumes(t *testing.T) {
	ctx := bg(t)
	x := serve(t, newNetwork(t).manager(t), Options{Version: control.Version{Version: "v1"}, Settings: []control.Setting{{Name: "token", Value: "(set)"}}})
	_, err := x.client.Create(ctx, "db", nil)
	must(t, err)
	st, err := x.client.Status(ctx)
	must(t, err)
	if !st.Ready || st.PID != os.Getpid() || st.Version.Version != "v1" || len(st.Settings) != 1 || len(st.Volumes) != 1 || len(st.Health.Checks) == 0 {
		t.Errorf("status: %+v", st)
	}
	v, err := x.client.Version(ctx)
	if err != nil || v.Version != "v1" {
		t.Errorf("version: %+v, %v", v, err)
	}
}

func TestControl_RefusesABodyItDoesNotUnderstand(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", x.socket)
	}}}
	for body, want := range map[string]string{
		`{"name": "db", "option": {}}`:                        "unknown field",
		`{"name": 5}`:                                         "cannot unmarshal",
		`{"name": "` + strings.Repeat("x", 5<<20) + `"}`:      "too large",
		`{"name": "db", "options": {"privkey": ["hunter2"]}}`: "cannot unmarshal",
	} {
		resp, err := hc.Post("http://x"+control.Prefix+"/volumes", "application/json", strings.NewReader(body))
		must(t, err)
		var e control.Event
		must(t, json.NewDecoder(resp.Body).Decode(&e))
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || e.Code != control.CodeRequest || !strings.Contains(e.Error, want) || strings.Contains(e.Error, "hunter2") {
			t.Errorf("%.40s: status %d, %+v", body, resp.StatusCode, e)
		}
	}
}

func TestControl_StreamThatIsCutOffIsNoSuccess(t *testing.T) {
	path := filepath.Join(shortDir(t), "x.sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	go func() { // a daemon that is killed while it uploads
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		body := `{"progress":{"phase":"uploading","done":1,"total":2}}` + "\n"
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body)
	}()
	var last volume.Progress
	_, err = control.NewClient(path).Flush(bg(t), "db", func(p volume.Progress) { last = p })
	if !errors.Is(err, control.ErrUnreachable) || last.Phase != "uploading" {
		t.Errorf("got %v after %+v", err, last)
	}
}

func TestControl_NobodyListens(t *testing.T) {
	_, err := control.NewClient(filepath.Join(shortDir(t), "none.sock")).List(bg(t))
	if !errors.Is(err, control.ErrUnreachable) || !strings.Contains(err.Error(), "fractal-lazy run") {
		t.Errorf("got %v", err)
	}
}

// The fields that scripts rely on.
func TestControl_FieldsOfInspectAreStable(t *testing.T) {
	ctx := bg(t)
	x := serve(t, newNetwork(t).manager(t), Options{})
	info, err := x.client.Create(ctx, "db", nil)
	must(t, err)
	b, err := json.Marshal(info)
	must(t, err)
	var m map[string]any
	must(t, json.Unmarshal(b, &m))
	for k, kind := range map[string]string{
		"name": "string", "pubkey": "string", "state": "string", "generation": "float64", "last_replicated": "", "bytes_total": "float64",
		"bytes_remote": "float64", "files_total": "float64", "files_remote": "float64", "mountpoint": "string", "options": "map[string]interface {}",
		"mounts": "[]interface {}", "rate": "float64", "eta_seconds": "float64", "stalled_since": "", "fenced": "bool", "paused": "bool", "created": "string",
	} {
		v, ok := m[k]
		if !ok || kind != "" && fmt.Sprintf("%T", v) != kind {
			t.Errorf("%s is %T %v, want %s", k, v, v, kind)
		}
	}
}
