package plugin

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/volume"
)

func TestDocker_VolumeGoesThroughItsWholeLife(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})

	var activate struct{ Implements []string }
	x.mustDocker("Plugin.Activate", struct{}{}, &activate)
	if len(activate.Implements) != 1 || activate.Implements[0] != "VolumeDriver" {
		t.Errorf("activate: %+v", activate)
	}
	var caps struct{ Capabilities struct{ Scope string } }
	x.mustDocker("VolumeDriver.Capabilities", struct{}{}, &caps)
	if caps.Capabilities.Scope != "local" {
		t.Errorf("capabilities: %+v", caps)
	}

	x.mustDocker("VolumeDriver.Create", req{Name: "db", Opts: map[string]string{"compression": "none"}}, nil)
	var got struct {
		Volume struct {
			Name, Mountpoint, CreatedAt string
			Status                      map[string]any
		}
	}
	x.mustDocker("VolumeDriver.Get", req{Name: "db"}, &got)
	if got.Volume.Name != "db" || got.Volume.Mountpoint != "" {
		t.Errorf("get: %+v", got)
	}
	if _, err := time.Parse(time.RFC3339, got.Volume.CreatedAt); err != nil {
		t.Error(err)
	}

	var a, again, b, path mountReply
	x.mustDocker("VolumeDriver.Mount", req{Name: "db", ID: "one"}, &a)
	x.mustDocker("VolumeDriver.Mount", req{Name: "db", ID: "one"}, &again) // after a kill of dockerd
	x.mustDocker("VolumeDriver.Mount", req{Name: "db", ID: "two"}, &b)
	x.mustDocker("VolumeDriver.Path", req{Name: "db"}, &path)
	if a.Mountpoint == "" || a != again || a != b || a != path {
		t.Errorf("mount points %q, %q, %q, %q", a, again, b, path)
	}
	put(t, filepath.Join(a.Mountpoint, "file"), []byte("content"))

	x.mustDocker("VolumeDriver.Get", req{Name: "db"}, &got)
	st := got.Volume.Status
	for _, k := range []string{"pubkey", "state", "generation", "last_replicated", "bytes_total", "bytes_remote", "files_total", "files_remote",
		"rate", "eta_seconds", "stalled_since", "mounts", "options"} {
		if _, ok := st[k]; !ok {
			t.Errorf("status lacks %q: %v", k, st)
		}
	}
	if o, _ := st["options"].(map[string]any); o["compression"] != "none" {
		t.Errorf("status does not show the effective options: %v", st["options"])
	}
	key, err := x.client.KeyExport(context.Background(), "db")
	must(t, err)
	if b, _ := json.Marshal(got); strings.Contains(string(b), key) || strings.Contains(string(b), "privkey") {
		t.Error("status shows the private key")
	}

	wantErr(t, x.docker("VolumeDriver.Remove", req{Name: "db"}, nil), "in use")
	x.mustDocker("VolumeDriver.Unmount", req{Name: "db", ID: "unknown"}, nil)
	x.mustDocker("VolumeDriver.Unmount", req{Name: "db", ID: "two"}, nil)
	if _, err := os.Stat(filepath.Join(a.Mountpoint, "file")); err != nil {
		t.Errorf("unmounted under its other user: %v", err)
	}
	x.mustDocker("VolumeDriver.Unmount", req{Name: "db", ID: "one"}, nil)
	if _, err := os.Stat(filepath.Join(a.Mountpoint, "file")); err == nil {
		t.Error("still mounted after the last user went")
	}
	x.mustDocker("VolumeDriver.Unmount", req{Name: "gone", ID: "one"}, nil)

	var list struct{ Volumes []struct{ Name string } }
	x.mustDocker("VolumeDriver.List", struct{}{}, &list)
	if len(list.Volumes) != 1 || list.Volumes[0].Name != "db" {
		t.Errorf("list: %+v", list)
	}
	if _, err := x.client.Flush(context.Background(), "db", nil); err != nil { // Remove refuses what is not published
		t.Fatal(err)
	}
	x.mustDocker("VolumeDriver.Remove", req{Name: "db"}, nil)
	wantErr(t, x.docker("VolumeDriver.Get", req{Name: "db"}, nil), "no such volume", "db")
	x.mustDocker("VolumeDriver.List", struct{}{}, &list)
	if len(list.Volumes) != 0 {
		t.Errorf("list after remove: %+v", list)
	}
}

func TestDocker_ListWithoutVolumesIsAnEmptyArray(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})
	var raw map[string]json.RawMessage
	x.mustDocker("VolumeDriver.List", struct{}{}, &raw)
	if string(raw["Volumes"]) != "[]" { // dockerd takes null for a fault of the plugin
		t.Errorf("Volumes is %s", raw["Volumes"])
	}
}

func TestDocker_ErrorsNameWhatIsValid(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})
	wantErr(t, x.docker("VolumeDriver.Create", req{Name: "db", Opts: map[string]string{"intervall": "5s"}}, nil), `"intervall"`, "interval, chunk-size")
	wantErr(t, x.docker("VolumeDriver.Create", req{Name: "db", Opts: map[string]string{"interval": "soon"}}, nil), "interval", "interval=60s")
	wantErr(t, x.docker("VolumeDriver.Mount", req{Name: "nobody", ID: "x"}, nil), "no such volume")
	wantErr(t, x.docker("VolumeDriver.Path", req{Name: "nobody"}, nil), "no such volume")
}

