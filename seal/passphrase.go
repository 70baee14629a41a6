package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Bounds of a passphrase, in bytes.
const (
	MinPassphrase = 8
	MaxPassphrase = 1024
)

// ErrNoPassphrase: bytes that are no passphrase. The bytes themselves are never in the message.
var ErrNoPassphrase = errors.New("not a passphrase")

// Cost of what this program seals: the second choice of RFC 9106, for machines with little memory.
const (
	ownPasses  = 3
	ownThreads = 4
	ownMemory  = 64 << 10 // KiB
)

// Bounds of what this program opens: a forged key must not eat all memory, nor keep a processor for minutes.
const (
	maxPasses  = 16
	maxThreads = 16
	minMemory  = 8 << 10   // KiB
	maxMemory  = 256 << 10 // KiB
	saltSize   = 16
)

// maxDerived bounds how many keys a Passphrase remembers, of so many salts.
const maxDerived = 16

// cost is all that Argon2id is given, but the passphrase.
type cost struct {
	passes, threads uint8
	memory          uint32 // KiB
	salt            [saltSize]byte
}

func (c cost) check() error {
	if c.passes < 1 || c.passes > maxPasses || c.threads < 1 || c.threads > maxThreads || c.memory < minMemory || c.memory > maxMemory {
		return fmt.Errorf("%w: the sealed key asks for %d passes over %d KiB with %d threads: more, or less, than this program takes", ErrKey, c.passes, c.memory, c.threads)
	}
	return nil
}

// deriving lets one Argon2id run at a time in the process: each takes its memory.
var deriving sync.Mutex

// Passphrase seals and opens Privkeys. Nothing shows it. It remembers what it derived: a copy of it in memory is as good as itself. Safe for
// concurrent use.
type Passphrase struct {
	masked, mask []byte // its bytes are masked XOR mask

	mu      sync.Mutex // taken before deriving
	derived map[cost]cipher.AEAD
	own     *cost // what SealKey uses; nil: not yet chosen
}

// NewPassphrase takes text as it is, but for line breaks at its end. It does not keep text.
func NewPassphrase(text []byte) (*Passphrase, error) {
	text = bytes.TrimRight(text, "\r\n")
	switch {
	case len(text) < MinPassphrase:
		return nil, fmt.Errorf("%w: it has less than %d bytes", ErrNoPassphrase, MinPassphrase)
	case len(text) > MaxPassphrase:
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrNoPassphrase, MaxPassphrase)
	case bytes.ContainsAny(text, "\r\n\x00"):
		return nil, fmt.Errorf("%w: it has more than one line", ErrNoPassphrase)
	}
	p := &Passphrase{masked: make([]byte, len(text)), mask: make([]byte, len(text)), derived: map[cost]cipher.AEAD{}}
	rand.Read(p.mask) // never fails; see crypto/rand
	subtle.XORBytes(p.masked, text, p.mask)
	return p, nil
}

// Equal tells whether both are the same text.
func (p *Passphrase) Equal(q *Passphrase) bool {
	a, b := p.text(), q.text()
	defer clear(a)
	defer clear(b)
	return subtle.ConstantTimeCompare(a, b) == 1
}

func (p *Passphrase) text() []byte {
	b := make([]byte, len(p.masked))
	subtle.XORBytes(b, p.masked, p.mask)
	return b
}

// aead is the cipher under the key that Argon2id makes of the passphrase at cost c, which is within the bounds.
func (p *Passphrase) aead(c cost) cipher.AEAD {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.derived[c]; a != nil {
		return a
	}
	if len(p.derived) >= maxDerived {
		clear(p.derived)
	}
	text := p.text()
	deriving.Lock()
	key := argon2.IDKey(text, c.salt[:], uint32(c.passes), c.memory, c.threads, chacha20poly1305.KeySize)
	debug.FreeOSMemory() // the collector would keep those 64 MiB for a while
	deriving.Unlock()
	clear(text)
	a, err := chacha20poly1305.NewX(key)
	if err != nil { // the key has the one right length
		panic(err)
	}
	clear(key)
	p.derived[c] = a
	return a
}

// ownCost is that of what is sealed now.
func (p *Passphrase) ownCost() (cost, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == nil {
		c := cost{passes: ownPasses, threads: ownThreads, memory: ownMemory}
		if _, err := rand.Read(c.salt[:]); err != nil {
			return c, err
		}
		p.own = &c
	}
	return *p.own, nil
}

// adopt makes the salt of a key that was opened that of the keys to be sealed, unless there is one, or it is of another cost.
func (p *Passphrase) adopt(c cost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == nil && c.passes == ownPasses && c.threads == ownThreads && c.memory == ownMemory {
		p.own = &c
	}
}
