// Package arch has no code: its test reads the tables of ARCHITECTURE.md, who may import whom and why each dependency is there, and holds the
// code against them. So the drawing of the layers cannot drift away from the layers.
package arch
