package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/seal"

	"golang.org/x/sys/unix"
)

const (
	testKey        = "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o="
	testPassphrase = "correct horse battery staple"
)

// secretFile writes a file as a secret is kept.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

func sealedText(t *testing.T, key, passphrase string) string {
	t.Helper()
	k, err := seal.ParsePrivkey(key)
	must(t, err)
	p, err := seal.NewPassphrase([]byte(passphrase))
	must(t, err)
	s, err := p.SealKey(k)
	must(t, err)
	return s.Reveal()
}

// withPassphrase gives the machine a passphrase in file.
func withPassphrase(file string) func(*Options, *Deps) {
	return func(o *Options, _ *Deps) { o.PassphraseFile = file }
}

func plainKeys(o *Options, _ *Deps) { o.PlainKeys = true }

func (x *machine) recordBytes(name string) []byte {
	x.t.Helper()
	v, err := x.lookup(name)
	must(x.t, err)
	b, err := os.ReadFile(v.recordFile())
	must(x.t, err)
	var st unix.Stat_t
	must(x.t, unix.Stat(v.recordFile(), &st))
	if st.Mode&0o777 != 0o600 {
		x.t.Errorf("volume.json of %s has mode %o", name, st.Mode&0o777)
	}
	return b
}

// wantKept checks in which form a key lies on the disk.
func (x *machine) wantKept(name, key string, isSealed bool) {
	x.t.Helper()
	b := x.recordBytes(name)
	if bytes.Contains(b, []byte(key)) == isSealed || bytes.Contains(b, []byte(`"sealed_key"`)) != isSealed {
		x.t.Errorf("the key of %s: want sealed %v, volume.json is\n%s", name, isSealed, b)
	}
	_, _, err := decodeRecord(b)
	must(x.t, err)
}

func TestCreate_TakesTheKeyFromWhereItIsSafe(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	pass, text := secretFile(t, testPassphrase), sealedText(t, testKey, testPassphrase)
	for name, opts := range map[string][]string{
		"file":   {"privkey-file=" + secretFile(t, testKey), "size=1GiB"},
		"sealed": {"sealed-key=" + text, "passphrase-file=" + pass, "size=1GiB"},
	} {
		a.create(name, opts...)
		a.create(name, opts...) // again is no error
		if a.key(name) != testKey {
			t.Errorf("%s: another key", name)
		}
		shown := fmt.Sprintf("%+v %s", a.info(name), *a.log.text.Load())
		for _, part := range []string{testKey, testPassphrase, text[20:60], pass, "secret"} {
			if strings.Contains(shown, part) || strings.Contains(string(a.recordBytes(name)), part) && part != testKey {
				t.Errorf("%s: %q is shown: %s", name, part, shown)
			}
		}
		must(t, a.Remove(ctx(t), name, false))
	}

	open := secretFile(t, testKey)
	must(t, os.Chmod(open, 0o644))
	for says, opts := range map[string][]string{
		"chmod 600":          {"privkey-file=" + open},
		"no such file":       {"privkey-file=/does/not/exist"},
		"absolute path":      {"privkey-file=db.key"},
		"wants a passphrase": {"privkey-file=" + secretFile(t, text)},
		"base32; the path is one on the driver's host": {"privkey-file=" + secretFile(t, "hunter2")},
		"go together":                  {"sealed-key=" + text},
		"go together; ":                {"passphrase-file=" + pass},
		"does not open the sealed key": {"sealed-key=" + text, "passphrase-file=" + secretFile(t, "another passphrase")},
		"damaged":                      {"sealed-key=" + text[:100] + "!" + text[101:], "passphrase-file=" + pass},
		"has one key":                  {"privkey=" + testKey, "privkey-file=" + open},
		"one key: ":                    {"privkey-file=" + open, "sealed-key=" + text, "passphrase-file=" + pass},
		"give it as sealed-key=":       {"privkey=" + text},
		"less than 8 bytes":            {"sealed-key=" + text, "passphrase-file=" + secretFile(t, "hunter2")},
	} {
		err := a.Create(ctx(t), "x", kv(opts...))
		if !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), strings.TrimSuffix(says, "; ")) {
			t.Errorf("%q: %v", says, err)
		}
		for _, part := range []string{testKey[:20], "hunter2", "another pass", text[20:60]} {
			if err != nil && strings.Contains(err.Error(), part) {
				t.Errorf("shows a secret: %v", err)
			}
		}
	}
	if len(a.List()) != 0 {
		t.Errorf("left %+v", a.List())
	}
}

