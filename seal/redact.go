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
