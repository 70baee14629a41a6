package failover

import (
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"
)

// A tree with every kind of file, made on A, is the same on B: while it is
// still arriving, when it is there, and without any network.
func TestFailover_EveryKindOfFileComesBackIdentical(t *testing.T) {
	t.Run("made through the mount, read lazily, with the race detector", func(t *testing.T) {
		w := newWorld(t)
		a := w.device("a", w.url)
		mount, key := a.newVolume("v")
		kit.Must(t, kit.Tree(mount+"/tree", kit.TreeOptions{Entries: 500}))
		same(t, "A's mount, against its plain data", describe(t, a.data("v")), describe(t, mount))
		b, want := failOver(t, w, a, key, w.url, "prefetch=none")
		mount = b.mount("v")
		if i := b.inspect("v"); i.State != volume.StateHydrating || i.FilesRemote < 500 {
			t.Errorf("B begins with state %s and %d remote files", i.State, i.FilesRemote)
		}
		same(t, "B's mount, read while it is incomplete", want, describe(t, mount))
		checkComplete(t, b, mount, want)
	})
	t.Run("made on plain BTRFS, 20000 entries, read while the background fetches", func(t *testing.T) {
		w := newWorldOf(t, plainBinary)
		a := w.device("a", w.url)
		_, key := a.newVolume("v")
		// Nobody has looked at the name through the mount, so nothing of it is in a cache.
		kit.Must(t, kit.Tree(filepath.Join(a.data("v"), "tree"), kit.TreeOptions{Deep: true}))
		link := w.relay(kit.Link{RTT: 5 * time.Millisecond, Down: 40e6, Up: 100e6})
		b, want := failOver(t, w, a, key, "http://"+link.Addr())
		mount := b.mount("v")
		if i := b.inspect("v"); i.State != volume.StateHydrating || i.FilesRemote < 20_000 {
			t.Errorf("B begins with state %s and %d remote files", i.State, i.FilesRemote)
		}
		same(t, "B's mount, read while it is incomplete", want, describe(t, mount))
		link.Set(kit.Link{})
		checkComplete(t, b, mount, want)
	})
}

// failOver flushes and kills A, and returns B with the volume made from its
// key, and what A's data was.
func failOver(t *testing.T, w *world, a *device, key, url string, options ...string) (*device, []kit.Entry) {
	t.Helper()
	want := describe(t, a.data("v"))
	start := time.Now()
	a.flush("v")
	t.Logf("flushed in %v", time.Since(start).Round(time.Millisecond))
	a.die()
	b := w.device("b", url)
	b.create("v", key, append([]string{"takeover=always"}, options...)...)
	return b, want
}

// checkComplete completes B and compares its mount, then the same after a
// start without a network, then the plain data.
func checkComplete(t *testing.T, b *device, mount string, want []kit.Entry) {
	t.Helper()
	start := time.Now()
	b.cli("hydrate", "--wait", "v")
	t.Logf("hydrated in %v", time.Since(start).Round(time.Millisecond))
	i := b.inspect("v")
	if i.State != volume.StateComplete || i.BytesRemote != 0 || i.FilesRemote != 0 {
		t.Errorf("after hydrate --wait: state %s, %d bytes and %d files remote", i.State, i.BytesRemote, i.FilesRemote)
	}
	same(t, "B's mount, complete", want, describe(t, mount))

	b.die()
	b.url = "http://127.0.0.1:9" // nobody is there
	b.start()
	mount = b.mount("v")
	if i := b.inspect("v"); i.State != volume.StateOffline {
		t.Errorf("state %s without a network, want %s", i.State, volume.StateOffline)
	}
	same(t, "B's mount, without a network", want, describe(t, mount))
	same(t, "B's plain data", want, describe(t, b.data("v")))
	b.die() // a kind end would try to publish and to give the volume back
}
