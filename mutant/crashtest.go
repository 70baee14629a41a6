//go:build crashtest

package mutant

import "os"

// Possible tells whether this program can have a fault.
const Possible = true

var here = Mutant(os.Getenv(Env))

// Is tells whether the program has the fault.
func Is(m Mutant) bool { return m == here }
