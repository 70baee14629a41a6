package replica

import (
	"fmt"
	"os"
	"testing"
	"time"

	"fractal-lazy/backing"

	"golang.org/x/sys/unix"
)

// fill makes a volume of 200 files in seven directories, one of them large.
func fill(v *volume) {
	names(200, func(i int, name string) { v.write(name, noise(uint64(i), 1000+i*37)) })
	v.write("big", noise(1000, 3<<20))
}

func TestPublish_SecondSnapshotReadsOnlyWhatChanged(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	v.write("dir-3/file-003", []byte("changed"))
	v.write("dir-3/new", []byte("new"))
	check(t, os.Remove(v.at("dir-4/file-004")))
	check(t, os.Chmod(v.at("dir-5/file-005"), 0o600))
	w.now = w.now.Add(time.Hour)
	s := v.snapshot()
	second := w.publish(s, first.Base)
	w.wantTree(second, s)

	want := uint64(len("changed") + len("new"))
	if second.Stats.BytesRead != want {
		t.Errorf("%d bytes were read, want %d", second.Stats.BytesRead, want)
	}
	if second.Stats.Blocks > 20 || second.Stats.Bytes > 64<<10 {
		t.Errorf("put %d blocks, %d bytes", second.Stats.Blocks, second.Stats.Bytes)
	}
	if second.Way != WayChanges {
		t.Errorf("the way was %q", second.Way)
	}
	m := second.Manifest
	if m.Generation != 2 || m.Parent == nil || m.Parent.Hash != first.Base.Hash || m.Size != second.Stats.Bytes ||
		m.SizeTotal != first.Base.SizeTotal+m.Size || m.Machine != w.machine || m.Creation != uint64(w.now.Unix()) || m.Path != s {
		t.Errorf("manifest: %+v", m)
	}
	latest, err := w.hive.Latest(t.Context(), w.key.Public())
	check(t, err)
	if latest.Hash() != second.Base.Hash {
		t.Error("the Hive's latest manifest is another one")
	}
}

func TestPublish_ChangedChunkOfALargeFileIsAllThatIsPut(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("big", noise(5, 8<<20))
	first := w.publish(v.snapshot(), Base{})
	v.writeAt("big", []byte("a few bytes"), 5<<20)
	s := v.snapshot()
	second := w.publish(s, first.Base)
	w.wantTree(second, s)
	if second.Stats.Bytes > 300<<10 {
		t.Errorf("one changed chunk put %d bytes in %d blocks", second.Stats.Bytes, second.Stats.Blocks)
	}
}

func TestPublish_UnchangedPostsNothing(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	w.now = w.now.Add(time.Hour)
	second := w.publish(v.snapshot(), first.Base)
	if !second.Unchanged || second.Base != first.Base || second.Manifest != nil {
		t.Errorf("result: %+v", second)
	}
	if second.Stats.BytesRead != 0 || second.Stats.Blocks != 0 {
		t.Errorf("read %d bytes, put %d blocks", second.Stats.BytesRead, second.Stats.Blocks)
	}
	all, err := w.hive.All(t.Context(), w.key.Public())
	check(t, err)
	if len(all) != 1 {
		t.Errorf("the Hive holds %d manifests", len(all))
	}
}

func TestPublish_UnchangedWithoutTheBaseSnapshot(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	check(t, backing.DeleteSubvolume(first.Base.Local))
	for name, local := range map[string]string{"deleted": first.Base.Local, "never here": ""} {
		base := first.Base
		base.Local = local
		second := w.publish(v.snapshot(), base)
		if !second.Unchanged {
			t.Errorf("%s: root is %s, was %s", name, second.Base.Root, first.Base.Root)
		}
		// All is read, for nobody knows better, and chunks are compared and not put.
		if second.Stats.BytesRead < 3<<20 || second.Stats.Bytes > 1<<20 {
			t.Errorf("%s: read %d, put %d bytes", name, second.Stats.BytesRead, second.Stats.Bytes)
		}
	}
}

