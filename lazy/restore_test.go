package lazy_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fractal-lazy/lazy"
	"fractal-lazy/replica"

	"golang.org/x/sys/unix"
)

// zoo makes a tree with files of every kind.
func zoo(t testing.TB, dir string) {
	t.Helper()
	write := func(rel string, p []byte, mode os.FileMode) string {
		path := filepath.Join(dir, rel)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, p, mode))
		check(t, os.Chmod(path, mode))
		return path
	}
	write("empty", nil, 0o644)
	write("small", []byte("hello\n"), 0o600)
	write("sector", noise(1, 4096), 0o640)
	write("medium", noise(2, 200<<10), 0o644)
	write("large", noise(3, 3<<20+123), 0o644)
	write("text", bytes.Repeat([]byte("all work and no play\n"), 100_000), 0o644)
	write("a/b/c/deep", []byte("deep"), 0o444)
	for i := range 300 {
		write(fmt.Sprintf("many/f%03d", i), noise(uint64(i), 100+i*37), 0o644)
	}
	write("setuid", []byte("#!"), 0o755|os.ModeSetuid)
	check(t, os.Chmod(filepath.Join(dir, "many"), 0o2775|os.ModeSetgid))

	sparse := write("sparse", nil, 0o644)
	f, err := os.OpenFile(sparse, os.O_RDWR, 0)
	check(t, err)
	check(t, f.Truncate(64<<20))
	for i, off := range []int64{0, 4096 * 5, 1 << 20, 10<<20 + 4096} {
		_, err = f.WriteAt(noise(uint64(40+i), 4096*(i+1)), off)
		check(t, err)
	}
	check(t, f.Close())

	capable := write("capable", noise(9, 5000), 0o755)
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	check(t, unix.Setxattr(capable, "security.capability", caps, 0))
	check(t, unix.Setxattr(capable, "user.note", []byte("x\x00y"), 0))
	check(t, unix.Setxattr(filepath.Join(dir, "a"), "trusted.mine", []byte("1"), 0))

	check(t, os.Symlink("nowhere/at all\n", filepath.Join(dir, "link")))
	check(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o620))
	check(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "a/large-too")))
	check(t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "many/large-three")))
	check(t, os.Link(filepath.Join(dir, "fifo"), filepath.Join(dir, "a/fifo-too")))
	check(t, os.Lchown(filepath.Join(dir, "link"), 12, 34))
	check(t, os.Chown(filepath.Join(dir, "small"), 1000, 1001))

	when := unix.Timespec{Sec: 1_234_567_890, Nsec: 123_456_789}
	for _, rel := range []string{"small", "large", "many", "a/b", "link", ".", "capable"} {
		check(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, rel), []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func TestTree_ComesBackIdenticalWhenHydrated(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	r := w.publish(src, replica.Base{})
	dst := w.lazy(r)
	v := w.open(dst, lazy.Options{})
	v.hydrate()
	if s := v.Status(); s.BytesRemote != 0 || s.FilesRemote != 0 || s.BytesTotal == 0 {
		t.Errorf("status %+v", s)
	}
	v.close()
	equal(t, src, dst)

	// What was fetched is not uploaded again, and not read again.
	r2 := w.publish(dst, r.Base)
	if !r2.Unchanged || r2.Stats.BytesRead != 0 {
		t.Errorf("a snapshot after hydration read %d bytes, unchanged %v: root %s, want %s", r2.Stats.BytesRead, r2.Unchanged, r2.Base.Root, r.Base.Root)
	}

	// Opened again, it needs no store.
	w.store.LiftAll()
	again := w.open(dst, lazy.Options{})
	if !again.Complete() {
		t.Error("a complete volume is not complete when opened again")
	}
}

func TestTree_ComesBackIdenticalWhenReadLazily(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	for _, rel := range []string{"large", "medium", "sparse", "capable", "many/f123", "a/b/c/deep", "many/large-three", "text"} {
		want, err := os.ReadFile(filepath.Join(src, rel))
		check(t, err)
		h := v.openFile(rel)
		got, err := h.read(0, uint64(len(want))+10)
		check(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: content differs", rel)
		}
		h.close()
	}
	// Half fetched, it is closed, opened and snapshotted: nothing of it is uploaded.
	v.close()
	again := w.open(dst, lazy.Options{})
	again.hydrate()
	again.close()
	equal(t, src, dst)
}

func TestTree_HalfFetchedSnapshotKeepsReferences(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	r := w.publish(src, replica.Base{})
	dst := w.lazy(r)
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	h := v.openFile("large")
	_, err := h.read(1<<20, 1000)
	check(t, err)
	blocks, _ := w.blocks.Size()
	if r2 := w.publish(dst, r.Base); !r2.Unchanged {
		t.Errorf("a half-fetched volume that nobody changed has root %s, want %s", r2.Base.Root, r.Base.Root)
	}
	if n, _ := w.blocks.Size(); n != blocks {
		t.Errorf("%d new blocks", n-blocks)
	}

	// A change in the middle of what is remote.
	check(t, h.write(2<<20+77, []byte("changed")))
	h.close()
	r3 := w.publish(dst, r.Base)
	third := w.lazy(r3)
	v3 := w.open(third, lazy.Options{})
	v3.hydrate()
	want, err := os.ReadFile(filepath.Join(src, "large"))
	check(t, err)
	copy(want[2<<20+77:], "changed")
	for _, name := range []string{"large", "a/large-too"} {
		got, err := os.ReadFile(filepath.Join(third, name))
		check(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: content differs", name)
		}
	}
}

func TestTree_MountCostsOneBlock(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	r := w.publish(src, replica.Base{})
	w.store.ResetCounts()
	dst := w.lazy(r)
	w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	if n := w.store.TotalGets(); n != 1 {
		t.Errorf("%d blocks were fetched, want 1", n)
	}
}

func TestTree_LinksKeepOneInode(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{Prefetch: lazy.PrefetchNone})
	nlink := func(rel string) uint32 {
		t.Helper()
		path := filepath.Join(dst, rel)
		var st unix.Statx_t
		check(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st))
		check(t, v.Overlay(path, &st))
		return st.Nlink
	}
	first := v.ino("large")
	if n := nlink("large"); n != 3 {
		t.Errorf("%d links with one name filled, want 3", n)
	}
	// The first name goes before the others are filled.
	check(t, unix.Unlink(filepath.Join(dst, "large")))
	if second := v.ino("a/large-too"); second != first {
		t.Errorf("inode %d, want %d", second, first)
	}
	if n := nlink("a/large-too"); n != 2 {
		t.Errorf("%d links, want 2", n)
	}
	if third := v.ino("many/large-three"); third != first {
		t.Errorf("inode %d, want %d", third, first)
	}
	v.hydrate2()
	if n := nlink("a/large-too"); n != 2 {
		t.Errorf("%d links when complete, want 2", n)
	}
	if _, err := os.Lstat(filepath.Join(dst, ".fractal-lazy")); !os.IsNotExist(err) {
		t.Errorf("the hidden folder stays: %v", err)
	}
	check(t, os.Remove(filepath.Join(src, "large")))
	when := unix.Timespec{Sec: 1_234_567_890, Nsec: 123_456_789}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, src, []unix.Timespec{when, when}, 0))
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, dst, []unix.Timespec{when, when}, 0))
	equal(t, src, dst)
}

