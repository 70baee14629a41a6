package seal

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// The Secret of the key in TestPrivkey_SecretIsThatOfTheStorageAPI, from the
// description of the storage API.
const (
	knownSecret = "f1loUq2/FQVkW/ytvYcdwSRU2o/djxU+6nfW0YxHs/4="
)

func mustParse(t testing.TB, text string) Privkey {
	t.Helper()
	k, err := ParsePrivkey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPrivkey_SecretIsThatOfTheStorageAPI(t *testing.T) {
	k := mustParse(t, "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o=")
	secret := k.RevealSecret()
	if got := base64.StdEncoding.EncodeToString(secret[:]); got != knownSecret {
		t.Errorf("secret %s, want %s", got, knownSecret)
	}
}

func TestPrivkey_EveryTextFormIsRead(t *testing.T) {
	for _, seed := range [][]byte{
		bytes.Repeat([]byte{0xff}, 32), // base64 with / or _
		bytes.Repeat([]byte{0xfb, 0xef, 0xbe, 0x00}, 8),
		[]byte("0123456789abcdef0123456789abcdef"),
		make([]byte, 32),
	} {
		want := base64.StdEncoding.EncodeToString(seed)
		for name, text := range map[string]string{
			"hex":                 hex.EncodeToString(seed),
			"upper hex":           strings.ToUpper(hex.EncodeToString(seed)),
			"base64":              want,
			"base64 unpadded":     base64.RawStdEncoding.EncodeToString(seed),
			"base64 URL":          base64.URLEncoding.EncodeToString(seed),
			"base64 URL unpadded": base64.RawURLEncoding.EncodeToString(seed),
			"base32":              base32.StdEncoding.EncodeToString(seed),
			"base32 unpadded":     base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(seed),
			"base32 lower case":   strings.ToLower(base32.StdEncoding.EncodeToString(seed)),
			"with white space":    " \t" + want + "\n",
		} {
			k, err := ParsePrivkey(text)
			if err != nil || k.Reveal() != want {
				t.Errorf("%s of %x...: %v", name, seed[:4], err)
			}
			pub := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
			if err == nil && k.Public().String() != hex.EncodeToString(pub) {
				t.Errorf("%s: public key %s", name, k.Public())
			}
		}
	}
}

func TestPrivkey_OtherTextIsRefusedAndNotRepeated(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xab}, 32))
	for _, text := range []string{
		"", "=", good[:40], good + "AAAA", good + "=", good[:43] + "==", good[:20] + "\n" + good[20:], good[:42] + "t=",
		strings.Repeat("ab", 31), strings.Repeat("ab", 33), strings.Repeat("ab", 64), redacted,
		strings.Repeat("!", 44), strings.Repeat("a", 1<<20),
	} {
		k, err := ParsePrivkey(text)
		if !errors.Is(err, ErrKey) || !k.IsZero() {
			t.Errorf("%.60q: %v", text, err)
			continue
		}
		if len(text) > 4 && strings.Contains(err.Error(), text[:5]) {
			t.Errorf("the message repeats the text: %v", err)
		}
	}
}

func TestPrivkey_NeverShowsItself(t *testing.T) {
	seed := bytes.Repeat([]byte("K3y!"), 8)
	k := mustParse(t, hex.EncodeToString(seed))
	secret := k.RevealSecret()
	type holder struct {
		Public  Privkey
		Pointer *Privkey
		private Privkey
		sealer  *Sealer
	}
	h := holder{k, &k, k, k.Sealer()}
	var out strings.Builder
	for _, v := range []any{k, &k, h, &h, []Privkey{k}, map[string]Privkey{"k": k}, map[Privkey]int{k: 1}, k.Sealer(), *k.Sealer(), []*Sealer{k.Sealer()}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%X", "%s", "%q", "%d", "%08b", "%T", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		log := zerolog.New(&out)
		log.Info().Interface("key", v).Any("any", v).Stringer("s", k).Msgf("%v", v)
	}
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	out.WriteString(k.String() + k.GoString())
	shown := out.String()
	for _, bytes := range [][]byte{seed, secret[:]} {
		for name, form := range map[string]string{
			"bytes":       string(bytes[:4]),
			"hex":         hex.EncodeToString(bytes[:4]),
			"upper hex":   strings.ToUpper(hex.EncodeToString(bytes[:4])),
			"base64":      base64.StdEncoding.EncodeToString(bytes)[:8],
			"decimals":    strings.Trim(fmt.Sprint(bytes[:4]), "[]"),
			"hex numbers": fmt.Sprintf("%#v", bytes[:4])[7:29],
			"bits":        fmt.Sprintf("%08b %08b %08b", bytes[0], bytes[1], bytes[2]),
		} {
			if strings.Contains(shown, form) {
				t.Errorf("shown in %s: %s", name, form)
			}
		}
	}
	if !strings.Contains(shown, redacted) {
		t.Error("nothing says that a key was left out")
	}
}

