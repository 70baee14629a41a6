package failover

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fractal-lazy/seal"
	"fractal-lazy/tests/kit"
)

// spellings are the forms in which bytes could show by mistake.
func spellings(b []byte) map[string][]byte {
	list := strings.Trim(fmt.Sprint(b), "[]")
	all := map[string]string{
		"raw": string(b), "hex": hex.EncodeToString(b), "HEX": strings.ToUpper(hex.EncodeToString(b)),
		"base64": base64.RawStdEncoding.EncodeToString(b), "base64url": base64.RawURLEncoding.EncodeToString(b),
		"base32":  strings.TrimRight(base32.StdEncoding.EncodeToString(b), "="),
		"decimal": list, "decimal JSON": strings.ReplaceAll(list, " ", ","),
	}
	all["base32 lower"] = strings.ToLower(all["base32"])
	out := map[string][]byte{}
	for name, s := range all {
		out[name] = []byte(s[:len(s)*3/4]) // a part of it is too much
	}
	return out
}

// cmdlines remembers the command line of every process that names the program and lives long enough, until stop. sees tells whether one
// with this text was seen.
func cmdlines(t *testing.T) (sees func(text string) bool, stop func() []byte) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	wg.Go(func() {
		for {
			names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, n := range names {
				if b, err := os.ReadFile(n); err == nil && bytes.Contains(b, []byte("fractal-lazy")) {
					mu.Lock()
					seen[string(b)] = true
					mu.Unlock()
				}
			}
			select {
			case <-done:
				return
			case <-time.After(3 * time.Millisecond):
			}
		}
	})
	sees = func(text string) bool {
		mu.Lock()
		defer mu.Unlock()
		for s := range seen {
			if strings.Contains(s, text) {
				return true
			}
		}
		return false
	}
	return sees, func() []byte {
		close(done)
		wg.Wait()
		var all bytes.Buffer
		for s := range seen {
			all.WriteString(s + "\n")
		}
		t.Logf("%d different command lines seen", len(seen))
		return all.Bytes()
	}
}

// createSlowly gives the key to a `volume create` when its command line was seen.
func createSlowly(t *testing.T, d *device, key string, sees func(string) bool) {
	t.Helper()
	cmd := exec.Command(plainBinary, "volume", "create", "slowly", "-o", "privkey=-", "--socket", d.socket)
	in, err := cmd.StdinPipe()
	kit.Must(t, err)
	kit.Must(t, cmd.Start())
	for end := time.Now().Add(time.Minute); !sees("slowly"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("no command line of `volume create` was seen: nothing is proved")
			break
		}
	}
	_, err = in.Write([]byte(key + "\n"))
	kit.Must(t, errors.Join(err, in.Close()))
	if err := cmd.Wait(); err == nil {
		t.Error("two volumes have the same key")
	}
}

