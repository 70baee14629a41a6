package backing

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGeneration_GrowsWithEachKindOfChange holds the rule that Changed's
// callers live by: each of these, and nothing else, shows after a commit.
func TestGeneration_GrowsWithEachKindOfChange(t *testing.T) {
	dir := pool(t)
	vol, other := subvolume(t, dir+"/vol"), subvolume(t, dir+"/other")
	write(t, vol+"/f", 1<<20)
	write(t, vol+"/gone", 1)
	must(t, unix.Setxattr(vol+"/f", "user.a", []byte("1"), 0))
	fd := openFile(t, vol+"/f", unix.O_RDWR)
	mem, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	atime := unix.Timespec{Sec: 1}

	steps := []struct {
		name string
		want bool
		do   func() error
	}{
		{"nothing", false, func() error { return nil }},
		{"reading", false, func() error { _, err := os.ReadFile(vol + "/f"); return err }},
		{"listing", false, func() error { _, err := os.ReadDir(vol); return err }},
		{"change in another subvolume", false, func() error { return os.WriteFile(other+"/x", []byte("x"), 0o644) }},
		{"change beside it", false, func() error { return os.WriteFile(dir+"/x", []byte("x"), 0o644) }},
		{"fsync without change", false, func() error { return unix.Fsync(fd) }},
		{"read-only flag untouched", false, func() error { return SetReadonly(vol, false) }},
		{"overwrite", true, func() error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err }},
		{"overwrite with fsync", true, func() error { unix.Pwrite(fd, []byte("y"), 8192); return unix.Fsync(fd) }},
		{"store to a mapping", true, func() error { mem[5]++; return nil }},
		{"second store to a mapping", true, func() error { mem[5]++; return nil }},
		{"append", true, func() error { _, err := unix.Pwrite(fd, []byte("x"), 1<<20); return err }},
		{"truncate", true, func() error { return unix.Ftruncate(fd, 9000) }},
		{"punch", true, func() error { return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) }},
		{"create", true, func() error { return os.WriteFile(vol+"/new", nil, 0o644) }},
		{"rename", true, func() error { return os.Rename(vol+"/new", vol+"/new2") }},
		{"link", true, func() error { return os.Link(vol+"/new2", vol+"/new3") }},
		{"remove", true, func() error { return os.Remove(vol + "/gone") }},
		{"chmod", true, func() error { return os.Chmod(vol+"/f", 0o600) }},
		{"xattr", true, func() error { return unix.Setxattr(vol+"/f", "user.a", []byte("2"), 0) }},
		{"inode flags", true, func() error { return SetFlags(fd, FlagAppend) }},
		{"times", true, func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, vol+"/f", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, atime}, 0)
		}},
	}
	_, gen, err := Changed(vol, 0)
	must(t, err)
	for _, s := range steps {
		if err := s.do(); err != nil && s.name != "times" { // append-only files keep their times
			t.Fatalf("%s: %v", s.name, err)
		}
		if s.name == "times" {
			must(t, SetFlags(fd, 0))
		}
		changed, now, err := Changed(vol, gen)
		must(t, err)
		if changed != s.want || changed != (now > gen) {
			t.Errorf("%s: changed = %v (%d to %d), want %v", s.name, changed, gen, now, s.want)
		}
		gen = now
	}
}

func TestGeneration_LagsUntilTheCommit(t *testing.T) {
	vol := subvolume(t, pool(t)+"/vol")
	_, gen, err := Changed(vol, 0)
	must(t, err)
	write(t, vol+"/f", 100)
	if now, err := Generation(vol); now != gen || err != nil {
		t.Errorf("before the commit: %d to %d, %v", gen, now, err)
	}
	must(t, SyncFS(vol))
	if now, err := Generation(vol); now <= gen || err != nil {
		t.Errorf("after the commit: %d to %d, %v", gen, now, err)
	}
}

// TestChanged_SinceASnapshotMissesNothing: a snapshot's CreatedTransid is the
// mark from which its source is unchanged or changed, with a writer running beside.
func TestChanged_SinceASnapshotMissesNothing(t *testing.T) {
	dir := pool(t)
	vol := subvolume(t, dir+"/vol")
	for i := range 20 {
		write(t, vol+"/f", 100+i)
		snap := fmt.Sprintf("%s/snap%d", dir, i)
		must(t, Snapshot(vol, snap, true))
		info, err := Info(snap)
		must(t, err)
		if i%2 == 1 {
			write(t, vol+"/f", 5)
		}
		changed, gen, err := Changed(vol, info.CreatedTransid)
		must(t, err)
		if changed != (i%2 == 1) {
			t.Errorf("round %d: changed = %v, generation %d, snapshot of %d", i, changed, gen, info.CreatedTransid)
		}
	}
}

func TestStartSync_CommitsWhatWaitSyncWaitsFor(t *testing.T) {
	vol := subvolume(t, pool(t)+"/vol")
	_, gen, err := Changed(vol, 0)
	must(t, err)
	fd := openFile(t, vol, unix.O_RDONLY)
	must(t, os.Mkdir(vol+"/d", 0o755))
	id, err := StartSync(fd)
	must(t, err)
	must(t, WaitSync(fd, id))
	if now, err := Generation(vol); now <= gen || now > id || err != nil {
		t.Errorf("generation %d to %d, committed %d, %v", gen, now, id, err)
	}
	must(t, WaitSync(fd, 0))
}

func TestSyncFS_TellsWhatFailed(t *testing.T) {
	if err := SyncFS(t.TempDir() + "/none"); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("missing path: %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		err = u.Unwrap()
	}
}

func BenchmarkChanged_NoChange(b *testing.B) {
	vol := subvolume(b, pool(b)+"/vol")
	var gen uint64
	for b.Loop() {
		start := time.Now()
		_, now, err := Changed(vol, gen)
		if err != nil {
			b.Fatal(err)
		}
		gen = now
		_ = start
	}
}
