package seal

import (
	"crypto/cipher"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
)

// Kind says what is sealed. It is authenticated with the content, so that one
// kind cannot be passed off as another.
type Kind byte

// The kinds of format version 1.
const (
	KindRoot      Kind = 1
	KindDir       Kind = 2 // page of a directory
	KindDirIndex  Kind = 3 // index of pages
	KindFileIndex Kind = 4
	KindData      Kind = 5 // file content: one chunk, or a pack of small pieces
	KindTrace     Kind = 6 // recorded working set
)

// Overhead is what Seal adds to a plaintext, in bytes: nonce and tag.
const Overhead = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// Labels of the keys derived from a Secret: each key is BLAKE2b-256, keyed with
// the Secret, of its label.
const (
	labelEncrypt = "fractal-lazy v1 encrypt"
	labelNonce   = "fractal-lazy v1 nonce"
	labelName    = "fractal-lazy v1 name"
)

// Sealer seals and opens with keys derived from a volume's Secret. Safe for
// concurrent use.
type Sealer struct {
	aead     cipher.AEAD
	nonceKey *[32]byte // pointers, so that a print by reflection shows no bytes
	nameKey  *[32]byte
}

// NewSealer derives the keys of secret.
func NewSealer(secret [32]byte) *Sealer {
	encrypt := derive(secret, labelEncrypt)
	aead, err := chacha20poly1305.NewX(encrypt[:])
	if err != nil { // the key has the one right length
		panic(err)
	}
	return &Sealer{aead: aead, nonceKey: derive(secret, labelNonce), nameKey: derive(secret, labelName)}
}

func derive(secret [32]byte, label string) *[32]byte {
	h := keyed(32, secret[:])
	h.Write([]byte(label))
	return (*[32]byte)(h.Sum(nil))
}

// keyed returns BLAKE2b with an output of size bytes under a 32-byte key.
func keyed(size int, key []byte) hash.Hash {
	h, err := blake2b.New(size, key)
	if err != nil { // size and key length are constants within its bounds
		panic(err)
	}
	return h
}

// Seal appends nonce, ciphertext and tag to dst and returns the result, Overhead
// bytes longer than plain. It is deterministic: the nonce is a keyed BLAKE2b-192
// of kind, ad and plain. plain and dst must not overlap.
func (s *Sealer) Seal(dst []byte, kind Kind, ad, plain []byte) []byte {
	h := keyed(chacha20poly1305.NonceSizeX, s.nonceKey[:])
	var head [9]byte // without the length, bytes could move between ad and plain
	head[0] = byte(kind)
	binary.LittleEndian.PutUint64(head[1:], uint64(len(ad)))
	h.Write(head[:])
	h.Write(ad)
	h.Write(plain)
	var nonce [chacha20poly1305.NonceSizeX]byte
	h.Sum(nonce[:0])
	dst = append(dst, nonce[:]...)
	return s.aead.Seal(dst, nonce[:], plain, bind(kind, ad))
}

// Open appends the plaintext to dst and returns the result, or returns ErrOpen
// and nothing else. sealed and dst must not overlap.
func (s *Sealer) Open(dst []byte, kind Kind, ad, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, ErrOpen
	}
	nonce, text := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	out, err := s.aead.Open(dst, nonce, text, bind(kind, ad))
	if err != nil {
		return nil, ErrOpen
	}
	return out, nil
}

// bind is the associated data of the cipher: the kind, then the caller's.
func bind(kind Kind, ad []byte) []byte {
	b := make([]byte, 0, 1+len(ad))
	return append(append(b, byte(kind)), ad...)
}

// NameHash is a keyed hash of a name, for page boundaries that tell nothing
// about names to who does not have the Secret.
func (s *Sealer) NameHash(name string) uint64 {
	h := keyed(8, s.nameKey[:])
	h.Write([]byte(name))
	var sum [8]byte
	return binary.LittleEndian.Uint64(h.Sum(sum[:0]))
}
