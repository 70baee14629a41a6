// Package badinput shows what a volume does when what it is given is wrong: blocks that are cut, flipped, swapped, replayed, late or
// refused; blocks that another key sealed; manifests that are forged or old; a Hive or a block store that is down, slow
// or answers 500.
//
// Nothing is replaced: two machines (volume.Manager) on a BTRFS pool in a loop file, FUSE mounts, a hive.Server and an ipfs.Node
// behind real HTTP listeners. The faults are put between the client and the server, where a network has them. Every test
// shows three things: the application gets the right bytes or an error (EIO, or it waits), never anything else; the log names the
// volume and the CID; and when the fault is gone, work goes on without help.
//
// The tests need root, BTRFS and FUSE, and fail without them.
package badinput
