package lazy_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/backing"
	"fractal-lazy/lazy"
	"fractal-lazy/replica"
	"fractal-lazy/snapshot"
	"fractal-lazy/snapshot/wire"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// usedWorld publishes a volume of which need/small and the second window of need/large are known to be needed first.
func usedWorld(t *testing.T) (w *world, r replica.Result, small, large []byte, trace []cid.Cid) {
	t.Helper()
	w = newWorld(t)
	src := w.subvolume()
	small, large = noise(1, 20_000), noise(2, 2<<20)
	var used []replica.Used
	for name, data := range map[string][]byte{"other/file": noise(3, 3<<20), "need/small": small, "need/large": large} {
		path := filepath.Join(src, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, data, 0o644))
		var st unix.Stat_t
		check(t, unix.Stat(path, &st))
		switch name {
		case "need/small":
			used = append(used, replica.Used{Ino: st.Ino})
		case "need/large":
			used = append(used, replica.Used{Ino: st.Ino, Data: []wire.Range{{Off: wire.DefChunk, Len: wire.DefChunk}}})
		}
	}
	info, err := backing.Info(src)
	check(t, err)
	snap := filepath.Join(w.dir, "s")
	check(t, backing.SyncFS(src))
	check(t, backing.Snapshot(src, snap, true))
	p := replica.New(replica.Deps{Store: w.store, Hive: w.hive, Log: w.log()})
	r, err = p.Publish(t.Context(), replica.Job{
		Volume: "test", Key: w.key, Machine: uuid.UUID{1}, Snapshot: snap, Created: time.Unix(1_700_000_000, 0),
		Working: &replica.Working{Subvolume: info.UUID, Files: used},
	})
	check(t, err)
	reader := snapshot.NewReader(w.blocks, w.key.Sealer())
	root, err := reader.Root(t.Context(), r.Base.Root)
	check(t, err)
	tr, err := reader.Trace(t.Context(), root.Trace)
	check(t, err)
	return w, r, small, large, tr.Blocks
}

// start runs the volume's fetching in the background; stop ends it.
func (v *volume) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = v.Run(ctx) // it ends with ctx
	}()
	return func() { cancel(); <-done }
}

// content leaves the nodes out.
func content(all []cid.Cid) (out []cid.Cid) {
	for _, c := range all {
		if c.Prefix().Codec != store.DagCBOR {
			out = append(out, c)
		}
	}
	return out
}

func TestRun_BringsTheWorkingSetBeforeAnybodyAsks(t *testing.T) {
	w, r, small, large, trace := usedWorld(t)
	v := w.open(w.lazy(r), lazy.Options{FetchTimeout: 200 * time.Millisecond})
	v.Pause() // the rest does not come
	w.store.ResetCounts()
	stop := v.start()
	defer stop()
	var size uint64
	for _, c := range trace {
		b, err := w.blocks.Get(t.Context(), c)
		check(t, err)
		size += uint64(len(b))
	}
	eventually(t, "the working set is here", func() bool { return v.Status().BytesFetched > size }) // and the names of other
	eventually(t, "directories are here", func() bool {
		m, err := os.ReadDir(filepath.Join(v.path, "other"))
		return err == nil && len(m) > 0
	})
	time.Sleep(50 * time.Millisecond) // what has arrived is put in its place
	gone := w.store.Inject(faulty.Rule{Fault: faulty.Fail(store.ErrUnavailable)})

	h := v.openFile("need/small")
	defer h.close()
	if got, err := h.read(0, 20_000); err != nil || !bytes.Equal(got, small) {
		t.Errorf("need/small without the store: %v", err)
	}
	h = v.openFile("need/large")
	defer h.close()
	if got, err := h.read(wire.DefChunk+5, 1000); err != nil || !bytes.Equal(got, large[wire.DefChunk+5:][:1000]) {
		t.Errorf("need/large without the store: %v", err)
	}
	if _, err := h.read(5*wire.DefChunk, 1000); err == nil {
		t.Error("what nobody used is here as well")
	}
	gone.Lift()
	v.Resume()
	eventually(t, "all is here", v.Complete)
	for _, c := range content(trace) {
		if n := w.store.Gets(c); n != 1 {
			t.Errorf("%s was fetched %d times", c, n)
		}
	}
}

func TestRun_LeavesTheWorkingSetAloneWhereItIsNotWanted(t *testing.T) {
	for what, set := range map[string]struct {
		prefetch lazy.Prefetch
		looked   bool
		nodes    bool
	}{
		"nothing is to be fetched": {lazy.PrefetchNone, false, false},
		"names only":               {lazy.PrefetchMetadata, false, true},
		"the volume was in use":    {lazy.PrefetchAll, true, true},
	} {
		t.Run(what, func(t *testing.T) {
			w, r, _, _, trace := usedWorld(t)
			path := w.lazy(r)
			if set.looked {
				v := w.open(path, lazy.Options{})
				check(t, v.Fill(t.Context(), backing.RootIno))
				v.close()
			}
			v := w.open(path, lazy.Options{Prefetch: set.prefetch})
			v.Pause()
			w.store.ResetCounts()
			stop := v.start()
			if set.nodes {
				eventually(t, "the names are here", func() bool {
					m, err := os.ReadDir(filepath.Join(v.path, "other"))
					return err == nil && len(m) > 0
				})
			}
			time.Sleep(100 * time.Millisecond)
			stop()
			for _, c := range content(trace) {
				if n := w.store.Gets(c); n != 0 {
					t.Errorf("%s was fetched", c)
				}
			}
			if n := w.store.TotalGets(); n > 0 && !set.nodes {
				t.Errorf("%d blocks were fetched", n)
			}
		})
	}
}