// The passphrase of the machine seals what is there and what comes, and switched off leaves all as it was.
func TestPassphrase_SealsAndUnsealsTheKeysOnTheDisk(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, testPassphrase)
	a := w.machine("a")
	a.create("old")
	write(t, filepath.Join(a.mount("old", "1"), "f"), "published")
	a.flush("old")
	a.create("view", "privkey="+a.key("old"), "snapshot=1")
	key := a.key("old")
	a.wantKept("old", key, false)
	a.vanish()

	a = w.machine("a", withPassphrase(file))
	a.create("new", "privkey="+testKey)
	for name, k := range map[string]string{"old": key, "view": key, "new": testKey} {
		a.wantKept(name, k, true)
		if a.key(name) != k {
			t.Errorf("%s has another key", name)
		}
	}
	dir := a.mount("old", "1")
	wantFile(t, filepath.Join(dir, "f"), "published")
	write(t, filepath.Join(dir, "f"), "again")
	if s := a.flush("old"); s.Generation != 2 {
		t.Errorf("%+v", s)
	}
	a.wantKept("old", key, true) // after an update, too
	if n := strings.Count(*a.log.text.Load(), "keys on the disk are sealed now"); n != 1 {
		t.Errorf("said %d times that keys are sealed", n)
	}
	// A crash of the migration: one volume is done, the other is not, and half a write lies about.
	b := a.recordBytes("new")
	newFile := a.vols["new"].recordFile()
	a.vanish()
	r, _, err := decodeRecord(b)
	must(t, err)
	r.Version, r.Key, r.SealedKey = recordVersion, testKey, ""
	plain, err := r.encode()
	must(t, err)
	must(t, os.WriteFile(newFile, plain, 0o600))
	must(t, os.WriteFile(newFile+".tmp", plain[:len(plain)/2], 0o600))

	a = w.machine("a", withPassphrase(file))
	a.wantKept("old", key, true)
	a.wantKept("new", testKey, true)
	if _, err := os.Stat(newFile + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a write, with a key in it, is left: %v", err)
	}
	a.vanish()

	a = w.machine("a", withPassphrase(file), plainKeys)
	for name, k := range map[string]string{"old": key, "view": key, "new": testKey} {
		a.wantKept(name, k, false)
	}
	a.vanish()
	a = w.machine("a") // needs no passphrase any more
	wantFile(t, filepath.Join(a.mount("old", "1"), "f"), "again")
}

func TestPassphrase_MissingOrWrongLocksWhatItSealedAndNothingElse(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, testPassphrase)
	a := w.machine("a", withPassphrase(file))
	a.create("db")
	write(t, filepath.Join(a.mount("db", "1"), "f"), "published")
	a.flush("db")
	a.create("second", "privkey="+testKey)
	a.vanish()
	a = w.machine("a") // switched off without the passphrase
	a.create("plain")
	pub := a.info("db").Pubkey

	locked := func(x *machine, says string) {
		t.Helper()
		for _, name := range []string{"db", "second"} {
			i := x.info(name)
			if i.State != StateLocked || !strings.Contains(i.LockedWhy, says) {
				t.Errorf("%s: %+v, want %q", name, i, says)
			}
			if n := strings.Count(*x.log.text.Load(), `"volume":"`+name+`","op":"open","error":`); n != 1 {
				t.Errorf("%s: the log says so %d times", name, n)
			}
		}
		if i := x.info("db"); i.Pubkey != pub || i.Generation != 1 {
			t.Errorf("db: %+v", i)
		}
		_, err := x.Mount(ctx(t), "db", "1")
		for _, err := range []error{err, func() error { _, err := x.KeyExport("db"); return err }(), func() error { _, err := x.Flush(ctx(t), "db", nil); return err }(), x.WaitReleased(ctx(t), "db")} {
			if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "volume db") {
				t.Errorf("%v, want %q", err, says)
			}
		}
		found := false
		for _, c := range x.Health(ctx(t)).Checks {
			found = found || c.Name == "keys" && !c.OK && strings.Contains(c.Detail, says)
		}
		if !found {
			t.Errorf("health does not say %q", says)
		}
		write(t, filepath.Join(x.mount("plain", "1"), "f"), "works")
		x.flush("plain")
		x.unmount("plain", "1")
		x.released("plain")
	}
	locked(a, "none is set: set passphrase-file")
	a.vanish()

	a = w.machine("a", withPassphrase("/does/not/exist"))
	locked(a, "/does/not/exist: no such file")
	if err := a.Create(ctx(t), "more", nil); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a key was kept although it cannot be sealed: %v", err)
	}
	a.vanish()

	wrong := secretFile(t, "another passphrase")
	a = w.machine("a", withPassphrase(wrong))
	locked(a, "does not open the sealed key: "+wrong+" holds another")
	if err := a.Create(ctx(t), "more", nil); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "does not open the keys of 2 volumes") {
		t.Errorf("a key was sealed with a passphrase that is wrong: %v", err)
	}
	plainKey := a.key("plain")
	a.wantKept("plain", plainKey, false)

	// The right one comes back: all goes on by itself, and what was plain is sealed too.
	must(t, os.WriteFile(wrong, []byte(testPassphrase), 0o600))
	a.eventually("the volumes are open", func() bool { return a.info("db").State != StateLocked && a.info("second").State != StateLocked })
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "published")
	if a.key("second") != testKey {
		t.Error("another key")
	}
	a.eventually("the plain key is sealed", func() bool { return bytes.Contains(a.recordBytes("plain"), []byte(`"sealed_key"`)) })
	a.create("more")
	for _, part := range []string{testPassphrase, "another passphrase", testKey, plainKey} {
		if strings.Contains(*a.log.text.Load(), part) {
			t.Errorf("the log shows %q", part)
		}
	}
}

