package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fractal-lazy/config"
	"fractal-lazy/plugin/control"
	"fractal-lazy/volume"

	"github.com/google/uuid"
)

func TestCommands_VolumeFailsOverToAnotherDevice(t *testing.T) {
	url, token := startHive(t), newToken()
	backend := []string{"--hive", url, "--ipfs", url, "--token", token, "--interval", "off"}
	a, b := startDevice(t, nil, backend...), startDevice(t, nil, backend...)

	a.run("volume", "create", "db", "-o", "chunk-size=64KiB").want(t, ExitOK)
	lines := strings.Split(strings.TrimSpace(a.run("volume", "mount", "db").want(t, ExitOK).out), "\n")
	path := lines[len(lines)-1]
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("before"), 0o644))
	if s := decode[volume.SnapshotInfo](t, a.run("flush", "db", "--json").want(t, ExitOK)); !s.Remote || s.Generation == 0 {
		t.Errorf("flush: %+v", s)
	}
	a.run("flush", "db").want(t, ExitOK, "nothing changed since generation")
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("after"), 0o644))
	a.run("snapshot", "--wait", "db").want(t, ExitOK, "published")
	if all := decode[[]volume.SnapshotInfo](t, a.run("snapshots", "db", "--json").want(t, ExitOK)); len(all) != 2 {
		t.Errorf("snapshots: %+v", all)
	}
	a.run("snapshots", "db").want(t, ExitOK, "GENERATION", "network", "both")
	info := decode[volume.Info](t, a.run("volume", "inspect", "db", "--json").want(t, ExitOK))
	if info.State != volume.StateComplete || info.Mountpoint != path || info.Options["chunk-size"] != "64 KiB" || info.LastReplicated == nil {
		t.Errorf("inspect: %+v", info)
	}
	key := a.run("key", "export", "db").want(t, ExitOK).out
	pub := run(nil, strings.NewReader(key), "key", "pubkey").want(t, ExitOK).out
	if strings.TrimSpace(pub) != info.Pubkey {
		t.Errorf("pubkey %q, inspect has %q", pub, info.Pubkey)
	}
	for _, args := range [][]string{{"volume", "ls"}, {"volume", "ls", "--json"}, {"volume", "inspect", "db"}, {"status"}, {"status", "--json"}} {
		r := a.run(args...).want(t, ExitOK, "db")
		if strings.Contains(r.out+r.err, strings.TrimSpace(key)) || strings.Contains(r.out+r.err, token) {
			t.Errorf("%v shows a secret", args)
		}
	}

	r := run(map[string]string{"FRACTAL_SOCKET": b.socket}, strings.NewReader(key), "key", "import", "db", "-o", "prefetch=none").want(t, ExitOK, "db")
	if strings.Contains(r.out+r.err, strings.TrimSpace(key)) {
		t.Error("import shows the key")
	}
	b.run("volume", "mount", "db").want(t, ExitHeld, "another machine holds", "takeover=always")
	a.run("volume", "umount", "db").want(t, ExitOK) // waits, so B need not
	path = strings.TrimSpace(b.run("volume", "mount", "db").want(t, ExitOK).out)
	if got, err := os.ReadFile(filepath.Join(path, "file")); string(got) != "after" {
		t.Errorf("B reads %q, %v", got, err)
	}
	b.run("hydrate", "--rate", "1GiB", "db").want(t, ExitOK)
	b.run("hydrate", "--wait", "db").want(t, ExitOK, "db is complete")
	b.run("volume", "rm", "db").want(t, ExitConflict, "in use")
	b.run("volume", "umount", "db").want(t, ExitOK)
	b.run("volume", "rm", "db").want(t, ExitOK)
	b.run("volume", "inspect", "db").want(t, ExitUnknown, "no such volume")
	b.run("volume", "rm", "db", "--json").want(t, ExitUnknown)
	if names := b.run("volume", "ls", "-q").want(t, ExitOK).out; names != "" {
		t.Errorf("left: %q", names)
	}
}

