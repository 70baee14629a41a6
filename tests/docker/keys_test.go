//go:build docker

package docker

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/tests/kit"
)

// The paths in a managed plugin are those inside: the state folder is all that it sees of the host.
func TestKeys_FromFilesThatThePluginSeesAndInNothingThatDockerShows(t *testing.T) {
	e := the.b
	up(t, e)
	const secret = "six words that nobody would guess"
	k := key(t)
	keys := filepath.Join(e.pool.Dir, "keys")
	kit.Must(t, os.MkdirAll(keys, 0o700))
	t.Cleanup(func() { kit.Must(t, os.RemoveAll(keys)) })
	for name, text := range map[string]string{"db.key": k, "passphrase": secret, "open.key": k} {
		kit.Must(t, os.WriteFile(filepath.Join(keys, name), []byte(text+"\n"), 0o600))
	}
	kit.Must(t, os.Chmod(filepath.Join(keys, "open.key"), 0o644))

	volume(t, e, "from-file", "privkey-file=/var/lib/fractal/keys/db.key", "interval=off")
	if got := e.cli(t, "key", "export", "from-file"); got != k {
		t.Error("another key")
	}
	sealed := e.cli(t, "key", "export", "from-file", "--passphrase-file", filepath.Join(keys, "passphrase"))
	hidden := func(v string) {
		t.Helper()
		shown := e.docker(t, "volume", "inspect", v) + e.docker(t, "volume", "ls")
		log, err := os.ReadFile(e.w.path(e.name + "-dockerd.log")) // the plugin's own log goes there, too
		kit.Must(t, err)
		ps, err := exec.Command("ps", "-efww").Output()
		kit.Must(t, err)
		for _, part := range []string{k, secret} {
			if strings.Contains(shown, part) || strings.Contains(string(log), part) || strings.Contains(string(ps), part) {
				t.Errorf("%s: a secret is shown", v)
			}
		}
	}
	hidden("from-file")
	e.forget(t, "from-file")

	volume(t, e, "from-sealed", "sealed-key="+sealed, "passphrase-file=/var/lib/fractal/keys/passphrase", "interval=off")
	if got := e.cli(t, "key", "export", "from-sealed"); got != k {
		t.Error("another key")
	}
	hidden("from-sealed")
	if _, there := e.status(t, "from-sealed")["options"].(map[string]any)["sealed-key"]; there {
		t.Error("the status echoes the sealed key")
	}
	e.forget(t, "from-sealed")

	e.refused(t, []string{"chmod 600"}, "volume", "create", "-d", pluginName, "-o", "privkey-file=/var/lib/fractal/keys/open.key", "x")
	e.refused(t, []string{"no such file"}, "volume", "create", "-d", pluginName, "-o", "privkey-file="+filepath.Join(keys, "db.key"), "x")
}
