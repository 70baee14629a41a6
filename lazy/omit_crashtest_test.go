//go:build crashtest

package lazy_test

import (
	"flag"
	"testing"

	"fractal-lazy/lazy"
)

var omit = flag.Int("omit", 0, "the number of a rule to switch off")

func omitRule(t *testing.T) {
	check(t, lazy.Omit(*omit))
	t.Cleanup(func() { check(t, lazy.Omit(0)) })
}