func TestCommands_ExitCodesTellWhatFailed(t *testing.T) {
	url := startHive(t)
	d := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", newToken(), "--interval", "off")
	d.run("volume", "create", "../x").want(t, ExitUsage, "letters, digits")
	d.run("volume", "create", "x", "-o", "colour=red").want(t, ExitUsage, "interval")
	d.run("volume", "create", "x").want(t, ExitOK)
	d.run("volume", "create", "x", "-o", "size=1GiB").want(t, ExitConflict)
	d.run("volume", "create", "y", "-o", "snapshot=7").want(t, ExitUsage)
	d.run("hydrate", "x").want(t, ExitNotReady, "not mounted")
	path := strings.TrimSpace(d.run("volume", "mount", "x").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("x"), 0o644))
	d.run("volume", "umount", "--no-wait", "x").want(t, ExitOK)
	d.run("status", "--check").want(t, ExitOK)
	for _, c := range [][]string{{"flush", "no"}, {"snapshot", "no"}, {"snapshots", "no"}, {"hydrate", "no"}, {"volume", "mount", "no"}, {"volume", "umount", "no"}, {"key", "export", "no"}} {
		d.run(c...).want(t, ExitUnknown, "no such volume")
	}
}

func TestRun_WithoutBackendSaysWhatIsMissing(t *testing.T) {
	d := startDevice(t, nil)
	d.run("status", "--check").want(t, ExitNotReady, "hive", "MISSING")
	d.run("volume", "create", "db").want(t, ExitOK)
	d.run("volume", "rm", "db").want(t, ExitOK)
}

func TestRun_ListensWithFaultySettingsAndStartsOnceTheyAreMended(t *testing.T) {
	d := startDevice(t, []string{"FRACTAL_HIVE=http://127.0.0.1:9"}) // without a token
	d.run("volume", "ls").want(t, ExitNotReady, "setting token", "FRACTAL_TOKEN")
	d.run("status").want(t, ExitOK, "setting token")
	must(t, os.WriteFile(filepath.Join(d.root, config.FileName), []byte(`{"token": "`+newToken()+`"}`), 0o600))
	eventually(t, "the mended file is read", func() bool { return d.run("volume", "ls").code == ExitOK })
	st := decode[control.Status](t, d.run("status", "--json").want(t, ExitOK))
	for _, s := range st.Settings {
		if s.Name == "token" && (s.Value != "(set)" || s.Source != "file "+filepath.Join(d.root, config.FileName)) {
			t.Errorf("token is shown as %+v", s)
		}
	}
}

func TestRun_SigtermUnmountsAndRemovesTheSocket(t *testing.T) {
	url, token := startHive(t), newToken()
	d := startDevice(t, nil, "--hive", url, "--ipfs", url, "--token", token, "--interval", "off")
	d.run("volume", "create", "db").want(t, ExitOK)
	path := strings.TrimSpace(d.run("volume", "mount", "db").want(t, ExitOK).out)
	must(t, os.WriteFile(filepath.Join(path, "file"), []byte("x"), 0o644))
	if code := d.term(); code != ExitOK {
		t.Errorf("exit code %d: %s", code, d.stderr())
	}
	if _, err := os.Lstat(d.socket); err == nil {
		t.Error("the socket is still there")
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), path) {
		t.Error("still mounted")
	}
	d.run("volume", "ls").want(t, ExitUnreachable)

	// The last change was published before the end.
	key, err := os.ReadDir(filepath.Join(d.root, "volumes"))
	must(t, err)
	r, err := http.NewRequest("GET", url+"/api/v1/volume/"+key[0].Name()+"/snapshots", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	must(t, err)
	defer resp.Body.Close()
	var body [4096]byte
	n, _ := resp.Body.Read(body[:])
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body[:n])) == "[]" {
		t.Errorf("status %d, snapshots %s", resp.StatusCode, body[:n])
	}
}

