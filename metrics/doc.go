// Package metrics holds the driver's figures for Prometheus.
//
// A Set is one registry with all of them and the http.Handler that shows it. Figures about a volume are told through a Volume,
// which Set.Volume makes; its label "volume" is the first 16 digits of the public key: enough to tell volumes apart, and
// no name that a user gave. No figure holds a key, a file's name or a CID.
//
// Concurrency. Everything may be called at once from any number of goroutines. No call blocks on the network or the disk, and none
// starts a goroutine.
//
// After a crash counters begin at zero again, as Prometheus expects of them.
//
// Example:
//
//	set := metrics.New()
//	mux.Handle("/metrics", set.Handler())
//	v := set.Volume(pubkey.String())
//	defer set.Forget(pubkey.String())
//
//	begin := time.Now()
//	b, err := store.Get(ctx, id)
//	if err != nil {
//		v.FetchFailed()
//		return err
//	}
//	v.Fetched(len(b), time.Since(begin))
package metrics
