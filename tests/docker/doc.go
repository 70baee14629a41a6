// Package docker tests the plugin in real Docker engines: `make test-docker`. The tests have the build tag docker, since they need packages
// that nothing else does.
//
// Terms. The world is what all tests share: a folder, three network name spaces on one bridge, a Hive in the first of them, and the engines
// A and B in the others. An engine is a dockerd of its own, with its own containerd, data, sockets and control groups, and a BTRFS pool for the
// state of its plugin; it stands for a machine.
//
// The plugin is made by `make plugin`, images by `docker import` of a tree of busybox, or of PostgreSQL as Debian installed it here: no
// registry is asked, but for the one that the test of install and upgrade starts.
//
// What is guaranteed. Nothing that runs on the host's own engine, or in its network, is touched. The tests run in a child of the test program; when
// it ends, in whatever way, the parent takes away what is left: processes, mounts, loop devices, control groups, name spaces, files. It says
// so, and fails, where the tests should have done that themselves.
//
// After a kill -9 of the parent the folder /tmp/fld-PID and the name spaces fld-PID-* stay; the next run removes what a dead one left.
package docker
