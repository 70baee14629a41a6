package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func env(vars map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
}

func write(t *testing.T, dir, text string) string {
	t.Helper()
	file := filepath.Join(dir, FileName)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoad_WithoutSourcesHasTheDefaults(t *testing.T) {
	c, err := Load(Sources{File: write(t, t.TempDir(), "{}")})
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/var/lib/fractal" || c.Socket != "/run/docker/plugins/fractal-lazy.sock" || c.Interval != time.Minute ||
		c.LogLevel != zerolog.InfoLevel || c.LogFormat != "auto" || c.MountsDir() != "/var/lib/fractal/mnt" || !c.Token.IsZero() {
		t.Errorf("got %+v", c)
	}
}

func TestLoad_TakesTheFirstSourceThatHasAValue(t *testing.T) {
	root := t.TempDir()
	file := write(t, root, `{"hive": "http://file", "ipfs": "http://file", "gateway": "http://file", "token": "file", "interval": "3s"}`)
	c, err := Load(Sources{
		Flags: map[string]string{"root": root, "hive": "http://flag/"},
		Env:   env(map[string]string{"FRACTAL_ROOT": "/elsewhere", "FRACTAL_HIVE": "http://env", "FRACTAL_IPFS": "http://env", "FRACTAL_GATEWAY": ""}),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ name, value, want, source string }{
		{"root", c.Root, root, "flag --root"},
		{"hive", c.Hive, "http://flag", "flag --hive"},
		{"ipfs", c.IPFS, "http://env", "environment FRACTAL_IPFS"},
		{"gateway", c.Gateway, "http://file", "file " + file}, // an empty variable is none
		{"token", c.Token.Reveal(), "file", "file " + file},
		{"interval", c.Interval.String(), "3s", "file " + file},
		{"log-level", c.LogLevel.String(), "info", "default"},
	} {
		if x.value != x.want || c.Source(x.name) != x.source {
			t.Errorf("%s = %q from %q, want %q from %q", x.name, x.value, c.Source(x.name), x.want, x.source)
		}
	}
}

func TestLoad_NamesSettingSourceAndExampleOfEveryFault(t *testing.T) {
	for _, x := range []struct {
		name, value string
		says        string // "" : the value is good
	}{
		{"root", "relative", `"relative" is not an absolute path`},
		{"root", "/a/../b", ""},
		{"socket", "/" + strings.Repeat("x", 120), "at most 103 bytes"},
		{"socket", "x.sock", "not an absolute path"},
		{"mounts", "mnt", "not an absolute path"},
		{"hive", "hive.example.org", "is not an http or https URL"},
		{"hive", "ftp://x", "is not an http or https URL"},
		{"hive", "http://user:hunter2@x", "must not hold a user or a password"},
		{"hive", "http://x?token=hunter2", "has a query or"},
		{"ipfs", "http://[::1", "is not a URL"},
		{"gateway", "", "is not an http or https URL"},
		{"token", " ", "is empty"},
		{"token", "hunter2\nX-Evil: 1", "no HTTP header can carry"},
		{"token", strings.Repeat("hunter2", 1000), "longer than 4096 bytes"},
		{"token", "@/does/not/exist", "no such file or directory; of the host a managed plugin sees its state folder alone"},
		{"interval", "soon", `"soon" is not a duration`},
		{"interval", "60ms", "60ms is shorter than 1s"},
		{"interval", "-5s", "shorter than"},
		{"interval", "90", ""},
		{"interval", "off", ""},
		{"metrics", "127.0.0.1:9477", ""},
		{"metrics", "[::1]:9477", ""},
		{"metrics", "off", ""},
		{"metrics", "0.0.0.0:9477", "can be reached by others"},
		{"metrics", "192.0.2.1:9477", "say open:192.0.2.1:9477"},
		{"metrics", "localhost:9477", "can be reached by others"},
		{"metrics", "open:0.0.0.0:9477", ""},
		{"metrics", "open:9477", "is not of the form"},
		{"metrics", "open:host:9477", "has no IP address"},
		{"metrics", "127.0.0.1:0", "has no port"},
		{"passphrase-file", "passphrase", "is not an absolute path"},
		{"seal-keys", "maybe", "is none of on, off"},
		{"log-level", "loud", `"loud" is none of trace, debug`},
		{"log-level", "DEBUG", ""},
		{"log-format", "xml", "is none of auto, json, text"},
	} {
		t.Run(x.name+"="+x.value[:min(len(x.value), 20)], func(t *testing.T) {
			c, err := Load(Sources{Flags: map[string]string{x.name: x.value}, File: write(t, t.TempDir(), "{}")})
			if x.says == "" {
				if err != nil && !strings.Contains(err.Error(), "is missing") {
					t.Fatal(err)
				}
				return
			}
			var faults Faults
			if !errors.As(err, &faults) || len(faults) != 1 {
				t.Fatalf("got %v", err)
			}
			for _, part := range []string{"setting " + x.name, "flag --" + x.name, x.says, "for example --" + x.name} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %s", err)
			}
			if !faults.FromFlag() {
				t.Error("a flag's fault does not count as one")
			}
			if c.Root == "" || c.Socket == "" || c.Interval == 0 {
				t.Errorf("the Config is not whole: %+v", c)
			}
		})
	}
}

func TestLoad_RefusesAFileThatIsNotStrictlyRight(t *testing.T) {
	for _, x := range []struct{ text, says string }{
		{`{"hiev": "http://x"}`, `unknown key "hiev"; known are socket,`},
		{`{"hive": "http://x", "hive": "http://y"}`, `key "hive" twice`},
		{`{"token": 12345}`, `key "token" is not a string`},
		{`{"interval": {"seconds": "5"}}`, `key "interval" is not a string`},
		{`{"root": "/x"}`, "cannot stand in a file under the root"},
		{`{"hive": "http://x"} {}`, "something behind the object"},
		{`["hive"]`, "not a JSON object"},
		{``, "not a JSON object"},
		{`{"token": "hunter2`, "not JSON"},
		{`{"token": "hunter2"`, "ends within the object"},
		{strings.Repeat(" ", maxFile+1), "longer than 65536 bytes"},
	} {
		root := t.TempDir()
		file := write(t, root, x.text)
		_, err := Load(Sources{Flags: map[string]string{"root": root}})
		if err == nil || !strings.Contains(err.Error(), x.says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%.30q: got %v, want %q", x.text, err, x.says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a secret: %s", err)
		}
	}
}

