package seal

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// ErrPassphrase: a sealed key that this passphrase does not open; or it was changed since it was sealed.
var ErrPassphrase = errors.New("the passphrase does not open the sealed key")

// sealedKeyMark begins the text of a sealed key. What follows is base64 (URL alphabet, without padding) of its bytes.
const sealedKeyMark = "fractal-key-v1."

// The bytes of a sealed key; docs/FORMAT.md has the table.
const (
	sealedKeyVersion = 1
	atPasses         = 1
	atThreads        = 2
	atMemory         = 3
	atSalt           = 7
	atPubkey         = atSalt + saltSize
	atNonce          = atPubkey + 32
	atSealed         = atNonce + chacha20poly1305.NonceSizeX
	sealedKeySize    = atSealed + 32 + chacha20poly1305.Overhead
)

// MaxSealedKey bounds the text of a sealed key, in bytes: all of version 1 have this length.
const MaxSealedKey = len(sealedKeyMark) + (sealedKeySize*8+5)/6

// sealedKeyLabel is bound to each sealed key, so that nothing else sealed with a key from a passphrase passes for one.
const sealedKeyLabel = "fractal-lazy v1 sealed key"

// SealedKey is a Privkey sealed with a passphrase. It says in the open which public key it has and what opening it costs; both are
// authenticated. Who has it may try passphrases on it for as long as he likes. The zero value is none.
type SealedKey struct{ b [sealedKeySize]byte }

// ParseSealedKey reads what Reveal gives; white space around it is ignored. Anything else is ErrKey, and so is one that asks for more memory
// or time than this program gives: see the bounds in docs/FORMAT.md. The text itself is never in the message.
func ParseSealedKey(text string) (s SealedKey, err error) {
	text = strings.TrimSpace(text)
	bare, ok := strings.CutPrefix(text, sealedKeyMark)
	if !ok || len(text) != MaxSealedKey || strings.ContainsAny(bare, "\r\n") { // a decoder would pass over line breaks
		return SealedKey{}, fmt.Errorf("%w: want a sealed key: %s and %d more characters", ErrKey, sealedKeyMark, MaxSealedKey-len(sealedKeyMark))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(bare)
	if err != nil || len(b) != sealedKeySize {
		return SealedKey{}, fmt.Errorf("%w: the sealed key is damaged", ErrKey)
	}
	if b[0] != sealedKeyVersion {
		return SealedKey{}, fmt.Errorf("%w: sealed key of version %d, this program knows %d", ErrKey, b[0], sealedKeyVersion)
	}
	copy(s.b[:], b)
	if err := s.cost().check(); err != nil {
		return SealedKey{}, err
	}
	return s, nil
}

// IsSealedKey tells whether text looks like a sealed key, damaged or not.
func IsSealedKey(text string) bool {
	return strings.HasPrefix(strings.TrimSpace(text), "fractal-key-v")
}

// Reveal returns the sealed key's text: one word of letters, digits, '-', '_' and '.'.
func (s SealedKey) Reveal() string {
	return sealedKeyMark + base64.RawURLEncoding.EncodeToString(s.b[:])
}

// IsZero tells whether s is the zero value.
func (s SealedKey) IsZero() bool { return s == SealedKey{} }

// Public returns the public key that the sealed key says it has. That it says so truly is known once it is opened.
func (s SealedKey) Public() (p Pubkey) {
	copy(p[:], s.b[atPubkey:])
	return p
}

func (s SealedKey) cost() (c cost) {
	c.passes, c.threads = s.b[atPasses], s.b[atThreads]
	c.memory = binary.LittleEndian.Uint32(s.b[atMemory:])
	copy(c.salt[:], s.b[atSalt:])
	return c
}

// SealKey seals k. All keys that one Passphrase seals have the salt of the first that it opened at today's cost, or a new one: so that
// a program that opens many of them pays for the passphrase once. Nonces are random.
func (p *Passphrase) SealKey(k Privkey) (SealedKey, error) {
	var nonce [chacha20poly1305.NonceSizeX]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return SealedKey{}, fmt.Errorf("seal key: %w", err)
	}
	c, err := p.ownCost()
	if err != nil {
		return SealedKey{}, fmt.Errorf("seal key: %w", err)
	}
	return p.sealKey(k, c, nonce), nil
}

func (p *Passphrase) sealKey(k Privkey, c cost, nonce [chacha20poly1305.NonceSizeX]byte) (s SealedKey) {
	s.b[0], s.b[atPasses], s.b[atThreads] = sealedKeyVersion, c.passes, c.threads
	binary.LittleEndian.PutUint32(s.b[atMemory:], c.memory)
	copy(s.b[atSalt:], c.salt[:])
	pub := k.Public()
	copy(s.b[atPubkey:], pub[:])
	copy(s.b[atNonce:], nonce[:])
	seed := k.seed()
	p.aead(c).Seal(s.b[:atSealed], nonce[:], seed[:], s.bound())
	return s
}

// bound is the associated data: a label, and all that is in the open but the nonce.
func (s SealedKey) bound() []byte { return append([]byte(sealedKeyLabel), s.b[:atNonce]...) }

// OpenKey opens a sealed key, or returns ErrPassphrase. The first key of each salt takes some tenths of a second and 64 MiB, or what
// the key asks for within the bounds; one after the other in the whole process.
func (p *Passphrase) OpenKey(s SealedKey) (Privkey, error) {
	if s.IsZero() {
		return Privkey{}, ErrKey
	}
	c := s.cost()
	seed, err := p.aead(c).Open(nil, s.b[atNonce:atSealed], s.b[atSealed:], s.bound())
	if err != nil {
		return Privkey{}, ErrPassphrase
	}
	k := newPrivkey(seed)
	clear(seed)
	if k.Public() != s.Public() {
		return Privkey{}, ErrPassphrase // sealed by another program, wrongly
	}
	p.adopt(c)
	return k, nil
}
