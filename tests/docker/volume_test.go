//go:build docker

package docker

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/tests/kit"
)

// volume makes a volume that goes with the test, whatever it holds.
func volume(t *testing.T, e *engine, name string, options ...string) {
	t.Helper()
	args := []string{"volume", "create", "-d", pluginName}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	if out := e.docker(t, append(args, name)...); out != name {
		t.Fatalf("volume create prints %q", out)
	}
	t.Cleanup(func() {
		if e.process == nil {
			return
		}
		e.forget(t, name)
	})
}

// forget removes a volume with all that it holds. Docker's own list is told as well.
func (e *engine) forget(t *testing.T, name string) {
	t.Helper()
	cmd := exec.Command(e.w.binary, "volume", "rm", "--force", name, "--socket", e.socket(t))
	if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "no such volume") {
		t.Errorf("volume rm --force %s: %v: %s", name, err, out)
	}
	_, _ = e.try("volume", "rm", "-f", name) // it knows it only where it was asked for it
}

// key makes a private key.
func key(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(the.binary, "key", "generate").Output()
	kit.Must(t, err)
	return strings.TrimSpace(string(out))
}

func TestVolume_OptionsAreEffectiveAndShownWithoutTheKey(t *testing.T) {
	e := the.a
	up(t, e)
	k := key(t)
	volume(t, e, "opts", "privkey="+k, "interval=90s", "chunk-size=64KiB", "compression=none", "size=1GiB", "takeover=always")
	text := e.docker(t, "volume", "inspect", "opts")
	var all []struct {
		Driver, Mountpoint, CreatedAt string
		Options                       map[string]string
		Status                        map[string]any
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	v := all[0]
	options, _ := v.Status["options"].(map[string]any)
	for name, want := range map[string]string{"interval": "1m30s", "chunk-size": "64 KiB", "compression": "none", "size": "1073741824",
		"takeover": "always", "nocow": "false", "prefetch": "all"} {
		if options[name] != want {
			t.Errorf("option %s is %v, want %s", name, options[name], want)
		}
	}
	if v.Status["state"] != "new" || v.CreatedAt == "" || len(v.Status["pubkey"].(string)) != 64 {
		t.Errorf("inspect: %s", text)
	}
	// Docker itself shows the options that it was given, the key among them: docs/DOCKER.md says how to keep it from there.
	status, err := json.Marshal(v.Status)
	kit.Must(t, err)
	if strings.Contains(string(status), k) {
		t.Error("Status shows the key")
	}
	if out := e.docker(t, "volume", "ls", "-q", "--filter", "driver="+pluginName+":latest"); !strings.Contains(out, "opts") {
		t.Errorf("volume ls: %q", out)
	}
}

func TestVolume_BadOptionsAndNamesAreRefusedWithTheGoodOnes(t *testing.T) {
	e := the.a
	up(t, e)
	create := func(name string, options ...string) []string {
		args := []string{"volume", "create", "-d", pluginName}
		for _, o := range options {
			args = append(args, "-o", o)
		}
		return append(args, name)
	}
	e.refused(t, []string{`"chunksize" is not one of`, "chunk-size", "privkey", "takeover", "example: -o interval=60s"}, create("bad", "chunksize=1")...)
	e.refused(t, []string{"chunk-size", "64KiB, 128KiB, 256KiB or 512KiB"}, create("bad", "chunk-size=3MiB")...)
	e.refused(t, []string{"interval", "5s or more, or off", "example"}, create("bad", "interval=1s")...)
	e.refused(t, []string{"takeover", "released or always"}, create("bad", "takeover=yes")...)
	e.refused(t, []string{"snapshot", "needs the key"}, create("bad", "snapshot=3")...)
	const secret = "c2VjcmV0IHRoYXQgaXMgbm8ga2V5"
	out, err := e.try(create("bad", "privkey="+secret)...)
	if err == nil || strings.Contains(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "privkey="+secret, ""), out), secret) {
		t.Errorf("a bad key is not refused, or repeated: %v", err)
	}
	// Docker passes these on, as names of its own volumes as well as of mounts.
	for _, name := range []string{"/abs", "../../evil", "a/b", ".hidden", "-dash", "bl ank", strings.Repeat("n", 129)} {
		body, err := json.Marshal(map[string]any{"Name": name, "Driver": pluginName})
		kit.Must(t, err)
		out, err := exec.Command("curl", "-sS", "--unix-socket", e.path("docker.sock"), "-H", "Content-Type: application/json", "-d", string(body),
			"http://docker/v1.41/volumes/create").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "not a volume name") && !strings.Contains(string(out), "invalid") {
			t.Errorf("name %q: %v, %s", name, err, out)
		}
	}
	if out := e.docker(t, "volume", "ls", "-q"); strings.Contains(out, "bad") || strings.Contains(out, "evil") {
		t.Errorf("volumes are left: %q", out)
	}
	if _, err := os.Stat(filepath.Join(e.dir, "evil")); err == nil {
		t.Error("a folder outside of the pool was made")
	}
}

