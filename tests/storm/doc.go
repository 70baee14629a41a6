// Package storm kills the worker of a running driver again and again, at random moments, while processes use its volumes in every way that matters: archives,
// names, locks, files without names, git, SQLite, stores through mappings, PostgreSQL with pgbench. First on a volume that is all here, then on
// another machine, while the same volume is still fetched. Nobody who uses the volume may see an error, and everything has to be right at
// the end, on a new mount too.
//
// FRACTAL_KILLS says how often in all, at least; without it 30.
package storm