func TestDocker_RefusesNamesThatArePaths(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})
	for _, name := range []string{"", "/etc", "../../evil", ".hidden", "-flag", "_x", "a/b", "a b", "a\n", "ä", strings.Repeat("x", MaxName+1)} {
		wantErr(t, x.docker("VolumeDriver.Create", req{Name: name}, nil), "not a volume name", "letters, digits")
	}
	for _, name := range []string{"a", "0", "a_b-c.d", strings.Repeat("x", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// slow is a real Manager that takes its time.
type slow struct {
	Volumes
	enter chan string   // every call that was held back
	let   chan struct{} // closed: calls go on
}

func (s slow) Create(ctx context.Context, name string, opts map[string]string) error {
	s.enter <- name
	select {
	case <-s.let:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Volumes.Create(ctx, name, opts)
}

func (s slow) Mount(ctx context.Context, name, id string) (string, error) {
	<-s.let
	return s.Volumes.Mount(ctx, name, id)
}

func TestDocker_CallThatTakesTooLongIsAnsweredAndGoesOn(t *testing.T) {
	v := slow{Volumes: newNetwork(t).manager(t), enter: make(chan string, 10), let: make(chan struct{})}
	x := serve(t, v, Options{CallLimit: 100 * time.Millisecond})
	start := time.Now()
	wantErr(t, x.docker("VolumeDriver.Create", req{Name: "db"}, nil), "preparing, try again", "in the background")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("answered after %s", took)
	}
	close(v.let)
	for end := time.Now().Add(10 * time.Second); ; {
		if x.docker("VolumeDriver.Get", req{Name: "db"}, nil) == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the call did not go on")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestServer_AnswersBeforeThereAreVolumes(t *testing.T) {
	x := serve(t, nil, Options{CallLimit: 50 * time.Millisecond})
	x.mustDocker("Plugin.Activate", struct{}{}, nil)
	x.mustDocker("VolumeDriver.Capabilities", struct{}{}, nil)
	wantErr(t, x.docker("VolumeDriver.Get", req{Name: "db"}, nil), "preparing, try again")
	wantErr(t, x.docker("VolumeDriver.List", struct{}{}, nil), "still being opened")

	x.SetFault(os.ErrPermission)
	wantErr(t, x.docker("VolumeDriver.Mount", req{Name: "db", ID: "1"}, nil), "not ready", "permission denied")
	st, err := x.client.Status(context.Background())
	must(t, err)
	if st.Ready || st.Health.OK || !strings.Contains(st.Error, "permission denied") {
		t.Errorf("status: %+v", st)
	}

	x.SetBackend(newNetwork(t).manager(t)) // mended
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		// On a busy machine it may take longer than the limit, and goes on.
		why := x.docker("VolumeDriver.Create", req{Name: "db"}, nil)
		if why == "" {
			break
		}
		if !strings.Contains(why, "preparing, try again") || time.Now().After(end) {
			t.Fatal(why)
		}
	}
}

func TestServer_CallWaitsForTheVolumesToBeOpened(t *testing.T) {
	m := newNetwork(t).manager(t)
	x := serve(t, nil, Options{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if e, err := x.ask("VolumeDriver.List", struct{}{}, nil); e != "" || err != nil {
			t.Errorf("list: %s, %v", e, err)
		}
	})
	time.Sleep(50 * time.Millisecond) // it waits; where it does not yet, the test passes all the same
	x.SetBackend(m)
	wg.Wait()
}

// broken is a real Manager with a mistake in it.
type broken struct{ Volumes }

func (b broken) Get(name string) (volume.Info, error) {
	if name == "bad" {
		panic("secret of " + name)
	}
	return b.Volumes.Get(name)
}

func (b broken) Flush(context.Context, string, func(volume.Progress)) (volume.SnapshotInfo, error) {
	panic("secret")
}

func TestServer_PanicBecomesAnErrorOfThatCall(t *testing.T) {
	x := serve(t, broken{newNetwork(t).manager(t)}, Options{})
	x.mustDocker("VolumeDriver.Create", req{Name: "good"}, nil)
	e := x.docker("VolumeDriver.Get", req{Name: "bad"}, nil)
	wantErr(t, e, "get failed by a mistake in the program")
	if strings.Contains(e, "secret") {
		t.Errorf("the panic's text was handed out: %s", e)
	}
	if _, err := x.client.Flush(context.Background(), "good", nil); err == nil || !strings.Contains(err.Error(), "flush failed by a mistake") {
		t.Errorf("flush: %v", err)
	}
	x.mustDocker("VolumeDriver.Get", req{Name: "good"}, nil)
	if log := x.log.String(); !strings.Contains(log, "driver_test.go") {
		t.Errorf("the log has no stack: %s", log)
	}
}

func TestServer_StopEndsCallsThatAreUnderWay(t *testing.T) {
	v := slow{Volumes: newNetwork(t).manager(t), enter: make(chan string, 1), let: make(chan struct{})}
	x := serve(t, v, Options{})
	answered := make(chan string, 1)
	go func() {
		e, err := x.ask("VolumeDriver.Create", req{Name: "db"}, nil)
		if err != nil {
			t.Errorf("no answer: %v", err)
		}
		answered <- e
	}()
	<-v.enter
	start := time.Now()
	must(t, x.stop())
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("stopped after %s", took)
	}
	wantErr(t, <-answered, "not ready", "stopping")
	if _, err := os.Lstat(x.socket); err == nil {
		t.Error("the socket is still there")
	}
}

func TestServer_UnknownPathIsNotFound(t *testing.T) {
	x := serve(t, newNetwork(t).manager(t), Options{})
	if code := rawStatus(t, x, "GET", "/fractal/v1/nothing"); code != http.StatusNotFound {
		t.Errorf("status %d", code)
	}
}
