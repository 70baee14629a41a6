// Command demo shows the main job on this machine, with real parts: a
// PostgreSQL whose volume lives on device A; A dies; device B, which shares
// nothing with A but the network, mounts the volume at once, and the database
// answers while its blocks are still arriving.
//
// Devices are fractal-lazy daemons with a root, a socket, an identity and a
// BTRFS of their own; the Hive and the block store are a third process. B
// reaches them through a link of home speed (package kit's Relay). A device C
// does the same in the old way, everything first, over an equal link. The
// command prints one table, checks every row's checksum with the network
// unplugged, and leaves nothing mounted or running.
//
// With -working it compares failovers with and without a recorded working set instead (working.go).
//
//	make demo
//	go run ./tests/demo -binary bin/fractal-lazy [-short]
package main
