// Package storm kills the worker of a running driver again and again, at random moments, under load: on a volume that is all here, and on one that is
// still fetched. Nobody who uses the volume may see an error, and every file has to be right at the end.
//
// FRACTAL_KILLS says how often in all; without it 30.
package storm