func TestLoad_WithoutFileIsFineUnlessItWasNamed(t *testing.T) {
	root := t.TempDir()
	if _, err := Load(Sources{Flags: map[string]string{"root": root}}); err != nil {
		t.Error(err)
	}
	if _, err := Load(Sources{File: filepath.Join(root, "other.json")}); err == nil {
		t.Error("a file that was named and is missing was accepted")
	}
}

func TestLoad_WarnsOfATokenThatOthersCanRead(t *testing.T) {
	root := t.TempDir()
	file := write(t, root, `{"token": "hunter2"}`)
	for mode, warns := range map[os.FileMode]bool{0o600: false, 0o640: true, 0o644: true} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Sources{Flags: map[string]string{"root": root}})
		if err != nil {
			t.Fatal(err)
		}
		if warned := len(c.Warnings) > 0; warned != warns {
			t.Errorf("mode %v: warned %v", mode, warned)
		}
	}
}

func TestLoad_ReadsATokenFromItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Sources{Env: env(map[string]string{"FRACTAL_TOKEN": "@" + file})})
	if err != nil || c.Token.Reveal() != "hunter2" {
		t.Errorf("got %q, %v", c.Token.Reveal(), err)
	}
}

func TestValidate_FindsWhatNoSingleSettingTells(t *testing.T) {
	for _, x := range []struct {
		flags map[string]string
		fault string
	}{
		{map[string]string{"hive": "http://x"}, "token"},
		{map[string]string{"hive": "http://x", "token": "t"}, ""},
		{map[string]string{"ipfs": "http://x"}, ""},
		{map[string]string{"gateway": "http://x"}, "ipfs"},
		{map[string]string{"mounts": "/r"}, "mounts"},
		{map[string]string{"mounts": "/r/volumes/x"}, "mounts"},
		{map[string]string{"mounts": "/r/volumes-mnt"}, ""},
	} {
		x.flags["root"] = "/r"
		_, err := Load(Sources{Flags: x.flags})
		var faults Faults
		errors.As(err, &faults)
		switch {
		case x.fault == "" && err != nil, x.fault != "" && (len(faults) != 1 || faults[0].Setting != x.fault):
			t.Errorf("%v: got %v, want a fault of %q", x.flags, err, x.fault)
		}
	}
}

func TestConfig_NeverShowsTheToken(t *testing.T) {
	c, err := Load(Sources{Flags: map[string]string{"token": "hunter2"}})
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(struct {
		C Config
		S []Shown
	}{c, c.Show()})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %x", c, c, c, c.Token, c.Token, c.Token) + string(j)
	if strings.Contains(all, "hunter2") || strings.Contains(all, "68756e74657232") {
		t.Errorf("shown: %s", all)
	}
	if !strings.Contains(string(j), `"value":"(set)"`) {
		t.Errorf("that there is a token is not shown: %s", j)
	}
}

func TestSettings_AreCompleteAndTheirExamplesAreGood(t *testing.T) {
	for _, s := range Settings() {
		if s.Env != "FRACTAL_"+strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")) || s.Help == "" || strings.HasSuffix(s.Help, ".") {
			t.Errorf("%+v", s)
		}
		var c Config
		if err := s.set(&c, s.Example); err != nil && !(s.Secret && errors.Is(err, os.ErrNotExist)) {
			t.Errorf("example of %s: %v", s.Name, err)
		}
	}
}