// hydrate2 is hydrate for a Tree that was opened without prefetching.
func (v *volume) hydrate2() {
	v.t.Helper()
	v.Hydrate()
	v.hydrate()
}

func TestTree_ShowsTheTimesOfTheSnapshot(t *testing.T) {
	w := newWorld(t)
	src := w.subvolume()
	zoo(t, src)
	dst := w.lazy(w.publish(src, replica.Base{}))
	v := w.open(dst, lazy.Options{})
	v.ino("large")
	path := filepath.Join(dst, "large")
	stat := func() (st unix.Statx_t) {
		t.Helper()
		check(t, v.Look(v.ino("large"), func() error {
			if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st); err != nil {
				return err
			}
			return v.Overlay(path, &st)
		}))
		return st
	}
	first := stat()
	if want := (unix.StatxTimestamp{Sec: 1_234_567_890, Nsec: 123_456_789}); first.Mtime != want {
		t.Errorf("mtime %v, want %v", first.Mtime, want)
	}
	if first.Blocks*512 < 3<<20 {
		t.Errorf("%d blocks of a file of 3 MiB", first.Blocks)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- v.Run(ctx) }()
	for !v.Complete() {
		if st := stat(); !v.Complete() && (st.Mtime != first.Mtime || st.Ctime != first.Ctime || st.Blocks != first.Blocks) {
			t.Errorf("fetching shows: %v %v %d, was %v %v %d", st.Mtime, st.Ctime, st.Blocks, first.Mtime, first.Ctime, first.Blocks)
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
}
