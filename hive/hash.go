package hive

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
)

// HashSize is the length of a Hash, in bytes.
const HashSize = sha512.Size

// Hash is the SHA-512 of an encoded manifest, without its signature. It names the manifest within its volume.
type Hash [HashSize]byte

// String returns the hash in lower-case hex, as it stands in URLs and in JSON.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns the hash in lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is ParseHash.
func (h *Hash) UnmarshalText(text []byte) error {
	p, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = p
	return nil
}

// ParseHash reads 128 hex digits of either case. Anything else is ErrFormat.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*HashSize {
		return Hash{}, fmt.Errorf("%w: a hash has %d hex digits, not %d", ErrFormat, 2*HashSize, len(s))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("%w: a hash consists of hex digits", ErrFormat)
	}
	return h, nil
}
