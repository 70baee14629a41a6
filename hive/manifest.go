package hive

import (
	"crypto/sha512"
	"fmt"
	"strings"

	"fractal-lazy/seal"

	"github.com/google/uuid"
)

// Bounds of a manifest, in bytes. The format has none; a decoder that believes a length from outside needs them.
const (
	MaxPath     = 4096
	MaxData     = 1024
	MaxManifest = 64 << 10 // encoded, without the signature

	signatureSize = 64
	maxSigned     = MaxManifest + signatureSize

	// MinChildSize is the least Size that the API accepts of a manifest that has a parent.
	MinChildSize = 64
)

// Manifest describes one snapshot.
type Manifest struct {
	Creation   uint64    // Unix time, seconds
	Machine    uuid.UUID // who made the snapshot
	Path       string    // of the snapshot on that machine; UTF-8, at most MaxPath bytes
	Size       uint64    // bytes that this snapshot added; at least MinChildSize with a parent
	SizeTotal  uint64    // Size plus the parent's SizeTotal
	Generation uint64    // above the parent's
	Parent     *Parent   // nil: the first of its chain
	Data       string    // ipfs://<CID>; UTF-8, at most MaxData bytes
}

// Parent names the manifest before.
type Parent struct {
	Hash Hash
	// Volume is set only where the parent is in another volume (a clone).
	Volume *ParentVolume
}

// ParentVolume is what a clone's manifest says of the volume that it was made from. The format puts the Secret of that volume
// here in plain sight: whoever reads the manifest, the Hive first of all, can decrypt every block of the parent's volume, the
// later ones too. It cannot sign for it.
type ParentVolume struct {
	Pubkey seal.Pubkey
	Secret [32]byte
}

// Format shows the public key alone, whatever the verb, so that no log line shows the Secret.
func (v ParentVolume) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "volume %s", v.Pubkey) }

// MarshalJSON shows the public key alone.
func (v ParentVolume) MarshalJSON() ([]byte, error) {
	return []byte(`{"pubkey":"` + v.Pubkey.String() + `"}`), nil
}

// Hash returns the SHA-512 of the encoded manifest.
func (m *Manifest) Hash() Hash { return sha512.Sum512(m.Encode()) }

// Sign returns the encoded manifest with its ed25519 signature behind. The caller owns the bytes.
func (m *Manifest) Sign(k seal.Privkey) []byte {
	b := m.Encode()
	return append(b, k.Sign(b)...)
}

// Open checks a signed manifest against the volume's key and decodes it. The signature comes first: nothing that a stranger
// made is parsed. The error is ErrSignature or ErrFormat.
func Open(p seal.Pubkey, signed []byte) (*Manifest, error) {
	body, err := checkSignature(p, signed)
	if err != nil {
		return nil, err
	}
	return DecodeManifest(body)
}

// checkSignature returns the encoded manifest within signed, a slice of it.
func checkSignature(p seal.Pubkey, signed []byte) ([]byte, error) {
	if len(signed) <= signatureSize {
		return nil, fmt.Errorf("%w: %d bytes hold no manifest and its signature", ErrFormat, len(signed))
	}
	if len(signed) > maxSigned {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrFormat, maxSigned)
	}
	cut := len(signed) - signatureSize
	if !p.Verify(signed[:cut], signed[cut:]) {
		return nil, fmt.Errorf("%w: not signed by volume %s", ErrSignature, p)
	}
	return signed[:cut:cut], nil
}

// Root returns the CID text of Data, ErrFormat where Data is not of the form ipfs://<CID>. The CID itself is not parsed.
func (m *Manifest) Root() (string, error) {
	cid, ok := strings.CutPrefix(m.Data, "ipfs://")
	if !ok || cid == "" {
		return "", fmt.Errorf("%w: its data is not at ipfs://<CID>", ErrFormat)
	}
	return cid, nil
}
