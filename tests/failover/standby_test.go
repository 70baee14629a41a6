package failover

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"fractal-lazy/cli"
	"fractal-lazy/tests/kit"
	"fractal-lazy/volume"
)

// B follows the volume that A writes, without ever being its writer. Then A dies, and B takes over warm: what it brought before the failover it
// does not fetch again. B is killed in the middle of a pull on the way.
func TestStandby_FollowsAndTakesOverWarm(t *testing.T) {
	w := newWorldOf(t, plainBinary)
	a := w.device("a", w.url)
	mount, key := a.newVolume("v", "takeover=always", "compression=none")
	makeArchive(t, mount)
	a.flush("v")

	// A slow line, so that the kill is in the middle of the pull.
	link := w.relay(kit.Link{Down: 60e6, Up: 60e6})
	b := w.device("b", "http://"+link.Addr())
	b.create("v", key, "takeover=always", "compression=none")
	pull := func() (s volume.Synchronization) {
		t.Helper()
		kit.Must(t, json.Unmarshal([]byte(b.cli("sync", "--budget", "all", "--json", "v")), &s))
		return s
	}
	done := make(chan result, 1)
	go func() { done <- b.run("", "sync", "--budget", "all", "v") }()
	b.wait("v", "partly here", time.Minute, func(i volume.Info) bool { return i.BytesTotal > 0 && i.BytesRemote < i.BytesTotal*3/4 })
	b.die()
	if r := <-done; r.code == 0 {
		t.Errorf("killed in the middle of it, and says %q", r.out)
	}
	link.Set(kit.Link{})
	b.start()
	first := pull()
	if !first.Complete || first.Generation != 1 || first.Fetched > first.BytesTotal*9/10 {
		t.Errorf("after the kill: %+v", first)
	}
	if i := b.inspect("v"); i.State != volume.StateFollowing || i.Mountpoint != "" {
		t.Errorf("%+v", i)
	}

	changeArchive(t, mount)
	a.flush("v") // which no other machine than the writer could do
	second := pull()
	if !second.Complete || second.Generation != 2 || second.Before != 1 || second.Fetched > first.BytesTotal/2 {
		t.Errorf("the second pull: %+v", second)
	}
	write(t, mount+"/last", "written by A after the last pull")
	a.flush("v")
	want := describe(t, mount)
	a.die()

	_, before := link.Bytes()
	mount = b.mount("v")
	same(t, "B's mount, read at once", want, describe(t, mount))
	b.cli("hydrate", "--wait", "v")
	same(t, "B's mount, complete", want, describe(t, mount))
	i := b.inspect("v")
	_, over := link.Bytes()
	over -= before
	t.Logf("of %d bytes: fetched %d after the kill, %d with the second pull, %d at the failover; %d over the line", i.BytesTotal, first.Fetched, second.Fetched, i.BytesFetched, over)
	if i.Generation != 3 || i.BytesFetched > 4<<20 || over > 8<<20 {
		t.Errorf("the failover was not warm: %d bytes over the line, %+v", over, i)
	}
	write(t, mount+"/new", fmt.Sprint("of B"))
	b.flush("v")
	b.cli("volume", "umount", "v")

	// A comes back as the standby of B.
	a.start()
	var s volume.Synchronization
	out := a.run("", "sync", "--budget", "all", "--json", "v")
	fenced := out.code == cli.ExitHeld
	if fenced { // A's own look at the Hive was faster: what A had is put aside, and a mount brings B's state
		a.mount("v")
		a.cli("volume", "umount", "v")
		out = a.run("", "sync", "--budget", "all", "--json", "v")
	}
	kit.Must(t, out.err)
	kit.Must(t, json.Unmarshal([]byte(out.out), &s))
	if !s.Complete || s.Generation != 4 || s.Fetched > 4<<20 {
		t.Errorf("A follows B: %+v", s)
	}
	t.Logf("A follows B: fenced before %v, fetched %d", fenced, s.Fetched)
	if got, err := os.ReadFile(a.mount("v") + "/new"); string(got) != "of B" {
		t.Errorf("%q, %v", got, err)
	}
	a.cli("volume", "umount", "v")
}
