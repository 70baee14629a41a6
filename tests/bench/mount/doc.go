// Command mount measures how long a fresh machine needs for a volume that it
// has never seen: from the making of the volume with its key until the first
// listing of its root answers, and until a first file is read. It does so for
// 1,000 and for 100,000 files, over the loopback and over a link of home speed,
// and prints the ratio of the two sizes, which is to be at most 1.5, and what
// the same takes where everything is fetched first.
//
// Every figure is the median of several machines: each has a new pool, a new
// daemon and a new identity. Both trees have ten folders in the root, so that
// they differ in what a mount must not depend on.
//
//	make bench-mount
//	go run ./tests/bench/mount [-binary bin/fractal-lazy] [-rounds 7]
package main