func TestVolume_TheSameCreateAgainIsNoErrorAndAnotherIs(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "twice", "interval=off")
	if out := e.docker(t, "volume", "create", "-d", pluginName, "-o", "interval=off", "twice"); out != "twice" {
		t.Errorf("the same again: %q", out)
	}
	e.refused(t, []string{"volume name must be unique"}, "volume", "create", "-d", "local", "twice")
}

func TestVolume_RemoveRefusesWhatIsInUseAndWhatIsOnlyHere(t *testing.T) {
	e := the.a
	up(t, e)
	volume(t, e, "removed", "interval=off")
	id := e.docker(t, "run", "-d", "--network", "none", "-v", "removed:/data", "busybox", "sh", "-c", "echo kept >/data/f; sync; exec sleep 600")
	e.refused(t, []string{"in use"}, "volume", "rm", "removed")
	e.docker(t, "rm", "-f", id)
	// The final upload is under way, or done; both are right, and what is not published is not removed.
	e.state(t, "removed", "unmounted")
	st := e.status(t, "removed")
	if st["generation"].(float64) < 1 || st["last_replicated"] == nil {
		t.Errorf("after the last container went: %v", st)
	}
	e.docker(t, "volume", "rm", "removed")
	if out := e.docker(t, "volume", "ls", "-q"); strings.Contains(out, "removed") {
		t.Errorf("volume ls: %q", out)
	}
	e.refused(t, []string{"No such volume"}, "volume", "inspect", "removed")
}

func TestVolume_RemoveRefusesWhatWasNeverUploaded(t *testing.T) {
	e := the.b
	up(t, e)
	// A Hive of its own, which goes away before the last upload.
	h, err := the.startHive("7071", "hive-gone")
	kit.Must(t, err)
	url := "http://" + hiveIP + ":7071"
	e.docker(t, "plugin", "disable", pluginName)
	e.docker(t, "plugin", "set", pluginName, "FRACTAL_HIVE="+url, "FRACTAL_IPFS="+url)
	e.docker(t, "plugin", "enable", pluginName)
	defer func() {
		e.docker(t, "plugin", "disable", "-f", pluginName)
		e.docker(t, e.settings()...)
		e.docker(t, "plugin", "enable", pluginName)
		e.forget(t, "only")
	}()
	e.docker(t, "volume", "create", "-d", pluginName, "-o", "interval=off", "only")
	id := e.docker(t, "run", "-d", "--network", "none", "-v", "only:/data", "busybox", "sh", "-c", "echo precious >/data/f; sync; exec sleep 600")
	h.Kill9()
	e.docker(t, "rm", "-f", id)
	e.refused(t, []string{"data exists only here", "--force"}, "volume", "rm", "only")
	if st := e.status(t, "only"); st["state"] != "uploading" {
		t.Errorf("state %v", st["state"])
	}
	// It is still there for the next container, without a Hive.
	if out := e.run(t, []string{"-v", "only:/data"}, "cat /data/f"); out != "precious" {
		t.Errorf("read %q", out)
	}
	out := e.cli(t, "volume", "rm", "--force", "only")
	if out != "only" {
		t.Errorf("rm --force: %q", out)
	}
	eventually(t, 20e9, func() error { // the trash is emptied
		left, err := os.ReadDir(filepath.Join(e.pool.Dir, "trash"))
		if err == nil && len(left) > 0 {
			err = os.ErrExist
		}
		return err
	})
}
