package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/blake2s"
)

var (
	// ErrOpen: the bytes were not sealed with this key, for this kind and
	// associated data, or were changed since.
	ErrOpen = errors.New("sealed data does not open with this key")
	// ErrKey: text that is no key. The text itself is never in the message.
	ErrKey = errors.New("not a key")
)

// mask hides seeds in memory. The fmt package prints unexported struct fields
// by reflection, past every String method; with the mask such an accident
// prints bytes that mean nothing outside of this process.
var mask = func() (m [32]byte) {
	rand.Read(m[:]) // never fails; see crypto/rand
	return m
}()

// Privkey is an ed25519 seed. Its String, Format and Marshal methods never
// show it. Two Privkeys are equal (==) where their seeds are. The zero value
// is no key: Public, Sign, Reveal, RevealSecret and Sealer panic on it.
type Privkey struct {
	masked [32]byte // seed XOR mask
}

func newPrivkey(seed []byte) (k Privkey) {
	subtle.XORBytes(k.masked[:], seed, mask[:])
	return k
}

func (k Privkey) seed() (seed [32]byte) {
	if k.IsZero() {
		panic("seal: the zero Privkey was used as a key")
	}
	subtle.XORBytes(seed[:], k.masked[:], mask[:])
	return seed
}

// GeneratePrivkey makes a new random key.
func GeneratePrivkey() (Privkey, error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return Privkey{}, fmt.Errorf("generate key: %w", err)
	}
	return newPrivkey(seed[:]), nil
}

// ParsePrivkey reads a key from text: hex first, then base64 (standard or URL
// alphabet, padded or not), then base32 (padded or not, upper or lower case).
// White space around the text is ignored. Anything that is not exactly 32
// bytes in one of these forms is ErrKey.
func ParsePrivkey(text string) (Privkey, error) {
	text = strings.TrimSpace(text)
	if len(text) > 2*hex.EncodedLen(32) || strings.ContainsAny(text, "\r\n") {
		return Privkey{}, fmt.Errorf("%w: want 32 bytes in hex, base64 or base32", ErrKey)
	}
	bare := strings.TrimRight(text, "=")
	// Padding is all or nothing: to whole quanta of 4 (base64) or 8 (base32).
	padded := func(quantum int) bool {
		pad := len(text) - len(bare)
		return pad == 0 || pad == (quantum-len(bare)%quantum)%quantum
	}
	decoders := []func() ([]byte, error){
		func() ([]byte, error) { return hex.DecodeString(text) },
		func() ([]byte, error) {
			if !padded(4) {
				return nil, ErrKey
			}
			return base64.RawStdEncoding.Strict().DecodeString(bare)
		},
		func() ([]byte, error) {
			if !padded(4) {
				return nil, ErrKey
			}
			return base64.RawURLEncoding.Strict().DecodeString(bare)
		},
		func() ([]byte, error) {
			if !padded(8) {
				return nil, ErrKey
			}
			return base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(bare))
		},
	}
	for _, decode := range decoders {
		if seed, err := decode(); err == nil && len(seed) == 32 {
			return newPrivkey(seed), nil
		}
	}
	return Privkey{}, fmt.Errorf("%w: want 32 bytes in hex, base64 or base32", ErrKey)
}

// Reveal returns the key's text in standard base64. It is for `key export`,
// `key generate` and volume.json only.
func (k Privkey) Reveal() string {
	seed := k.seed()
	return base64.StdEncoding.EncodeToString(seed[:])
}

// RevealSecret returns the Secret: BLAKE2s-256 of the key's 32 bytes.
func (k Privkey) RevealSecret() [32]byte {
	seed := k.seed()
	return blake2s.Sum256(seed[:])
}

// Public returns the key's public half.
func (k Privkey) Public() (p Pubkey) {
	seed := k.seed()
	copy(p[:], ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
	return p
}

// Sign returns the 64-byte ed25519 signature of msg.
func (k Privkey) Sign(msg []byte) []byte {
	seed := k.seed()
	return ed25519.Sign(ed25519.NewKeyFromSeed(seed[:]), msg)
}

// IsZero tells whether k is the zero value, which is no key.
func (k Privkey) IsZero() bool { return k == Privkey{} }

// Sealer returns the Sealer of the key's Secret.
func (k Privkey) Sealer() *Sealer { return NewSealer(k.RevealSecret()) }

// Pubkey is an ed25519 public key. It names a volume.
type Pubkey [32]byte

// ParsePubkey reads 64 hex digits; anything else is ErrKey.
func ParsePubkey(hexText string) (p Pubkey, err error) {
	b, err := hex.DecodeString(hexText)
	if err != nil || len(b) != len(p) {
		return Pubkey{}, fmt.Errorf("%w: want 64 hex digits", ErrKey)
	}
	copy(p[:], b)
	return p, nil
}

// String returns the key in lower-case hex, as in URLs and folder names.
func (p Pubkey) String() string { return hex.EncodeToString(p[:]) }

// MarshalText gives what String does.
func (p Pubkey) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParsePubkey does.
func (p *Pubkey) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePubkey(string(text))
	return err
}

// Verify tells whether sig is p's signature of msg.
func (p Pubkey) Verify(msg, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(p[:], msg, sig)
}
