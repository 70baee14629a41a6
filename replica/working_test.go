package replica

import (
	"context"
	"os"
	"slices"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// publishUsed publishes a new snapshot with a working set.
func (w *world) publishUsed(v *volume, base Base, files ...Used) Result {
	w.t.Helper()
	info, err := backing.Info(v.path)
	check(w.t, err)
	j := w.job(v.snapshot(), base)
	j.Working = &Working{Subvolume: info.UUID, Files: files}
	r, err := w.publisher().Publish(context.Background(), j)
	check(w.t, err)
	return r
}

// trace returns the working set of a snapshot; nil: there is none.
func (w *world) trace(root cid.Cid) []cid.Cid {
	w.t.Helper()
	top, err := w.reader().Root(context.Background(), root)
	check(w.t, err)
	if !top.Trace.Defined() {
		return nil
	}
	trace, err := w.reader().Trace(context.Background(), top.Trace)
	check(w.t, err)
	return trace.Blocks
}

func (v *volume) ino(name string) uint64 {
	v.t.Helper()
	var st unix.Stat_t
	check(v.t, unix.Lstat(v.at(name), &st))
	return st.Ino
}

// blocksOf returns the blocks of the windows [from, to) of a file of a snapshot.
func (w *world) blocksOf(e wire.Entry, from, to uint64) (all []cid.Cid) {
	w.t.Helper()
	for win, err := range w.reader().Windows(context.Background(), e.Content, from, to) {
		check(w.t, err)
		all = append(all, win.Block)
	}
	return all
}

func TestPublish_TheWorkingSetIsWhatLeadsToTheFilesAndWhatIsUsedOfThem(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	v.write("gone", noise(7, 1<<20))
	gone := v.ino("gone")
	check(t, os.Remove(v.at("gone")))
	check(t, os.Link(v.at("dir-3/file-003"), v.at("dir-4/other")))
	const chunk = wire.DefChunk
	r := w.publishUsed(v, Base{},
		Used{Ino: v.ino("big"), Data: []wire.Range{{Off: 2 * chunk, Len: 1}, {Off: 5*chunk + 7, Len: chunk}, {Off: 1 << 40, Len: 9}}},
		Used{Ino: gone}, Used{Ino: 1 << 40}, Used{Ino: v.ino("dir-3/file-003")})

	all := w.entries(r.Base.Root)
	got := w.trace(r.Base.Root)
	var content []cid.Cid
	for _, c := range got {
		if c.Prefix().Codec == cid.Raw {
			content = append(content, c)
		}
	}
	want := slices.Concat(w.blocksOf(all["/big"], 2, 3), w.blocksOf(all["/big"], 5, 7), w.blocksOf(all["/dir-3/file-003"], 0, 1))
	if !slices.Equal(content, want) {
		t.Errorf("content %v, want %v", content, want)
	}
	if got[0] != all["/"].Dir.Node {
		t.Errorf("begins with %s, not with the root directory", got[0])
	}
	if n := all["/dir-3"].Dir.Node; !slices.Contains(got, n) && !slices.Contains(got, all["/dir-4"].Dir.Node) {
		t.Error("lacks the directory of the small file")
	}
	if n := all["/dir-5"].Dir.Node; slices.Contains(got, n) {
		t.Error("has a directory that nobody looked into")
	}
}

func TestPublish_AWorkingSetAloneIsNoReasonToPublish(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	if got := w.trace(first.Base.Root); got != nil {
		t.Fatalf("a working set of nothing: %v", got)
	}
	used := Used{Ino: v.ino("dir-2/file-002")}
	if again := w.publishUsed(v, first.Base, used); !again.Unchanged {
		t.Errorf("published: %+v", again)
	}
	v.write("dir-1/new", []byte("new"))
	second := w.publishUsed(v, first.Base, used)
	if len(w.trace(second.Base.Root)) == 0 {
		t.Error("no working set")
	}
	if again := w.publishUsed(v, second.Base, used, Used{Ino: v.ino("big")}); !again.Unchanged {
		t.Errorf("published: %+v", again)
	}
	v.write("dir-1/new", []byte("newer"))
	same, err := w.publisher().build(t.Context(), &Job{Volume: "test", Key: w.key, Snapshot: v.snapshot(), Base: second.Base}, &reporter{})
	check(t, err)
	if got, want := w.trace(same.root), w.trace(second.Base.Root); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("without a recording of its own: %d blocks, want the %d before", len(got), len(want))
	}
}

func TestPublish_TheWorkingSetIsBounded(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("huge", noise(3, 40<<20))
	r := w.publishUsed(v, Base{}, Used{Ino: v.ino("huge")})
	if n := len(w.trace(r.Base.Root)); n < maxWorkingBytes/wire.DefChunk || n > maxWorkingBytes/wire.DefChunk+8 {
		t.Errorf("%d blocks for a bound of %d bytes", n, maxWorkingBytes)
	}
}
