// Package supervise keeps what must not be lost when the driver's process ends, and starts it again.
//
// # Terms
//
// The supervisor is the process that Docker or systemd looks after. The worker is its child, and does everything. What the worker wants
// to have kept is an item: a key, a few bytes that only workers understand, and descriptors. The supervisor knows nothing of
// FUSE, of volumes or of sockets.
//
// # Protocol
//
// Supervisor and worker share a socket (SOCK_SEQPACKET), the worker's descriptor 3. Every message is one JSON object of at most maxMessage bytes
// with at most maxFDs descriptors (SCM_RIGHTS). The supervisor begins: hello, each item, end. From then on only the worker speaks: put, drop,
// ready. Nothing is acknowledged: what was sent before the worker died is still read. Unknown kinds and fields are ignored, so that
// supervisor and worker may be of different versions; a worker that finds a protocol version above its own says so and works
// with what it knows.
//
// # Guarantees
//
//   - An item is there for the next worker from the moment that Put has returned until Drop is called.
//   - A worker that dies is started again at once; one that dies soon after its start, again and again, after pauses that grow to maxPause.
//   - Where no worker was ready for the hold time, items whose holding makes others wait are let go of: processes that use a mount
//     then get ENOTCONN, and can be killed.
//   - The worker does not outlive the supervisor.
//   - SIGTERM and SIGINT are passed on; the supervisor ends when the worker has. SIGHUP replaces the worker by what is now at the program's
//     path; where that does not become ready, the program of before is started again.
//
// # Example
//
//	code, err := supervise.Run(ctx, supervise.Options{Args: []string{"worker"}, Hold: time.Minute, Log: log})
//
// and in the worker
//
//	keep, err := supervise.Attach()
//	for _, item := range keep.Items() { ... }
//	err = keep.Put(supervise.Item{Key: "mount/db", Data: b, Files: files, Blocks: true})
//	err = keep.Ready()
package supervise
