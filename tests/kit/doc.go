// Package kit is what the whole-system tests and the demo are made of: real
// pools, links, processes, databases and trees, and ways to compare and to
// prove that nothing was left behind.
//
//   - [Pool], [NewPool]: a BTRFS in a file
//   - [Relay]: a TCP link with a round trip time, a bandwidth, and a plug
//   - [Process]: a program with its log, its health and its peak of memory
//   - [Postgres]: a PostgreSQL 15 on a given data directory
//   - [Tree], [Describe], [Diff]: a tree with every kind of file, and whether
//     two trees are the same to whoever reads them
//   - [Inside]: a mount name space of one's own for a whole program
//   - [Leaks]: mounts, loop devices and processes that are left
//
// Everything runs as root, listens on loopback only, and returns errors; the
// functions that take a testing.TB fail the test instead. What a
// type starts ends with its Close (or Kill9, Term, Stop), which waits.
//
// A test that is killed leaves its pools mounted and its processes running: Leaks
// with the folder they were made in names them.
//
// # Example
//
//	dir := kit.Pool(t)
//	kit.Must(t, kit.Tree(dir+"/a", kit.TreeOptions{}))
//	before, err := kit.Describe(dir + "/a")
//	...
//	if d := kit.Diff(before, after); d != "" {
//		t.Error(d)
//	}
package kit
