// Package volume is what a volume is: its life cycle, its state on disk,
// mounting, taking over, recovery, and the schedule of snapshots and uploads.
//
// # Terms
//
// A volume is a BTRFS subvolume that belongs to a key. The Hive knows it by
// the public key, and Docker by its name, which only this machine knows. The
// writer is the one machine whose manifests the Hive takes. The base is the published snapshot that
// the local data comes from, or was last published as; data
// differs from it by what was written since, and by what was fetched since,
// which cannot be told apart without a walk and counts as a difference. A
// volume is fenced when the Hive names another writer while it is in use here.
// A volume is followed while its data is brought up to newer generations without a mount.
// A view is a read-only volume that shows one published snapshot for ever; it never becomes the writer.
//
// On the disk, below the root of a Manager:
//
//	machine-id, lock                     who this machine is; one daemon at a time
//	volumes/<pubkey>/data                subvolume: the files
//	volumes/<pubkey>/data.new            a new data being made
//	volumes/<pubkey>.import/...          a volume being taken over from Buttervolume; Open throws it away
//	volumes/<pubkey>/snapshots/<uuid>    read-only snapshots
//	volumes/<pubkey>/volume.json         everything else, the key included: 0600
//	volumes/<pubkey>/mounts.json         ids of the mounts in use, with the boot's id
//	volumes/<pubkey>/views/<uuid>/...    the same for each view
//	mnt/<name>                           mount points
//	trash/<uuid>/...                     removed, not yet deleted
//	nodes/                               cache of package replica
//
// # What is guaranteed
//
//   - Only the writer publishes: each upload, and each interval, begins by asking the
//     Hive who that is. Who lost the volume stops for good, keeps what was not published in a snapshot
//     (kind "divergent", never deleted but with the volume), and says so in its state and log.
//   - No change is thrown away that the Hive does not have: data makes room for a
//     newer snapshot only by becoming a local snapshot, and Remove refuses.
//   - A snapshot older than the newest one ever seen of the volume is never mounted.
//   - Keys on the disk are 0600, and sealed where the machine has a passphrase; while that is missing or wrong, the
//     volumes that it sealed are locked, and nothing else is.
//   - The writer is given back only when everything is published.
//   - Without the Hive a volume mounts where this machine was its last known
//     writer. If another one took it over meanwhile, that shows at the next
//     fencing check, as with any other fencing.
//   - Synchronize takes no writer, publishes nothing, and puts no change aside. What it fetches is no change.
//   - A restore loses nothing: the data before it is in a snapshot first.
//   - Nothing of a clone is published that its own key does not open, and nothing of the other volume's key is kept with it.
//   - A purge never takes the newest published snapshot, nor what anything on this machine still takes content from.
//   - List and Get answer from memory. Mount and Unmount answer within 20 s;
//     what takes longer goes on, and the same call again finds it.
//
// A fenced volume goes on serving what runs on it, reads and writes. To fail its writes
// would break an application in the middle of something, for no gain: what it writes goes nowhere
// but to the divergent snapshot. The next Mount after the last Unmount begins with what the Hive has.
//
// With the option mount=direct a complete volume is a bind of data, without FUSE (front, bind.go). Such a mount needs no
// daemon: where it is in use at the end of one, killed or not, it stays, and the next Open takes it over with its ids.
//
// # Life cycle
//
// A volume is at rest or mounted. Six steps lead between these states, or
// happen in one of them, and only one runs at a time in a volume (vol.enter): mount, unmount,
// snapshot, restore, synchronize (which makes room for any other at once), release (giving the writer back); remove ends it. Uploads run beside the steps, one at a
// time in a volume, in the order of the snapshots. An interval takes no new
// snapshot while one waits for its upload: what cannot be uploaded does not pile up.
// decideClaim, decideData and decide are the pure functions that say what
// happens; the rest does it.
//
// # Concurrency, and the lock order of the program
//
// All methods of Manager may be called at once. Locks are taken in this order,
// and whoever holds one takes only those further down:
//
//  1. Manager.loadMu        loading the pool, creating a volume: disk only
//  2. a volume's step       vol.enter; the one thing that may be held over the network: it is a
//     state that shows (preparing, uploading), waits end with their context, and nobody who only reads waits for it
//  3. vol.saveMu            writing volume.json and mounts.json
//  4. Manager.mu            the map of volumes
//  5. vol.mu                the state of one volume; nothing blocks under it
//  6. lazy: a filling or file's own lock, then its committer and fetcher
//  7. fusefs: the gate of FS, innermost but for the handle and node tables; FS.Freeze holds it alone, and under it only
//     package backing is called
//
// Package replica, hive, store and seal take none of these and are called with
// 2 at most. A worker is stopped, and waited for, only by who holds 2; the worker's own wait for 2 ends with its context.
//
// # After a crash
//
// volume.json is replaced as a whole, so it is old or new. Every change in
// several steps says at its "Order:" what a crash leaves; Open mends it: a
// half-made data.new and snapshots that no record names go to the trash, a data.new that was whole
// takes its place, dead mounts are taken away, mount ids are forgotten (the mounts went with the
// process, but for direct ones, which are taken over, and those that Deps.Keep held, which go on: keep.go), and a volume whose writer this machine is gets its last changes published and is given back, unless it
// is mounted first.
//
// # Example
//
//	m, err := volume.Open(ctx, volume.Deps{Store: st, Hive: hc, Log: log}, volume.Options{Root: "/var/lib/fractal"})
//	if err != nil {
//		return err
//	}
//	go m.Run(ctx)
//	if err := m.Create(ctx, "db", map[string]string{"privkey": key}); err != nil {
//		return err
//	}
//	path, err := m.Mount(ctx, "db", "container-1") // again where errors.Is(err, volume.ErrBusy)
package volume
