// Package mutant names faults that tests put into the program on purpose, to show that they would find them.
//
// A program has none of them: Is is the constant false, and what stands behind it is not compiled in. A program built with the tag crashtest has the one that the
// environment variable FRACTAL_MUTANT names. `make history-mutants` lets the histories of tests/history find each.
//
// Is may be called at any time by anybody.
//
//	if mutant.Is(mutant.PurgeNewest) {
//		... // what a program with this fault does
//	}
package mutant
