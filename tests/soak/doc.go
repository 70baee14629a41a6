// Command soak lets a machine work for a long time as machines do: over and over it takes a volume that it has never seen, works on
// it while it is fetched, takes snapshots, unmounts and mounts it again, brings the rest, and removes it. What is read is checked. Before the first and
// after each of these lives the daemon's memory, goroutines and descriptors are noted; they have to stay where they were.
//
//	make soak                    20 minutes
//	make soak SOAK="-minutes 60"
//
// Its test runs two lives, in CI.
package main
