package plugin

import (
	"fmt"

	"fractal-lazy/volume"
)

// MaxName is the longest name of a volume, in bytes.
const MaxName = 128

// CheckName returns volume.ErrName unless name is [A-Za-z0-9][A-Za-z0-9_.-]*, at most MaxName bytes. Docker itself passes names such as
// "/etc" or "../../evil" through.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxName
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			ok = false
		}
	}
	if ok {
		return nil
	}
	shown := name
	if len(shown) > MaxName {
		shown = shown[:MaxName] + "..."
	}
	return fmt.Errorf("%w: %q: it begins with a letter or a digit, goes on with letters, digits, '_', '.' and '-', and has at most %d characters", volume.ErrName, shown, MaxName)
}
