package backing

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSetLimit_StopsWritingAtTheLimit(t *testing.T) {
	dir := pool(t)
	old := subvolume(t, dir+"/old")
	write(t, old+"/x", 8<<20)
	must(t, SetLimit(old, 0)) // quotas stay off
	if s, err := PoolStatus(dir); s.Quota != "off" || err != nil {
		t.Errorf("quota %q, %v", s.Quota, err)
	}
	vol := subvolume(t, dir+"/vol")
	err := SetLimit(vol, 16<<20)
	if errors.Is(err, ErrNoQuota) {
		t.Fatalf("this kernel cannot run the test: %v", err)
	}
	must(t, err)
	if s, err := PoolStatus(dir); s.Quota != "simple" || err != nil {
		t.Errorf("quota %q, %v", s.Quota, err)
	}
	if err := os.WriteFile(vol+"/big", make([]byte, 64<<20), 0o644); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("64 MiB into a limit of 16: %v", err)
	}
	must(t, os.Remove(vol+"/big"))
	must(t, SyncFS(vol))
	must(t, SetLimit(vol, 0))
	write(t, vol+"/big", 64<<20)
}

func TestUsage_AgreesWithWhatWasWritten(t *testing.T) {
	dir := pool(t)
	near := func(what, path string, want uint64) {
		t.Helper()
		must(t, SyncFS(path))
		got, err := Usage(path)
		if err != nil || got < want || got > want+1<<20 {
			t.Errorf("%s: usage %d, %v, want about %d", what, got, err, want)
		}
	}
	old := subvolume(t, dir+"/old")
	near("empty", old, 0)
	must(t, os.Mkdir(old+"/d", 0o755))
	write(t, old+"/d/x", 8<<20)
	must(t, os.Link(old+"/d/x", old+"/y"))
	subvolume(t, old+"/nested")
	write(t, old+"/nested/z", 4<<20)
	near("walk", old, 8<<20)

	must(t, SetLimit(old, 1<<30))
	young := subvolume(t, dir+"/young")
	write(t, young+"/x", 12<<20)
	near("quota group", young, 12<<20)
	near("older than the quotas, so by a walk", old, 8<<20)
	must(t, Snapshot(young, dir+"/snap", true))
	near("snapshot, so by a walk", dir+"/snap", 12<<20)
}