func TestPrivkey_ZeroValueIsNoKey(t *testing.T) {
	var k Privkey
	if !k.IsZero() {
		t.Error("not zero")
	}
	for name, use := range map[string]func(){
		"Public": func() { k.Public() }, "Sign": func() { k.Sign(nil) }, "Reveal": func() { k.Reveal() },
		"RevealSecret": func() { k.RevealSecret() }, "Sealer": func() { k.Sealer() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s works", name)
				}
			}()
			use()
		}()
	}
}

func TestPrivkey_SignsAndGenerates(t *testing.T) {
	a, err := GeneratePrivkey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := GeneratePrivkey()
	if err != nil || a == b || a.Public() == b.Public() {
		t.Fatalf("two keys are equal, %v", err)
	}
	if again := mustParse(t, a.Reveal()); again != a {
		t.Error("a key that was shown and read again is another")
	}
	sig := a.Sign([]byte("message"))
	if !a.Public().Verify([]byte("message"), sig) {
		t.Error("own signature is refused")
	}
	if a.Public().Verify([]byte("messagf"), sig) || b.Public().Verify([]byte("message"), sig) ||
		a.Public().Verify([]byte("message"), sig[:63]) || a.Public().Verify([]byte("message"), nil) {
		t.Error("a foreign signature is taken")
	}
}

