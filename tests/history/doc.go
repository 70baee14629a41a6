// Command history lets random histories happen to volumes on two machines, which crash at any moment, and holds everything that survives against a model.
//
// Terms: a machine is a pool of its own and a driver that is a process of its own, whose death with SIGKILL is a crash; a place is a Hive and a block store; a tree
// is one exact state of a volume's files; a history is some operations in a world of two machines, one place that both use, a second place, and readers that have nothing but keys.
//
// The model of the files is plain BTRFS: each edit is made on the mount and on a folder that no code under test touches, and the folder's read-only
// snapshots are the trees. So what a snapshot has to hold is known without reading it, and a volume stays half fetched until somebody does. Of the volumes the model
// knows which tree the data of each machine is, which snapshots there are, here and in the network, and which tree each one holds. After a crash it may know no
// more than that something is one of two trees (a guess); whatever reads it decides, and everything that has to be the same is decided with it.
//
// After each operation (look):
//
//   - a new snapshot holds what the data was at some moment since the last look
//   - a snapshot is gone only where an operation was to remove it, or where what it held was published, or is in another one that grew out of it
//   - generations are one line: each follows the newest, and is of a machine whose data came from that
//
// After a mount its content is the newest snapshot's where another machine published since, else what this machine had; what it replaces is in some snapshot. After a
// collection no block is missing below any snapshot. At the end everything is brought to rest: then the blocks of the store are exactly those that the
// manifests reach, and every snapshot, local or not, is read back and compared in all that kit.Describe sees, on a machine that never had the volume.
//
// Offline copies (files) are made, brought back, and at the end brought to a place that has never seen anything; diffs are held against the trees, name by name; damaged blocks have to
// be found by a verification. Faults of package mutant are put in on purpose, to show that the histories find them (-mutants).
//
// All machines have a clock that the history sets, so that retention patterns and schedules meet years in minutes.
//
// What is not here: power cuts (tests/crash), the death of the worker under a mount that goes on (tests/storm), single file operations (tests/model).
//
//	go run ./tests/history -ops 3000 -seed 7
//	go run ./tests/history -seed 12 -ops 150 -v     # the history that failed, again: but for timing the same
package main
