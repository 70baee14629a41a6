package replica

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/mark"
	"fractal-lazy/tests/kit"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// rootBy builds the snapshot s as a first one, with or without looking files up in the tree.
func (w *world) rootBy(s string, search bool) cid.Cid {
	w.t.Helper()
	p := w.publisher()
	p.noSearch = !search
	j := w.job(s, Base{})
	b, err := p.buildOnce(w.t.Context(), &j, &reporter{}, false)
	check(w.t, err)
	if b.way != WayWalk {
		w.t.Errorf("the way was %q", b.way)
	}
	return b.root
}

// wantOneRoot builds s both ways.
func (w *world) wantOneRoot(s string) {
	w.t.Helper()
	if a, b := w.rootBy(s, true), w.rootBy(s, false); !a.Equals(b) {
		one, two := w.entries(a), w.entries(b)
		for path, e := range two {
			if have, want := w.describe(one[path]), w.describe(e); have != want {
				w.t.Errorf("%q by tree search:\n have %.500s\n want %.500s", path, have, want)
			}
		}
		w.t.Errorf("root %s by tree search, %s without, of %d and %d names", a, b, len(one), len(two))
	}
}

func TestSearch_GivesTheSameRootAsAskingForEachFile(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	check(t, kit.Tree(v.at("tree"), kit.TreeOptions{Entries: 3000, Small: true}))
	defer func() { check(t, kit.Unlock(v.at("tree"))) }()
	text := func(n int) []byte { return bytes.Repeat([]byte("abcdefg\n"), n/8+1)[:n] }
	change := func(name string, n int, fn func(fd int) error) {
		t.Helper()
		v.write(name, text(n))
		f, err := os.OpenFile(v.at(name), os.O_RDWR, 0)
		check(t, err)
		check(t, fn(int(f.Fd())))
		check(t, f.Sync())
		check(t, f.Close())
	}
	// Runs of names are cut by directories, and are longer than what is looked up at once.
	for i := range 3 * searchedNames {
		v.write(fmt.Sprintf("runs/file-%04d", (i*331)%1000), text(i*7))
		if i%100 == 0 {
			v.write(fmt.Sprintf("runs/file-%04d-dir/%d", i, i), text(i))
		}
	}
	change("extents/truncated", 100, func(fd int) error { return unix.Ftruncate(fd, 70_000) })
	change("extents/hole", 0, func(fd int) error { return unix.Ftruncate(fd, 1<<32) })
	change("extents/preallocated", 50_000, func(fd int) error { return unix.Fallocate(fd, 0, 40_000, 1<<20) })
	change("extents/inline and preallocated", 50, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20) })
	change("extents/punched", 2<<20, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 64<<10, 512<<10)
	})
	change("extents/many", 0, func(fd int) error {
		for i := range int64(5000) {
			if _, err := unix.Pwrite(fd, []byte("x"), i*12_288); err != nil {
				return err
			}
		}
		return nil
	})
	for _, n := range []int{500, 100_000} {
		name := fmt.Sprintf("extents/zstd-%d", n)
		v.write(name, nil)
		check(t, unix.Setxattr(v.at(name), backing.XattrCompression, []byte("zstd"), 0))
		v.write(name, text(n))
		check(t, os.Link(v.at(name), v.at(fmt.Sprintf("link-%d", n))))
	}
	v.write("xattrs", text(10))
	for i := range 10 {
		check(t, unix.Setxattr(v.at("xattrs"), fmt.Sprintf("user.%d", i), text(14_000), 0))
	}
	check(t, backing.CreateSubvolume(v.at("nested")))
	v.write("nested/inside", text(100)) // the number of its tree may be that of an inode
	s := v.snapshot()
	w.wantOneRoot(s)
	check(t, backing.DeleteSubvolume(v.at("nested")))
}

// A restored volume may have marks where nothing was published yet.
func TestSearch_KeepsMarks(t *testing.T) {
	w, v, other := newWorld(t), newVolume(t), newVolume(t)
	v.write("clean", noise(1, 1000))
	v.write("pending", noise(2, 300_000))
	first := w.publish(v.snapshot(), Base{})
	all := w.entries(first.Base.Root)
	w.pending(other, "pending", all["/pending"].Content, nil)
	w.pending(other, "half", all["/pending"].Content, func(m *mark.File) { m.Kept = false })
	other.writeAt("half", noise(4, 4096), 17*4096)
	other.write("plain", noise(3, 5000))
	s := other.snapshot()
	w.wantOneRoot(s)
	want := noise(2, 300_000)
	w.wantFile(w.rootBy(s, true), "/pending", want)
	half := bytes.Clone(want)
	copy(half[17*4096:], noise(4, 4096))
	w.wantFile(w.rootBy(s, true), "/half", half)
}

func TestSearch_WhereTheKernelRefusesItFilesAreAskedForOneByOne(t *testing.T) {
	v := newVolume(t)
	gone := v.snapshot()
	tree, err := backing.OpenTree(gone)
	check(t, err)
	defer tree.Close()
	check(t, backing.DeleteSubvolume(gone)) // there is no such tree to search any more
	s := searched{w: &walker{tree: tree, search: true}, path: "/", names: []named{{"a", 300, unix.DT_REG}, {"b", 301, unix.DT_REG}}}
	for i := range s.names {
		if _, ok, err := s.node(i); ok || err != nil || s.w.search {
			t.Errorf("node gave %v, %v; it is searched on: %v", ok, err, s.w.search)
		}
	}
}
