package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/volume"
)

const testPassphrase = "correct horse battery staple"

func TestKey_SealedWithAPassphraseGoesToAnotherDevice(t *testing.T) {
	url, token := startHive(t), newToken()
	backend := []string{"--hive", url, "--ipfs", url, "--token", token, "--interval", "off"}
	dir := t.TempDir()
	pass := filepath.Join(dir, "passphrase")
	must(t, os.WriteFile(pass, []byte(testPassphrase+"\n"), 0o600))
	a, b := startDevice(t, []string{"FRACTAL_PASSPHRASE_FILE=" + pass}, backend...), startDevice(t, nil, backend...)

	a.run("volume", "create", "db").want(t, ExitOK)
	key := strings.TrimSpace(a.run("key", "export", "db").want(t, ExitOK).out)
	info := decode[volume.Info](t, a.run("volume", "inspect", "db", "--json"))
	found, err := filepath.Glob(filepath.Join(a.root, "volumes", "*", "volume.json"))
	must(t, err)
	kept, err := os.ReadFile(found[0])
	must(t, err)
	if len(found) != 1 || strings.Contains(string(kept), key) || !strings.Contains(string(kept), `"sealed_key"`) {
		t.Errorf("the device's passphrase does not seal the key on the disk: %s", kept)
	}

	sealed := a.run("key", "export", "db", "--passphrase-file", pass).want(t, ExitOK)
	if strings.Contains(sealed.out+sealed.err, key) || strings.Count(sealed.out, "\n") != 1 {
		t.Errorf("export: %q, %q", sealed.out, sealed.err)
	}
	file := filepath.Join(dir, "db.sealed")
	must(t, os.WriteFile(file, []byte(sealed.out), 0o600))
	if pub := run(nil, nil, "key", "pubkey", file).want(t, ExitOK).out; strings.TrimSpace(pub) != info.Pubkey {
		t.Errorf("public key %s", pub)
	}
	wrong := filepath.Join(dir, "wrong")
	must(t, os.WriteFile(wrong, []byte("another passphrase"), 0o600))
	b.run("key", "import", "db", file).want(t, ExitUsage, "--passphrase-file")
	b.run("key", "import", "db", file, "--passphrase-file", wrong).want(t, ExitFailure, "does not open the sealed key")
	b.run("key", "import", "db", file, "--passphrase-file", "/does/not/exist").want(t, ExitFailure, "no such file")
	b.run("key", "import", "db", "-", "--passphrase-file", "-").want(t, ExitUsage, "standard input")
	plain := filepath.Join(dir, "db.key")
	must(t, os.WriteFile(plain, []byte(key), 0o600))
	b.run("key", "import", "db", plain, "--passphrase-file", pass).want(t, ExitUsage, "not sealed")

	same := func(name string) {
		t.Helper()
		if k := b.run("key", "export", name).want(t, ExitOK).out; strings.TrimSpace(k) != key {
			t.Errorf("%s has another key", name)
		}
		shown := b.run("status", "--json").out + b.run("volume", "inspect", name).out + b.stderr()
		for _, part := range []string{key, testPassphrase, strings.TrimSpace(sealed.out)[20:], file, plain} {
			if strings.Contains(shown, part) {
				t.Errorf("%s: %q is shown", name, part)
			}
		}
		b.run("volume", "rm", name).want(t, ExitOK)
	}
	b.run("key", "import", "db", file, "--passphrase-file", pass).want(t, ExitOK, "db")
	same("db")
	// From standard input, as a password manager gives it.
	in := strings.NewReader(testPassphrase)
	run(map[string]string{"FRACTAL_SOCKET": b.socket}, in, "key", "import", "piped", file, "--passphrase-file", "-").want(t, ExitOK, "piped")
	same("piped")
	b.run("volume", "create", "opened", "-o", "sealed-key=@"+file, "-o", "passphrase-file="+pass).want(t, ExitOK)
	same("opened")
	b.run("volume", "create", "compose", "-o", "sealed-key="+strings.TrimSpace(sealed.out), "-o", "passphrase-file="+pass).want(t, ExitOK)
	same("compose")
	b.run("volume", "create", "file", "-o", "privkey-file="+plain).want(t, ExitOK)
	same("file")

	// The device loses its passphrase: it says so, and goes on when it is back.
	must(t, os.Rename(pass, pass+".away"))
	a.restart()
	a.run("volume", "mount", "db").want(t, ExitNotReady, "volume db", "passphrase", "no such file")
	a.run("status").want(t, ExitOK, "locked", "MISSING")
	must(t, os.Rename(pass+".away", pass))
	a.run("volume", "mount", "db").want(t, ExitOK)
	a.run("volume", "umount", "db").want(t, ExitOK)
}
