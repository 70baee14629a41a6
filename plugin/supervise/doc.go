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
// with at most maxFDs descriptors (SCM_RIGHTS). The supervisor begins: hello, each item, end. From then on the worker speaks: put, drop,
// ready; the supervisor says nothing more but whether there is a holder. Nothing is acknowledged: what was sent before the worker died is still read. Unknown kinds and fields are ignored, so that
// supervisor and worker may be of different versions; a worker that finds a protocol version above its own says so and works
// with what it knows.
//
// # The holder
//
// A holder (Hold) is a process outside the container that the supervisor is PID 1 of. What blocks others is kept there as well, so that it outlives
// the supervisor: a kill of PID 1, `docker plugin disable` and `upgrade`, a restart of the service. It listens on a socket in the state folder, which
// both see; only root may speak to it, and only root is spoken to. To a supervisor the holder is what a supervisor is to its
// worker, in the same messages: hello, items, end; then put, drop, ready. One supervisor is connected at a time; another one waits. One message more, holder, tells
// the worker whether there is one: then it leaves mounts that are in use as they are when it is told to end.
//
// The holder is alone, served, or counting: alone has no items that anybody waits for; served from a supervisor's ready to the end of its connection;
// then it counts, up to HoldOptions.Limit, and lets go of everything. Whatever it says or does not say, a supervisor goes on.
//
//	what dies              what is found
//	worker                 the supervisor has all items, as without a holder
//	supervisor             its worker ends with it. The holder has what the supervisor had said to it, and hands it to the next one. What a worker had put and
//	                       the supervisor had not yet passed on is lost with both: a mount of which nobody was told yet
//	supervisor, in a drop  the holder has an item too many; the next worker finds that its mount is gone, and drops it again
//	holder                 the supervisor has all items, and tells them to the next holder
//	holder and supervisor  the mounts end, as they would without a holder: ENOTCONN
//	the machine            nothing: there are no mounts
//
// # Guarantees
//
//   - An item is there for the next worker from the moment that Put has returned until Drop is called.
//   - A worker that dies is started again at once; one that dies soon after its start, again and again, after pauses that grow to maxPause.
//   - Where no worker was ready for the hold time, items whose holding makes others wait are let go of: processes that use a mount
//     then get ENOTCONN, and can be killed.
//   - The worker does not outlive the supervisor.
//   - With a holder, items that block others are there for the next supervisor, if that comes within the holder's limit.
//   - SIGTERM and SIGINT are passed on; the supervisor ends when the worker has.
//   - SIGHUP replaces the worker by what is now at the program's path; where that does not become ready, the program of before is started again. Where
//     it does, the supervisor becomes that program as well (execve), with its number, its worker and all that it holds. Before that the new program has to
//     show that it can go on with what it will be handed; if not, the supervisor stays what it is.
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
//
// and on the host
//
//	err := supervise.Hold(ctx, supervise.HoldOptions{Socket: "/var/lib/fractal/holder/socket", Log: log})
package supervise
