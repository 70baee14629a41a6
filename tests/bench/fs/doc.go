// Command fs measures what applications get from a mounted volume whose files are all here: plain BTRFS, our mount, the stock
// loopback of go-fuse with its best options, and the plain subvolume mounted as -o mount=direct mounts it, side by
// side on one pool. Rounds are interleaved and figures are medians of the ratios of a round, for the machine may be busy; no absolute time is
// compared. Every command that it runs is printed.
//
// Each FUSE mount is served by a process of its own: this command again. Ours is set up as package volume does it, metrics included.
// With -settings it measures our mount with each of its settings off beside all of them on (docs/SPEED.md names them). With -counts it counts
// requests and system calls of the rows on names, which a busy machine does not change; that wants perf.
//
// It wants a mount name space of its own: one that is made meanwhile by somebody else copies the mounts of this one, and keeps them busy.
//
//	make bench-fs
//	make bench-fs BENCH=-short
//	make bench-fs BENCH=-settings
//	make bench-fs BENCH="-short -counts"
//	make bench-fs BENCH="-only meta -profile /tmp/profiles"   # then: go tool pprof build/bench-fs /tmp/profiles/mount-1.pprof
package main