// The private key, and the secret that follows from it, are in no log, no
// answer but that of `key export`, no command line, and nothing that the Hive
// or the block store has. Neither are the token, names and contents of files.
func TestFailover_PrivateKeyNeverShows(t *testing.T) {
	w := newWorld(t)
	sees, stop := cmdlines(t)
	a := w.device("a", w.url, "--log-level", "trace")
	b := w.device("b", w.url, "--log-level", "trace")
	mount, text := a.newVolume("v")
	const name, content = "a name that nobody may learn", "contents that nobody may read"
	write(t, mount+"/"+name, strings.Repeat(content, 100))
	kit.Must(t, os.Symlink("/target that nobody may see", mount+"/link"))
	a.flush("v")
	key, err := seal.ParsePrivkey(text)
	kit.Must(t, err)
	raw, err := base64.StdEncoding.DecodeString(text)
	kit.Must(t, err)
	secret := key.RevealSecret()

	said := map[string][]byte{}
	say := func(what string, r result) { said[what] = []byte(r.out + r.errs) }
	api := func(d *device, method, path, body string) {
		said[d.name+": "+method+" "+path+" "+body[:min(len(body), 20)]] = d.ask(method, path, body)
	}
	b.create("v", hex.EncodeToString(raw)) // another form of it
	say("a mount that is refused", b.run("", "volume", "mount", "v"))
	b.cli("volume", "rm", "v")
	b.create("v", base32.StdEncoding.EncodeToString(raw), "takeover=always")
	b.mount("v")
	say("hydrate", b.run("", "hydrate", "--wait", "v"))
	say("a flush that is fenced", a.run("", "flush", "v"))
	say("the same key again", b.run(text+"\n", "volume", "create", "w", "-o", "privkey=-"))
	// Almost a key: what is wrong with it can be said without it.
	for _, broken := range []string{text[:len(text)-3], text + "x", "x" + text, hex.EncodeToString(raw) + "0", hex.EncodeToString(raw)[1:]} {
		say("broken: "+broken[len(broken)-2:], b.run(broken+"\n", "volume", "create", "x", "-o", "privkey=-"))
		say("import: "+broken[len(broken)-2:], b.run(broken+"\n", "key", "import", "x"))
		say("pubkey: "+broken[len(broken)-2:], b.run(broken+"\n", "key", "pubkey"))
	}
	say("pubkey", b.run(text+"\n", "key", "pubkey"))
	createSlowly(t, b, text, sees)
	for _, d := range []*device{a, b} {
		for _, args := range [][]string{{"volume", "inspect", "v"}, {"volume", "ls"}, {"status"}, {"snapshots", "v"}, {"snapshot", "v"}, {"flush", "v"}} {
			say(d.name+": "+strings.Join(args, " "), d.run("", args...))
			say(d.name+": "+strings.Join(args, " ")+" --json", d.run("", append(args, "--json")...))
		}
		for _, path := range []string{"/volumes", "/volumes/v", "/volumes/v/snapshots", "/status", "/version", "/volumes/none", "/"} {
			api(d, http.MethodGet, "/fractal/v1"+path, "")
		}
		api(d, http.MethodPost, "/fractal/v1/volumes", `{"name": "v", "options": {"privkey": "`+text+`", "takeover": "always"}}`)
		api(d, http.MethodPost, "/fractal/v1/volumes", `{"name": "y", "privkey": "`+text+`"}`)
		api(d, http.MethodPost, "/VolumeDriver.Create", `{"Name": "v", "Opts": {"privkey": "`+text+`"}}`)
		api(d, http.MethodPost, "/VolumeDriver.Create", `{"Name": "y", "Opts": {"privkey": "`+text[1:]+`"}}`)
		for _, call := range []string{"Get", "Path", "Mount", "Unmount"} {
			api(d, http.MethodPost, "/VolumeDriver."+call, `{"Name": "v", "ID": "docker"}`)
		}
		api(d, http.MethodPost, "/VolumeDriver.List", `{}`)
		api(d, http.MethodPost, "/VolumeDriver.Capabilities", `{}`)
		api(d, http.MethodPost, "/Plugin.Activate", `{}`)
	}
	said["command lines"] = stop()
	w.stop(a.daemon)
	w.stop(b.daemon)
	w.stop(w.hive)
	for _, l := range w.logs {
		said["log "+filepath.Base(l)], err = os.ReadFile(l)
		kit.Must(t, err)
	}
	hidden := map[string]map[string][]byte{"key": spellings(raw), "secret": spellings(secret[:]), "token": {"text": []byte(w.token)}}
	for what, b := range said {
		find(t, what, b, hidden)
	}
	if !bytes.Contains(said["a: GET /fractal/v1/volumes/v "], []byte(key.Public().String())) {
		t.Errorf("the API does not answer: %q", said["a: GET /fractal/v1/volumes/v "])
	}

	// What the Hive and the block store have.
	delete(hidden, "token")
	hidden["name"] = map[string][]byte{"text": []byte(name)}
	hidden["content"] = map[string][]byte{"text": []byte(content)}
	hidden["target"] = map[string][]byte{"text": []byte("/target that nobody may see")}
	files := 0
	kit.Must(t, filepath.WalkDir(w.path("hive"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		find(t, "what the Hive has: "+path, b, hidden)
		files++
		return err
	}))
	t.Logf("%d answers and logs, %d files of the Hive searched", len(said), files)
	// On the device the key is in one file, which is root's alone.
	for _, d := range []*device{a, b} {
		record := filepath.Join(d.root, "volumes", key.Public().String(), "volume.json")
		st, err := os.Stat(record)
		kit.Must(t, err)
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", record, st.Mode())
		}
	}
}

func find(t *testing.T, where string, in []byte, hidden map[string]map[string][]byte) {
	t.Helper()
	for what, forms := range hidden {
		for form, b := range forms {
			if bytes.Contains(in, b) {
				t.Errorf("%s shows the %s (%s)", where, what, form)
			}
		}
	}
}

// ask sends one request to the daemon's socket and returns all of the answer.
func (d *device) ask(method, path, body string) []byte {
	d.t.Helper()
	c := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", d.socket) }}}
	req, err := http.NewRequest(method, "http://daemon"+path, strings.NewReader(body))
	kit.Must(d.t, err)
	res, err := c.Do(req)
	kit.Must(d.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	kit.Must(d.t, err)
	var head bytes.Buffer
	kit.Must(d.t, res.Header.Write(&head))
	return append(append([]byte(res.Status+"\n"), head.Bytes()...), b...)
}