func TestRecord_GoldenFileOfASealedKey(t *testing.T) {
	want := full()
	want.Version, want.Key = sealedVersion, ""
	golden, err := os.ReadFile(filepath.Join("..", "seal", "testdata", "sealed-key-v1.txt"))
	must(t, err)
	want.SealedKey = strings.TrimSpace(string(golden))
	b, err := want.encode()
	must(t, err)
	path := filepath.Join("testdata", "volume-v2.json")
	if *updateGolden {
		must(t, os.WriteFile(path, b, 0o644))
	}
	stored, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(b, stored) {
		t.Errorf("encodes to\n%s", b)
	}
	got, key, err := decodeRecord(stored)
	must(t, err)
	if !key.IsZero() || got.SealedKey != want.SealedKey || got.public(key).String() != "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c" {
		t.Errorf("%+v, %s", got, got.public(key))
	}
	text := string(stored)
	for what, bad := range map[string]string{
		"both":       strings.Replace(text, `"sealed_key"`, `"key": "`+testKey+`", "sealed_key"`, 1),
		"version":    strings.Replace(text, `"version": 2`, `"version": 1`, 1),
		"later":      strings.Replace(text, `"version": 2`, `"version": 3`, 1),
		"no key":     strings.Replace(text, want.SealedKey, "", 1),
		"sealed key": strings.Replace(text, want.SealedKey[20:30], "!!!!!!!!!!", 1),
	} {
		if _, _, err := decodeRecord([]byte(bad)); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", what, err)
		} else if err != nil && (strings.Contains(err.Error(), testKey[:10]) || strings.Contains(err.Error(), want.SealedKey[20:40])) {
			t.Errorf("%s: the key is in the error", what)
		}
	}
}

// A direct mount needs no daemon, and so no passphrase: it goes on, and is taken over when its key is open.
func TestPassphrase_DirectMountOutlivesALockedVolume(t *testing.T) {
	w := newWorld(t)
	file := secretFile(t, testPassphrase)
	a := w.machine("a", withPassphrase(file))
	a.create("db", "mount=direct")
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "before")
	a.vanish()
	must(t, os.Rename(file, file+".away"))

	a = w.machine("a", withPassphrase(file))
	if i := a.info("db"); i.State != StateLocked {
		t.Fatalf("%+v", i)
	}
	wantFile(t, filepath.Join(dir, "f"), "before")
	write(t, filepath.Join(dir, "f"), "while locked")
	must(t, os.Rename(file+".away", file))
	a.eventually("the mount is taken over", func() bool { i := a.info("db"); return i.Mountpoint == dir && len(i.Mounts) == 1 })
	wantFile(t, filepath.Join(a.mount("db", "1"), "f"), "while locked")
	if s := a.flush("db"); s.Generation == 0 {
		t.Errorf("%+v", s)
	}
	a.unmount("db", "1")
	a.released("db")
}