func TestPublish_RenamedFilesAreNotSentAgain(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	first := w.publish(v.snapshot(), Base{})
	check(t, os.Rename(v.at("big"), v.at("dir-1/moved")))
	_, before := w.blocks.Size()
	s := v.snapshot()
	second := w.publish(s, first.Base)
	w.wantTree(second, s)
	if _, after := w.blocks.Size(); after-before > 64<<10 {
		t.Errorf("a renamed file of 3 MiB added %d bytes to the store", after-before)
	}
}

func TestPublish_FileReplacedByDirectoryAndBack(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("a", noise(1, 100_000))
	v.write("b/inside", noise(2, 100_000))
	first := w.publish(v.snapshot(), Base{})
	check(t, os.Remove(v.at("a")))
	check(t, os.RemoveAll(v.at("b")))
	v.write("a/inside", noise(2, 100_000))
	v.write("b", noise(1, 100_000))
	s := v.snapshot()
	w.wantTree(w.publish(s, first.Base), s)
}

func TestPublish_RestoredTimesDoNotHideAChange(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	v.write("file", noise(1, 100_000))
	at := time.Unix(1_600_000_000, 0)
	setMtime(t, v.at("file"), at)
	first := w.publish(v.snapshot(), Base{})
	v.writeAt("file", []byte("changed"), 50_000)
	setMtime(t, v.at("file"), at)
	s := v.snapshot()
	w.wantTree(w.publish(s, first.Base), s)
}

// The times of a write can be in a snapshot without its data. Such a file cannot be made at will: the test gives both
// snapshots' inodes the same times and leaves the rest to the tree.
func TestOrigin_EqualTimesDoNotHideLateData(t *testing.T) {
	v := newVolume(t)
	v.write("late", noise(1, 10_000))
	v.write("still", noise(2, 10_000))
	before := v.snapshot()
	v.writeAt("late", []byte("late"), 0)
	after, err := backing.OpenTree(v.snapshot())
	check(t, err)
	defer after.Close()
	o, err := openOrigin(before)
	check(t, err)
	defer o.tree.Close()
	for name, want := range map[string]bool{"late": false, "still": true} {
		st, err := backing.StatxAt(after.RootFD(), name)
		check(t, err)
		was := st
		same, err := o.unchanged(after, &st, &was)
		check(t, err)
		if same != want {
			t.Errorf("%s: unchanged is %v", name, same)
		}
		// Long before the snapshot the times are enough.
		st.Ctime = unix.StatxTimestamp{Sec: o.since - 1}
		was = st
		if same, err = o.unchanged(after, &st, &was); err != nil || !same {
			t.Errorf("%s: unchanged is %v, %v", name, same, err)
		}
	}
}

func TestPublish_ManyGenerationsReadBack(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	fill(v)
	var base Base
	for i := range 5 {
		v.write(fmt.Sprintf("dir-%d/file-%d", i, i), noise(uint64(2000+i), 40_000*i))
		v.writeAt("big", noise(uint64(3000+i), 5000), int64(i)*600_000+77)
		w.now = w.now.Add(time.Minute)
		s := v.snapshot()
		r := w.publish(s, base)
		w.wantTree(r, s)
		base = r.Base
	}
	if base.Generation != 5 {
		t.Errorf("generation is %d", base.Generation)
	}
}

func TestPublish_ToAnIPFSNode(t *testing.T) {
	w, v := newWorld(t), newVolume(t)
	w.useNode(t.TempDir())
	fill(v)
	s := v.snapshot()
	first := w.publish(s, Base{})
	w.wantTree(first, s)
	v.write("dir-2/file-002", noise(77, 500_000))
	check(t, os.Rename(v.at("big"), v.at("renamed")))
	s = v.snapshot()
	second := w.publish(s, first.Base)
	w.wantTree(second, s)
	for _, r := range []Result{first, second} {
		if ok, err := w.store.Pinned(t.Context(), r.Base.Root); !ok || err != nil {
			t.Errorf("generation %d is not pinned: %v", r.Base.Generation, err)
		}
	}
	if third := w.publish(v.snapshot(), second.Base); !third.Unchanged {
		t.Error("an unchanged volume was published")
	}
}
