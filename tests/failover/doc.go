// Package failover tests the whole program as its users have it: the binary,
// a `fractal-lazy hive` and several `fractal-lazy run`, each device with a pool, a
// socket and an identity of its own, which share nothing but the network.
// Everything is asked for on the command line.
//
// The binary is built once a run, with the race detector; a report of it in
// any log fails the test that the process belongs to. FRACTAL_RACE=0 builds it
// without. The tests need root, BTRFS and FUSE.
//
// A machine that dies is a daemon killed with -9 and its dead mount taken
// away, as a reboot would. What the machine itself loses at a power cut is the
// subject of other tests.
package failover
