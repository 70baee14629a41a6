//go:build !crashtest

package mutant

// Possible tells whether this program can have a fault.
const Possible = false

// Is tells whether the program has the fault.
func Is(Mutant) bool { return false }
