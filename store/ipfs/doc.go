// Package ipfs keeps blocks at an IPFS node, over HTTP. It has two halves: a
// client (NewClient), which is a store.Store, and a Node, which is what
// `fractal-lazy hive` serves. The client does not know which of a Kubo daemon
// and a Node it talks to; Kubo's HTTP API is the protocol between them.
//
// # What the client asks for
//
//	Get        GET  /ipfs/{cid}?format=raw (trustless gateway)
//	Has        POST /api/v0/block/stat, offline, 16 at a time
//	PutMany    POST /api/v0/dag/import, one CARv1 stream, pin-roots=false
//	Pin        POST /api/v0/pin/add, recursive, with progress
//	PinUpdate  POST /api/v0/pin/update, unpin=false
//	Unpin      POST /api/v0/pin/rm
//	Pinned     POST /api/v0/pin/ls, type=recursive
//
// The token goes with each as a bearer token, never to another host than that
// of the URL, and shows up in no error.
//
// # What a Node guarantees
//
//   - A block is verified before it is taken, and durable before dag/import or
//     block/put answers: its file is synced, then renamed into place, then the
//     folders are synced. A block that was there already is found to be so.
//   - Only raw and dag-cbor blocks under CIDv1 with a whole SHA-256 are taken,
//     of at most 2 MiB, and dag-cbor only where it can be decoded.
//   - A pin reads nodes and looks raw blocks up without reading them. A pin
//     that was acknowledged is durable.
//   - repo/gc removes what no pin reaches, but spares what is younger than
//     NodeOptions.Grace: between the import of a snapshot and its pin nothing
//     else protects the blocks. A block's age counts from when it was last
//     put, imported or asked for by block/stat, written anew or not; so an
//     upload that takes longer than the grace ends with a Pin that fails with
//     store.ErrNotFound, and Has tells what to put again. ?force=true collects
//     without grace. Pins wait for a collection to end; uploads and reads do
//     not. Where something below a pin cannot be read, nothing is removed.
//   - The gateway serves blocks and CARs, and asks for no token.
//
// All calls may come at once. One process has a folder open at a time.
//
// # After a crash
//
// Opening removes files that were being written. Everything acknowledged is
// there; of a stream that was under way, the batches (64 MiB or 512 blocks) that
// were through. Where the client was cut off, and not the node, everything that
// had arrived is there.
//
// # On the disk
//
//	blocks/    flatfs, next-to-last/1: one file a block, 32 folders
//	pins/      leveldb: boxo's pin records and indexes
//	identity   the key of the peer id that the command id tells
//
// # A Kubo daemon behind the client
//
// Tried with Kubo 0.44.0-dev (built from source; set KUBO to the binary to
// repeat it: TestKubo_*). It passes the same suite as a Node, online and with
// --offline. What is to be known of it:
//
//   - It does not sync what it writes (Datastore.Spec of the flatfs mount has
//     "sync": false): an acknowledged block can be lost with the power. Set it
//     to true in the spec, which Kubo allows, for the promise of store.PutMany.
//   - Run it without --enable-gc: its collection has no grace and takes what
//     is imported and not yet pinned.
//   - Set Gateway.NoFetch, or a Get of a missing block does not answer 404
//     but waits for the network, up to 30 s, then answers 504.
//   - Online, pin/add and pin/update of something incomplete search the
//     network without end, whatever the offline option says: hence
//     Options.PinStall. With `ipfs daemon --offline` they fail at once.
//   - Pinning again takes the old pin away while it walks; the client asks
//     first whether the root is pinned.
//   - Under the host name localhost its gateway redirects to a subdomain for
//     each CID; the client sends 127.0.0.1 as the Host there.
//   - API.Authorizations answers 403 to a wrong token; the gateway has none.
//   - A CAR may have no roots; its blocks may be up to 2 MiB.
//   - CAR streams cost it the least CPU time (BenchmarkWays, docs/SNAPSHOTS.md).
//   - All failures of commands are status 500 with code 0; only their text
//     tells them apart (see classOf).
//
// # Example
//
//	n, err := ipfs.OpenNode(ipfs.NodeOptions{Dir: "/var/lib/hive/ipfs"})
//	...
//	go http.Serve(listener, n.Handler())
//	s, err := ipfs.NewClient(ipfs.Options{RPC: "http://127.0.0.1:7070", Token: token})
//	...
//	err = s.PutMany(ctx, blocks)
//	err = s.PinUpdate(ctx, prev, next)
package ipfs
