// Package control is the driver's own API on the socket that Docker uses too: its types, its errors, and the client that the
// commands use. The other side is package plugin.
//
// All of it is HTTP on a unix socket under /fractal/v1, JSON in and out (docs/openapi.yaml has the fields):
//
//	GET    /fractal/v1/version
//	GET    /fractal/v1/status                       version, settings, health, volumes
//	GET    /fractal/v1/health                       what volumes need: 200 where all is there, else 503 with what is missing
//	GET    /metrics                                 figures for Prometheus
//	GET    /fractal/v1/volumes
//	POST   /fractal/v1/volumes                      CreateRequest -> Info
//	GET    /fractal/v1/volumes/{name}
//	DELETE /fractal/v1/volumes/{name}?force=true
//	POST   /fractal/v1/volumes/{name}/mount         MountRequest -> MountResult        (stream)
//	POST   /fractal/v1/volumes/{name}/unmount       UnmountRequest -> Info             (stream)
//	POST   /fractal/v1/volumes/{name}/snapshot      SnapshotRequest -> SnapshotInfo    (stream)
//	GET    /fractal/v1/volumes/{name}/snapshots?local=true
//	POST   /fractal/v1/volumes/{name}/restore       RestoreRequest -> RestoreResult
//	POST   /fractal/v1/volumes/{name}/diff          DiffRequest -> DiffResult          (stream, with a line for each change)
//	POST   /fractal/v1/volumes/{name}/clone         CloneRequest -> RestoreResult
//	POST   /fractal/v1/volumes/{name}/purge         PurgeRequest -> PurgeResult
//	POST   /fractal/v1/volumes/{name}/snapshots/remove  RemoveSnapshotRequest -> SnapshotInfo
//	POST   /fractal/v1/volumes/{name}/browse        BrowseRequest -> BrowseResult      (stream)
//	POST   /fractal/v1/volumes/{name}/flush         -> SnapshotInfo                    (stream)
//	POST   /fractal/v1/volumes/{name}/hydrate       HydrateRequest -> Info             (stream)
//	POST   /fractal/v1/volumes/{name}/verify        VerifyRequest -> Verification      (stream)
//	POST   /fractal/v1/volumes/{name}/synchronize   SynchronizeRequest -> Synchronization  (stream)
//	POST   /fractal/v1/volumes/{name}/replicate     ReplicateRequest -> Replication    (stream)
//	POST   /fractal/v1/import/buttervolume          ImportButtervolumeRequest -> ButterResult
//	POST   /fractal/v1/volumes/{name}/export        ExportRequest -> a CAR
//	POST   /fractal/v1/volumes/{name}/import        a CAR -> Imported                  (stream)
//	GET    /fractal/v1/schedule?volume=NAME         -> Schedule
//	POST   /fractal/v1/schedule                     JobRequest -> Schedule
//	POST   /fractal/v1/schedule/pause               -> Schedule
//	POST   /fractal/v1/schedule/resume              -> Schedule
//	POST   /fractal/v1/volumes/{name}/key           -> Key
//
// An error is {"error": text, "code": Code} with a status of 4xx or 5xx. A stream is newline-delimited JSON with the status 200:
// any number of {"progress": ...}, then one line {"result": ...} or {"error": ..., "code": ...}. A stream that ends without such a
// line was cut off, and the client says so. Of an export the header Fractal-Export has an Exported; what went wrong after the first byte is an Event in the trailer
// Fractal-Error, and the CAR is cut off. Both are JSON, escaped as in a query. An import is read while it is answered.
//
// Concurrency. A Client may be used by any number of goroutines. Cancelling a call's context ends the work that it started on
// the other side as far as that work is not shared (a snapshot that is being uploaded goes on).
//
// Example:
//
//	c := control.NewClient("/run/docker/plugins/fractal-lazy.sock")
//	snap, err := c.Flush(ctx, "db", func(p volume.Progress) { fmt.Println(p.Done, "of", p.Total) })
//	if errors.Is(err, volume.ErrFenced) {
//		// another machine has the volume now
//	}
package control
