package seal

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"
)

const knownPassphrase = "correct horse battery staple"

func mustPassphrase(t testing.TB, text string) *Passphrase {
	t.Helper()
	p, err := NewPassphrase([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// knownCost and knownNonce are those of the golden file.
func knownCost() (c cost) {
	c = cost{passes: ownPasses, threads: ownThreads, memory: ownMemory}
	copy(c.salt[:], "sixteen of salt!")
	return c
}

func knownNonce() (n [chacha20poly1305.NonceSizeX]byte) {
	copy(n[:], "twenty-four bytes, a nonce")
	return n
}

func TestSealedKey_GoldenFile(t *testing.T) {
	k := mustParse(t, strings.Repeat("07", 32))
	made := mustPassphrase(t, knownPassphrase).sealKey(k, knownCost(), knownNonce()).Reveal() + "\n"
	const path = "testdata/sealed-key-v1.txt"
	stored, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *update || *force {
		if err := os.WriteFile(path, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
		stored, err = []byte(made), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if string(stored) != made {
		t.Errorf("%s differs from what is made now:\n%s", path, made)
	}
	s, err := ParseSealedKey(string(stored))
	if err != nil || s.Public() != k.Public() {
		t.Fatal(err)
	}
	if got, err := mustPassphrase(t, knownPassphrase).OpenKey(s); err != nil || got != k {
		t.Errorf("what was sealed then does not open now: %v", err)
	}
}

func TestSealedKey_OpensWithItsPassphraseAlone(t *testing.T) {
	k, err := GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	p := mustPassphrase(t, knownPassphrase+"\r\n") // as an editor leaves it
	s, err := p.SealKey(k)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseSealedKey("\n " + s.Reveal() + " \n")
	if err != nil || again != s || s.Public() != k.Public() {
		t.Fatalf("%v", err)
	}
	if got, err := mustPassphrase(t, knownPassphrase).OpenKey(again); err != nil || got != k {
		t.Errorf("its passphrase: %v", err)
	}
	wrong := mustPassphrase(t, knownPassphrase+"r")
	if got, err := wrong.OpenKey(again); !errors.Is(err, ErrPassphrase) || !got.IsZero() {
		t.Errorf("another passphrase: %v", err)
	}
	// Any change is refused.
	fresh := mustPassphrase(t, knownPassphrase)
	for _, at := range []int{0, atPasses, atSalt, atPubkey, atPubkey + 31, atNonce, atNonce + 23, atSealed, sealedKeySize - 1} {
		b := s
		b.b[at] ^= 1
		damaged, err := ParseSealedKey(b.Reveal())
		if err == nil {
			_, err = fresh.OpenKey(damaged)
		}
		if !errors.Is(err, ErrPassphrase) && !errors.Is(err, ErrKey) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
}

// A pool of a thousand keys costs one Argon2id: what one Passphrase seals has one salt, also after a restart.
func TestPassphrase_KeysOfOneSaltAreDerivedOnce(t *testing.T) {
	p := mustPassphrase(t, knownPassphrase)
	var sealed []SealedKey
	for range 8 {
		k, err := GeneratePrivkey()
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.SealKey(k)
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, s)
	}
	later := mustPassphrase(t, knownPassphrase) // the next start
	for _, s := range sealed {
		if _, err := later.OpenKey(s); err != nil {
			t.Fatal(err)
		}
	}
	k, err := GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := later.SealKey(k)
	if err != nil || s.cost() != sealed[0].cost() {
		t.Errorf("a new key has another salt: %v", err)
	}
	if len(p.derived) != 1 || len(later.derived) != 1 {
		t.Errorf("derived %d and %d times", len(p.derived), len(later.derived))
	}
	if sealed[0].b == sealed[1].b || string(sealed[0].b[atNonce:atSealed]) == string(sealed[1].b[atNonce:atSealed]) {
		t.Error("a nonce is used twice")
	}
}

func TestParseSealedKey_RefusesWhatItCannotTrust(t *testing.T) {
	good := mustPassphrase(t, knownPassphrase).sealKey(mustParse(t, strings.Repeat("07", 32)), knownCost(), knownNonce())
	with := func(change func(*SealedKey)) string {
		s := good
		change(&s)
		return s.Reveal()
	}
	text := good.Reveal()
	for what, bad := range map[string]string{
		"nothing": "", "the mark alone": sealedKeyMark, "cut": text[:len(text)-1], "longer": text + "A", "a key": strings.Repeat("ab", 32),
		"another mark": strings.Replace(text, "v1", "v2", 1), "a line break": text[:50] + "\n" + text[51:], "another alphabet": text[:50] + "+" + text[51:],
		"version":     with(func(s *SealedKey) { s.b[0] = 2 }),
		"no pass":     with(func(s *SealedKey) { s.b[atPasses] = 0 }),
		"many passes": with(func(s *SealedKey) { s.b[atPasses] = maxPasses + 1 }),
		"no thread":   with(func(s *SealedKey) { s.b[atThreads] = 0 }),
		"threads":     with(func(s *SealedKey) { s.b[atThreads] = maxThreads + 1 }),
		"no memory":   with(func(s *SealedKey) { clear(s.b[atMemory:atSalt]) }),
		"all memory":  with(func(s *SealedKey) { copy(s.b[atMemory:atSalt], "\xff\xff\xff\xff") }),
		"more memory": with(func(s *SealedKey) { copy(s.b[atMemory:atSalt], "\x01\x00\x04\x00") }),
		"spare bits":  text[:len(text)-1] + string(text[len(text)-1]+1),
		"a long text": strings.Repeat("a", 1<<20),
	} {
		if s, err := ParseSealedKey(bad); !errors.Is(err, ErrKey) || !s.IsZero() {
			t.Errorf("%s: %v", what, err)
		} else if len(bad) > 60 && strings.Contains(err.Error(), bad[20:40]) {
			t.Errorf("%s: the message repeats the text: %v", what, err)
		}
	}
	if _, err := ParsePrivkey(text); !errors.Is(err, ErrKey) {
		t.Errorf("a sealed key is taken for a key: %v", err)
	}
	if !IsSealedKey(text) || IsSealedKey(strings.Repeat("ab", 32)) {
		t.Error("IsSealedKey")
	}
}

func TestPassphrase_Bounds(t *testing.T) {
	for text, ok := range map[string]bool{
		"": false, "\n": false, "seven 7": false, "eight 88": true, "eight 88\n": true, "two\nlines of it": false, "a nul \x00 byte": false,
		strings.Repeat("x", MaxPassphrase): true, strings.Repeat("x", MaxPassphrase+1): false, "  blanks count  ": true,
	} {
		p, err := NewPassphrase([]byte(text))
		if (err == nil) != ok || !ok && !errors.Is(err, ErrNoPassphrase) {
			t.Errorf("%.20q: %v", text, err)
		}
		if err != nil && len(text) > 8 && strings.Contains(err.Error(), text[:8]) {
			t.Errorf("the message repeats the text: %v", err)
		}
		if ok && p.Equal(mustPassphrase(t, "another one")) {
			t.Errorf("%.20q is equal to another", text)
		}
	}
	if !mustPassphrase(t, knownPassphrase).Equal(mustPassphrase(t, knownPassphrase+"\n")) {
		t.Error("not equal to itself")
	}
}

func TestPassphrase_NeverShowsItself(t *testing.T) {
	p := mustPassphrase(t, knownPassphrase)
	s := p.sealKey(mustParse(t, strings.Repeat("07", 32)), knownCost(), knownNonce())
	text := s.Reveal()
	var out strings.Builder
	for _, v := range []any{p, s, &s, struct{ P *Passphrase }{p}, struct{ S SealedKey }{s}, []SealedKey{s}, []*Passphrase{p}} {
		for _, verb := range []string{"%v", "%+v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	for _, part := range []string{knownPassphrase[:8], fmt.Sprintf("%x", knownPassphrase[:8]), text[20:40], strings.Trim(fmt.Sprint(s.b[40:48]), "[]"), fmt.Sprintf("%x", s.b[40:48])} {
		if strings.Contains(out.String(), part) {
			t.Errorf("shows %q", part)
		}
	}
	if !strings.Contains(out.String(), redacted) {
		t.Error("shows nothing at all")
	}
}

func TestSecretFile_TakesWhatItsOwnerKeepsAsASecret(t *testing.T) {
	dir := t.TempDir()
	const key = "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o="
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", key+"\n", 0o400)
	if k, err := ReadPrivkeyFile(good); err != nil || k.Reveal() != key {
		t.Fatalf("%v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrivkeyFile(link); err != nil {
		t.Errorf("a link to it: %v", err)
	}
	if p, err := ReadPassphraseFile(file("passphrase", knownPassphrase+"\n", 0o600)); err != nil || !p.Equal(mustPassphrase(t, knownPassphrase)) {
		t.Errorf("a passphrase: %v", err)
	}

	pipe, device := filepath.Join(dir, "pipe"), "/dev/zero"
	if err := unix.Mkfifo(pipe, 0o600); err != nil { // opening one waits for its writer
		t.Fatal(err)
	}
	foreign := file("foreign", key, 0o600)
	if err := os.Chown(foreign, 12345, 0); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for path, says := range map[string]string{
		file("open", key, 0o644): "chmod 600", file("group", key, 0o640): "chmod 600", foreign: "belongs to user 12345",
		pipe: "not a regular file", device: "not a regular file", dir: "not a regular file", "good": "not an absolute path", dir + "/none": "no such file",
		file("long", strings.Repeat("A", 5000), 0o600): "more than 2048 bytes", file("other", "root:$6$secret:19000:0:99999:7:::", 0o600): "not a key",
		file("sealed", mustPassphrase(t, knownPassphrase).sealKey(mustParse(t, key), knownCost(), knownNonce()).Reveal(), 0o600): "wants a passphrase",
	} {
		_, err := ReadPrivkeyFile(path)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret:") || strings.Contains(err.Error(), key[:10]) || strings.Contains(err.Error(), "AAAA")) {
			t.Errorf("%s: the message shows what is in it: %v", path, err)
		}
	}
}

func FuzzParseSealedKey(f *testing.F) {
	golden, err := os.ReadFile("testdata/sealed-key-v1.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(golden))
	f.Add(sealedKeyMark)
	f.Add(sealedKeyMark + base64.RawURLEncoding.EncodeToString(make([]byte, sealedKeySize)))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSealedKey(text)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatal(err)
			}
			return
		}
		if s.Reveal() != strings.TrimSpace(text) {
			t.Fatal("one sealed key has two forms")
		}
		if c := s.cost(); c.memory > maxMemory || c.passes > maxPasses || c.threads > maxThreads || c.memory < minMemory || c.passes == 0 || c.threads == 0 {
			t.Fatalf("takes a cost of %+v", c)
		}
	})
}
