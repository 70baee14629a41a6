// Command start measures how long the driver needs to its socket, with a pool of many volumes: Docker disables a plugin whose socket comes
// late. It runs the real binary on a real pool, whose volumes are made through package volume, and prints for each of several starts the time
// to an answer on the socket, and to the list of all volumes; then the medians. It fails where the median is above -limit.
//
//	go run ./tests/bench/start -volumes 1000 -rounds 9
package main
