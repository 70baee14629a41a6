package retention

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrPattern: the text is no pattern. The message says what is wrong with it.
var ErrPattern = errors.New("not a retention pattern")

// Bounds of a pattern's text.
const (
	maxTimes  = 64
	maxDigits = 9
)

// units of a time, in seconds.
var units = map[byte]int64{'m': 60, 'h': 3600, 'd': 24 * 3600, 'w': 7 * 24 * 3600, 'y': 365 * 24 * 3600}

// Pattern is a parsed pattern. The zero value is none: Plan then keeps everything.
type Pattern struct {
	times []span
}

// span is one time of a pattern.
type span struct {
	text    string
	seconds int64
}

// Parse reads a pattern. The error is ErrPattern.
func Parse(text string) (Pattern, error) {
	bad := func(format string, args ...any) (Pattern, error) {
		shown := text
		if len(shown) > 100 {
			shown = shown[:100] + "..."
		}
		return Pattern{}, fmt.Errorf("%w: %q: %s", ErrPattern, shown, fmt.Sprintf(format, args...))
	}
	parts := strings.Split(text, ":")
	if len(parts) > maxTimes {
		return bad("it has more than %d times", maxTimes)
	}
	var p Pattern
	for _, s := range parts {
		n, ok := parseTime(s)
		if !ok {
			return bad("each part is a number with a unit, m, h, d, w or y, such as 4h:1d:2w:2y or 2h")
		}
		p.times = append(p.times, span{text: s, seconds: n})
	}
	if len(parts) == 2 && parts[0] == parts[1] {
		return bad("use %q to keep what is not older than that", parts[0])
	}
	for i := 1; i < len(p.times); i++ {
		if p.times[i].seconds <= p.times[i-1].seconds {
			return bad("each time has to be longer than the one before, and %s is not longer than %s", parts[i], parts[i-1])
		}
	}
	if len(parts) > 1 && p.times[0].seconds == 0 {
		return bad("only a single time may be 0")
	}
	return p, nil
}

func parseTime(s string) (seconds int64, ok bool) {
	if len(s) < 2 || len(s) > maxDigits+1 {
		return 0, false
	}
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		seconds = seconds*10 + int64(c-'0')
	}
	unit, ok := units[s[len(s)-1]]
	return seconds * unit, ok
}

// String returns the pattern as it was given.
func (p Pattern) String() string {
	var parts []string
	for _, t := range p.times {
		parts = append(parts, t.text)
	}
	return strings.Join(parts, ":")
}

// last is the age after which nothing is kept.
func (p Pattern) last() span { return p.times[len(p.times)-1] }

func (s span) over(age int64) bool { return age > s.seconds }

// age of a snapshot, in whole seconds.
func age(created, now time.Time) int64 { return int64(now.Sub(created) / time.Second) }
