package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The pair is given by the storage API's own documentation.
const (
	knownKey    = "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o="
	knownSecret = "f1loUq2/FQVkW/ytvYcdwSRU2o/djxU+6nfW0YxHs/4="
)

func TestKey_GeneratePrintsTheKeyAlone(t *testing.T) {
	a, b := run(nil, nil, "key", "generate").want(t, ExitOK), run(nil, nil, "key", "generate").want(t, ExitOK)
	if len(a.out) != 45 || a.out[44] != '\n' || a.out == b.out || a.err != "" {
		t.Errorf("out %d bytes, err %q", len(a.out), a.err)
	}
	pub := run(nil, strings.NewReader(a.out), "key", "pubkey").want(t, ExitOK)
	j := decode[map[string]string](t, run(nil, strings.NewReader(a.out), "key", "pubkey", "--json"))
	if len(pub.out) != 65 || j["pubkey"] != strings.TrimSpace(pub.out) {
		t.Errorf("pubkey %q, %v", pub.out, j)
	}
}

func TestKey_SecretIsThatOfTheAPI(t *testing.T) {
	if r := run(nil, strings.NewReader(knownKey), "key", "secret").want(t, ExitOK); r.out != knownSecret+"\n" {
		t.Errorf("got %q", r.out)
	}
}

func TestKey_IsReadFromFileOrStandardInput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(" "+knownKey+"\n\n"), 0o600))
	want := run(nil, strings.NewReader(knownKey), "key", "pubkey").want(t, ExitOK).out
	for _, r := range []result{
		run(nil, nil, "key", "pubkey", file),
		run(nil, strings.NewReader(knownKey+"\n"), "key", "pubkey", "-"),
		run(nil, strings.NewReader("0879991eb7c2e6e44c52cdc9eea8e6738765fb7d9fd79ee67cb755f5be426b6a"), "key", "pubkey"),
	} {
		if r.want(t, ExitOK); r.out != want {
			t.Errorf("got %q, want %q", r.out, want)
		}
	}
	run(nil, nil, "key", "pubkey", "/does/not/exist").want(t, ExitFailure, "no such file")
	run(nil, nil, "key", "pubkey").want(t, ExitFailure, "nothing to read")
	run(nil, strings.NewReader("not a key"), "key", "pubkey").want(t, ExitFailure, "not a key")
	run(nil, strings.NewReader(strings.Repeat("A", 5000)), "key", "pubkey").want(t, ExitFailure, "more than 1024 bytes")
}

func TestKey_AsAnArgumentWorksWithAWarningAndIsNotRepeated(t *testing.T) {
	want := run(nil, strings.NewReader(knownKey), "key", "pubkey").want(t, ExitOK, "").out
	for _, key := range []string{strings.ReplaceAll(knownKey, "/", "_"), "0879991eb7c2e6e44c52cdc9eea8e6738765fb7d9fd79ee67cb755f5be426b6a"} {
		r := run(nil, nil, "key", "pubkey", key).want(t, ExitOK, "shows in `ps`")
		if r.out != want {
			t.Errorf("public key %s, want %s", r.out, want)
		}
		if strings.Contains(r.out+r.err, key) {
			t.Errorf("repeated: %s", r.err)
		}
	}
}

func TestOptions_PrivateKeyIsReadByTheClient(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(knownKey+"\n"), 0o600))
	var warned strings.Builder
	a := &app{IO: IO{In: strings.NewReader(knownKey), Err: &warned}}
	for _, given := range []string{"privkey=@" + file, "privkey=-"} {
		o, err := a.parseOptions([]string{given, "size=1GiB"})
		if err != nil || o["privkey"] != knownKey || o["size"] != "1GiB" {
			t.Errorf("%s: %v", given, err)
		}
	}
	if warned.Len() > 0 {
		t.Errorf("warned: %s", &warned)
	}
	if o, err := a.parseOptions([]string{"privkey=" + knownKey}); err != nil || o["privkey"] != knownKey || !strings.Contains(warned.String(), "`ps`") || strings.Contains(warned.String(), knownKey) {
		t.Errorf("%v, warned %q", err, &warned)
	}
}
