// Command crash shows that a volume is right after a crash at any moment.
//
// A recorder, a small FUSE file, stands for the disk: a loop device over it
// sends every write and flush of the pool there, and they are logged in order.
// On the pool the real driver (packages lazy and fusefs) serves a volume of
// which a part is still remote, from a real sealed snapshot; applications,
// processes of their own, write, cut, extend, punch, rename, link, create,
// remove and fsync in it, while readers and the hydrator fill it.
//
// Terms: an entry is a request in the recorder's log; a moment is a number of
// entries; an image is the device at a moment, with all entries up to it or
// without a random half of the pages that were written since the last flush.
//
// Each image is mounted, which replays BTRFS's log; the volume is opened as the
// daemon opens it, and every name and every sector of every file is compared
// with the model: as it is, and again when everything has been fetched.
//
//   - What an fsync promised before the moment is there.
//   - Any other sector is what it was, or became, by one of the operations
//     that had begun. What nobody wrote is what the snapshot has: never zeros.
//   - A name stands for what it stood for when it was last durable, or for
//     something that it became since. No file and no sibling is lost.
//   - The complete volume has no file with a wrong count of names, and none
//     that nobody changed with another mode or time.
//
// What BTRFS itself does is not held against the driver; the flag -plain
// runs the same without the driver. Two such things are known, see staleTail
// and treeLog; docs/CRASH.md says more.
//
// With the build tag crashtest a rule of package lazy can be switched off; -rules shows
// that the test then fails.
//
// One goroutine for each application; everything else happens one after the
// other. A run that is killed leaves a mount of the recorder and of the pool under -dir.
//
//	go run -tags crashtest ./tests/crash -images 2000 -rules 200
package main
