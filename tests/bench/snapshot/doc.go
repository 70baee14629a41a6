// Command snapshot measures what a snapshot costs after a change, beside
// other tools that back the same change up: `make bench-snapshot`.
//
// A volume of many small files and a large one lives on a BTRFS in a file.
// Each row is a kind of change. After it the volume is snapshotted once for
// each tool, so that none reads what another has brought into the page cache, and
// the tools run one after the other, in an order that turns with each round.
//
//	ours     replica.Publish in a process of its own, with our IPFS node and Hive in
//	         it: encrypted, compressed, durable, pinned, and a manifest posted
//	send     btrfs send -p | zstd | openssl enc, into one file: only to be read
//	         as a whole, after all before it
//	restic   restic backup into a folder
//	borg     borg create into a folder
//
// Wall time is that of the processes, with their start; for ours the time of Publish
// alone, which is what the driver, a daemon, spends, stands beside it. Bytes are those
// that the backup grew by. Memory is the largest resident set, of a pipe the sum of its processes. A tool that is not
// installed has a row that says so.
package main
