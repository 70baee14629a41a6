// Command posix holds a mount of ours against plain BTRFS with the suites that
// others wrote: pjdfstest, xfstests (group quick of generic) and fsx, and with an fsx of its
// own that also works on files that are still remote. It fails where the mount fails what BTRFS does not.
//
// The suites are no part of this repository: -pjdfstest and -xfstests name built
// checkouts. docs/POSIX.md says what is compared, and explains each difference that is left.
//
//	make posix PJDFSTEST=/src/pjdfstest XFSTESTS=/src/xfstests
//	go run ./tests/posix -xfstests /src/xfstests -tests "generic/001 generic/013"
//	go run ./tests/posix -ops 1000000
//
// # How it works
//
// It runs itself in a mount namespace of its own, where mount(8) finds our helper, and the users that xfstests asks for
// exist; the machine outside sees nothing of it. One process serves all mounts and touches none of them: suites
// are child processes, and the helper asks that process over a socket. Volumes lie on a loop-mounted BTRFS, and are opened
// as the daemon does, with packages lazy and fusefs over a published, sealed snapshot.
//
//   - local: everything was fetched before the first mount
//   - half: the volume takes names and content from a snapshot, and is never complete
package main