func TestPubkey_TextForms(t *testing.T) {
	k := mustParse(t, strings.Repeat("07", 32)).Public()
	if got, err := ParsePubkey(k.String()); err != nil || got != k {
		t.Errorf("%v, %v", got, err)
	}
	b, err := json.Marshal(k)
	var got Pubkey
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil || got != k {
		t.Errorf("%s: %v, %v", b, got, err)
	}
	for _, text := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		if _, err := ParsePubkey(text); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSealer_OpensOnlyWhatItSealed(t *testing.T) {
	s, stranger := NewSealer([32]byte{1}), NewSealer([32]byte{2})
	ad, plain := []byte("links"), []byte("some content")
	sealed := s.Seal([]byte("prefix"), KindDir, ad, plain)
	if !bytes.HasPrefix(sealed, []byte("prefix")) || len(sealed) != 6+len(plain)+Overhead {
		t.Fatalf("%d bytes", len(sealed))
	}
	sealed = sealed[6:]
	got, err := s.Open([]byte("before "), KindDir, ad, sealed)
	if err != nil || string(got) != "before some content" {
		t.Fatalf("%q, %v", got, err)
	}
	refuse := func(what string, s *Sealer, kind Kind, ad, sealed []byte) {
		t.Helper()
		if got, err := s.Open(nil, kind, ad, sealed); !errors.Is(err, ErrOpen) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	refuse("another key", stranger, KindDir, ad, sealed)
	refuse("another kind", s, KindDirIndex, ad, sealed)
	refuse("other associated data", s, KindDir, []byte("linkt"), sealed)
	refuse("no associated data", s, KindDir, nil, sealed)
	for i := range sealed {
		flipped := bytes.Clone(sealed)
		flipped[i] ^= 0x10
		refuse("a flipped bit", s, KindDir, ad, flipped)
		refuse("a part", s, KindDir, ad, sealed[:i])
	}
	refuse("more", s, KindDir, ad, append(bytes.Clone(sealed), 0))
}

func TestSealer_NonceDependsOnAllThatIsSealed(t *testing.T) {
	s := NewSealer([32]byte{1})
	type message struct {
		kind      Kind
		ad, plain string
	}
	seen := make(map[string]message)
	for _, m := range []message{
		{KindDir, "", ""}, {KindData, "", ""}, {KindDir, "ab", "c"}, {KindDir, "a", "bc"}, {KindDir, "", "abc"}, {KindDir, "abc", ""},
		{KindData, "ab", "c"}, {KindDir, "ab", "d"},
	} {
		nonce := string(s.Seal(nil, m.kind, []byte(m.ad), []byte(m.plain))[:24])
		if other, ok := seen[nonce]; ok {
			t.Errorf("%+v and %+v share a nonce", m, other)
		}
		seen[nonce] = m
		if again := string(s.Seal(nil, m.kind, []byte(m.ad), []byte(m.plain))[:24]); again != nonce {
			t.Errorf("%+v has two nonces", m)
		}
	}
	if bytes.Equal(s.Seal(nil, KindDir, nil, nil), NewSealer([32]byte{2}).Seal(nil, KindDir, nil, nil)) || s.NameHash("a") == s.NameHash("b") ||
		s.NameHash("a") == NewSealer([32]byte{2}).NameHash("a") {
		t.Error("the key makes no difference")
	}
}

var (
	update = flag.Bool("update", false, "write golden files that are missing")
	force  = flag.Bool("update-released", false, "write golden files anew, also released ones: breaks every snapshot in use")
)

type golden struct {
	Privkey, Pubkey, Secret string
	Signature               string // of the message "message", hex
	Sealed                  []goldenSealed
	NameHash                map[string]uint64
}

type goldenSealed struct {
	Kind              Kind
	AD, Plain, Sealed string // hex
}

func makeGolden(t *testing.T) (g golden) {
	k := mustParse(t, "CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o=")
	secret := k.RevealSecret()
	g = golden{Privkey: k.Reveal(), Pubkey: k.Public().String(), Secret: hex.EncodeToString(secret[:]),
		Signature: hex.EncodeToString(k.Sign([]byte("message"))), NameHash: map[string]uint64{}}
	s := k.Sealer()
	for kind := KindRoot; kind <= KindTrace; kind++ {
		for _, m := range [][2]string{{"", ""}, {"", "plain"}, {"ad", "plain"}} {
			g.Sealed = append(g.Sealed, goldenSealed{kind, hex.EncodeToString([]byte(m[0])), hex.EncodeToString([]byte(m[1])),
				hex.EncodeToString(s.Seal(nil, kind, []byte(m[0]), []byte(m[1])))})
		}
	}
	for _, name := range []string{"a", "file-000001", "ünicode"} {
		g.NameHash[name] = s.NameHash(name)
	}
	return g
}

func TestGolden_SealedBytesStayTheSame(t *testing.T) {
	const path = "testdata/golden-v1.json"
	made, err := json.MarshalIndent(makeGolden(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	made = append(made, '\n')
	stored, err := os.ReadFile(path)
	if *force || (*update && errors.Is(err, os.ErrNotExist)) {
		if err := os.WriteFile(path, made, 0o644); err != nil {
			t.Fatal(err)
		}
		stored, err = made, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored, made) {
		t.Errorf("%s differs from what is made now:\n%s", path, made)
	}
	// And what was sealed then opens now.
	var g golden
	if err := json.Unmarshal(stored, &g); err != nil {
		t.Fatal(err)
	}
	s := mustParse(t, g.Privkey).Sealer()
	for _, m := range g.Sealed {
		ad, _ := hex.DecodeString(m.AD)
		sealed, _ := hex.DecodeString(m.Sealed)
		if plain, err := s.Open(nil, m.Kind, ad, sealed); err != nil || hex.EncodeToString(plain) != m.Plain {
			t.Errorf("kind %d: %x, %v", m.Kind, plain, err)
		}
	}
}

func FuzzParsePrivkey(f *testing.F) {
	for _, text := range []string{knownSecret, strings.Repeat("ab", 32), "AAAA", "MFRGG==="} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParsePrivkey(text)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatal(err)
			}
			return
		}
		if again, err := ParsePrivkey(k.Reveal()); err != nil || again != k {
			t.Fatalf("a key that was shown is read as another: %v", err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	s := NewSealer([32]byte{1})
	f.Add(byte(KindDir), []byte("ad"), s.Seal(nil, KindDir, []byte("ad"), []byte("plain")))
	f.Add(byte(KindData), []byte{}, []byte("short"))
	f.Fuzz(func(t *testing.T, kind byte, ad, sealed []byte) {
		plain, err := s.Open(nil, Kind(kind), ad, sealed)
		if err != nil {
			if !errors.Is(err, ErrOpen) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.Seal(nil, Kind(kind), ad, plain), sealed) {
			t.Fatal("opened what was never sealed")
		}
	})
}