func TestRun_SecondDaemonOnTheSocketIsRefused(t *testing.T) {
	d := startDevice(t, nil)
	cmd := exec.Command(os.Args[0], "run", "--root", d.root+"2", "--socket", d.socket)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != ExitFailure || !strings.Contains(string(out), "another daemon listens") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestHive_ListensOnLoopbackAloneWithoutTokens(t *testing.T) {
	for listen, ok := range map[string]bool{
		"127.0.0.1:7070": true, "localhost:7070": true, "[::1]:7070": true, "127.9.9.9:0": true,
		"0.0.0.0:7070": false, ":7070": false, "[::]:7070": false, "192.0.2.1:7070": false, "hive.example.org:80": false, "7070": false,
	} {
		if err := checkLoopback(listen); (err == nil) != ok {
			t.Errorf("%s: %v", listen, err)
		}
	}
	run(nil, nil, "hive", "--listen", "0.0.0.0:0", "--data", t.TempDir()).want(t, ExitUsage, "--tokens")
}

func TestHive_BothHalvesAskForTheToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(file, []byte("# ours\nright "+uuid.NewString()+"\n"), 0o600))
	url := startHive(t, "--tokens", file)
	for _, x := range []struct {
		method, path, token string
		want                []int
	}{
		{"GET", "/health", "", []int{200}},
		{"GET", "/api/v1/volume/" + strings.Repeat("a", 64), "wrong", []int{401, 403}},
		{"GET", "/api/v1/volume/" + strings.Repeat("a", 64), newToken(), []int{401, 403}},
		{"GET", "/api/v1/volume/" + strings.Repeat("a", 64), "right", []int{404}},
		{"POST", "/api/v0/pin/ls", "", []int{401, 403}},
		{"POST", "/api/v0/pin/ls", "wrong", []int{401, 403}},
		{"POST", "/api/v0/pin/ls", "right", []int{200}},
		{"GET", "/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku?format=raw", "", []int{200, 404}}, // the gateway is open
		{"GET", "/nothing", "right", []int{404}},
	} {
		r, err := http.NewRequest(x.method, url+x.path, nil)
		must(t, err)
		if x.token != "" {
			r.Header.Set("Authorization", "Bearer "+x.token)
		}
		resp, err := http.DefaultClient.Do(r)
		must(t, err)
		resp.Body.Close()
		ok := false
		for _, w := range x.want {
			ok = ok || resp.StatusCode == w
		}
		if !ok {
			t.Errorf("%s %s with token %q: %s", x.method, x.path, x.token, resp.Status)
		}
	}
}

func TestUnstalled_CutsABodyThatStopsAndNotAHandlerThatWorks(t *testing.T) {
	const limit = 100 * time.Millisecond
	seen := make(chan error, 1)
	srv := httptest.NewServer(unstalled(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b [16]byte
		for {
			if _, err := r.Body.Read(b[:]); err != nil {
				if err.Error() == "EOF" {
					time.Sleep(3 * limit) // a long fsync
					err = r.Context().Err()
				}
				seen <- err
				break
			}
		}
		fmt.Fprint(w, "done")
	}), limit))
	defer srv.Close()

	resp, err := http.Post(srv.URL, "text/plain", strings.NewReader("whole"))
	must(t, err)
	resp.Body.Close()
	if err := <-seen; err != nil {
		t.Errorf("a handler that works was cancelled: %v", err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pr, pw, err := os.Pipe()
	must(t, err)
	defer pw.Close()
	defer pr.Close()
	fmt.Fprint(pw, "half")
	r, err := http.NewRequestWithContext(ctx, "POST", srv.URL, pr)
	must(t, err)
	go func() {
		if resp, err := http.DefaultClient.Do(r); err == nil {
			resp.Body.Close()
		}
	}()
	select {
	case err := <-seen:
		if err == nil {
			t.Error("half a body counted as whole")
		}
	case <-ctx.Done():
		t.Error("a body that stopped was waited for")
	}
}

func TestProgress_LabelHasRateAndRemainingTime(t *testing.T) {
	for want, p := range map[string]volume.Progress{
		"waiting":                   {Phase: "waiting"},
		"upload 4.0 MiB, 2.0 MiB/s": {Phase: "upload", Done: 4 << 20, Rate: 2 << 20},
		"fetching 5.0 MiB of 10 MiB, 1.0 MiB/s, 5s left":    {Phase: "fetching", Rate: 1 << 20, Done: 5 << 20, Total: 10 << 20},
		"fetching 5.0 MiB of 10 MiB, 1.0 MiB/s, 1m30s left": {Phase: "fetching", Rate: 1 << 20, Done: 5 << 20, Total: 10 << 20, ETASeconds: 90},
		"stalled: the store does not ...":                   {Phase: "stalled: the store does not ..."},
	} {
		if got := label(p); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
