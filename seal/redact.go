package seal

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
)

const redacted = "[redacted]"

var (
	_ fmt.Formatter          = Privkey{}
	_ fmt.GoStringer         = Privkey{}
	_ fmt.Stringer           = Privkey{}
	_ json.Marshaler         = Privkey{}
	_ encoding.TextMarshaler = Privkey{}
	_ fmt.Formatter          = Sealer{}
	_ fmt.Stringer           = Sealer{}
	_ fmt.Formatter          = (*Passphrase)(nil)
	_ fmt.Stringer           = (*Passphrase)(nil)
	_ fmt.Formatter          = SealedKey{}
	_ fmt.Stringer           = SealedKey{}
	_ json.Marshaler         = SealedKey{}
	_ encoding.TextMarshaler = SealedKey{}
)

// String returns "[redacted]".
func (Privkey) String() string { return redacted }

// GoString returns "[redacted]".
func (Privkey) GoString() string { return redacted }

// Format prints "[redacted]" for every verb.
func (Privkey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText gives "[redacted]"; what it gives does not parse as a key.
func (Privkey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON gives "[redacted]".
func (Privkey) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// String returns "[redacted]".
func (Sealer) String() string { return redacted }

// Format prints "[redacted]" for every verb.
func (Sealer) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String returns "[redacted]".
func (*Passphrase) String() string { return redacted }

// Format prints "[redacted]" for every verb.
func (*Passphrase) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText gives "[redacted]".
func (*Passphrase) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// String returns "[redacted]": a sealed key is safe where it is meant to be, and has no business in a log.
func (SealedKey) String() string { return redacted }

// Format prints "[redacted]" for every verb.
func (SealedKey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText gives "[redacted]"; what it gives does not parse as a key.
func (SealedKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON gives "[redacted]".
func (SealedKey) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
