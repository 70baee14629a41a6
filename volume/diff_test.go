package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fractal-lazy/snapshot"
	"fractal-lazy/store"
)

// everyKind makes a tree, and changeKinds changes it in every way that a comparison tells apart.
const (
	everyKind = `
set -e; cd "$1"
mkdir a a/sub gone gone/below dir2file same many
head -c 3000000 /dev/urandom > a/big; head -c 3000000 /dev/urandom > a/punched; head -c 3000000 /dev/urandom > a/cut
head -c 700000 /dev/urandom > a/append; head -c 900000 /dev/urandom > a/rename; head -c 900000 /dev/urandom > a/over; head -c 900000 /dev/urandom > a/again
head -c 400000 /dev/urandom > a/sub/moved; head -c 1000000 /dev/urandom > a/kept
echo one > a/small; echo x > gone/x; echo y > gone/below/y; echo z > dir2file/z; echo f > file2dir
ln -s here a/link; ln -s was a/link2; ln -s was file2link; mkfifo a/fifo; echo l > a/names; ln a/names a/names2; echo m > a/single
truncate -s 5M a/sparse; echo attr > a/xattr; setfattr -n user.k -v 1 a/xattr; echo fl > a/flags; echo mode > a/mode; echo t > a/time; echo own > a/owner
for i in $(seq 1 300); do echo $i > many/n$i; done
`
	changeKinds = `
set -e; cd "$1"
printf X | dd of=a/big bs=1 seek=1500000 conv=notrunc status=none
fallocate -p -o 524288 -l 1048576 a/punched
truncate -s 1000000 a/cut
head -c 100000 /dev/urandom >> a/append
mv a/rename a/renamed; mv a/sub/moved moved
head -c 900000 /dev/urandom > a/tmp; mv a/tmp a/over
echo two2 > a/small
rm -r gone dir2file; echo file > dir2file
rm file2dir; mkdir file2dir; echo in > file2dir/in; rm file2link; echo text > file2link
ln -sfn there a/link2; ln a/single a/single2; rm a/names2
head -c 300000 /dev/urandom | dd of=a/sparse bs=1000 seek=2000 conv=notrunc status=none
setfattr -n user.k -v 2 a/xattr; chattr +d a/flags; chmod 600 a/mode; touch -d '2001-02-03' a/time; chown 12:34 a/owner
mkdir new new/deep; head -c 500000 /dev/urandom > new/deep/f; echo n > new/n
rm many/n7; echo changed > many/n9; echo new > many/n999
`
)

// differences runs a comparison and returns a line for each change.
func (x *machine) differences(name, from, to string) (lines []string, res DiffResult) {
	x.t.Helper()
	res, err := x.Diff(ctx(x.t), name, from, to, func(c Change) error {
		lines = append(lines, fmt.Sprintf("%s %s %s %d>%d %d files %d dirs %d", c.Kind, c.Type, c.Path, c.Was, c.Now, c.Bytes, c.Files, c.Dirs))
		return nil
	})
	must(x.t, err)
	if n := uint64(len(lines)); n != res.Changes {
		x.t.Errorf("%d changes are told, and %d counted", n, res.Changes)
	}
	return lines, res
}

// withoutRepacked takes out what only is in other packs: the trees in the network have that, and outlines have no packs.
func withoutRepacked(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(s string) bool { return strings.HasPrefix(s, string(snapshot.Repacked)+" ") })
}

func (x *machine) wantSame(what string, atLeast int, got, want []string) {
	x.t.Helper()
	got, want = withoutRepacked(got), withoutRepacked(want)
	if len(want) < atLeast {
		x.t.Errorf("%s: only %d changes are known to the network", what, len(want))
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			x.t.Errorf("%s: missing: %s", what, l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			x.t.Errorf("%s: too much: %s", what, l)
		}
	}
	if !x.t.Failed() && !slices.Equal(got, want) {
		x.t.Errorf("%s: another order", what)
	}
}

// wantNoDrafts waits, as what an upload gives up passes through a folder of such a name, too.
func (x *machine) wantNoDrafts() {
	x.t.Helper()
	x.eventually("comparisons leave nothing", func() bool {
		left, err := filepath.Glob(filepath.Join(x.root, "trash", "*"+filling))
		return err == nil && len(left) == 0
	})
}

// local takes a snapshot that cannot be published, and returns its id.
func (x *machine) local(name string) string {
	x.t.Helper()
	i, err := x.Snapshot(ctx(x.t), name, false, nil)
	must(x.t, err)
	if i.Local == "" || i.Remote {
		x.t.Fatalf("not a local snapshot: %+v", i)
	}
	return i.Local
}

// TestDiff_OfSnapshotsThatAreHereAloneSaysWhatTheNetworkSaysLater compares before anything was ever published, and then the same two when they are.
func TestDiff_OfSnapshotsThatAreHereAloneSaysWhatTheNetworkSaysLater(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a")
	x.create("v")
	path := x.mount("v", "id")
	w.down.Store(true)
	shell(t, everyKind, path)
	one := x.local("v")
	shell(t, changeKinds, path)
	now, res := x.differences("v", one, Present)
	if res.To.Note != NotePresent || res.To.Local != "" {
		t.Errorf("the present state is told as %+v", res.To)
	}
	two := x.local("v")
	if gets, _ := w.store.Size(); gets != 0 {
		t.Fatalf("%d blocks are in the store: this was to be the answer without", gets)
	}
	here, res := x.differences("v", one, two)
	back, _ := x.differences("v", two, one)
	if res.From.Local != one || res.To.Local != two || res.From.Remote || res.To.Remote {
		t.Errorf("compared %+v with %+v", res.From, res.To)
	}
	newest, _ := x.differences("v", one, "")
	x.wantNoDrafts()

	w.down.Store(false)
	x.flush("v")
	network, res := x.differences("v", "1", "2")
	if !res.From.Remote || !res.To.Remote {
		t.Fatalf("not published: %+v, %+v", res.From, res.To)
	}
	x.wantSame("local", 30, here, network)
	x.wantSame("present", 30, now, network)
	x.wantSame("newest", 30, newest, network)
	netback, _ := x.differences("v", "2", "1")
	x.wantSame("backwards", 30, kinds(back), kinds(netback))
}

// kinds takes the amounts of data away: backwards the kernel does not say what changed, and less is known of each file.
func kinds(lines []string) (out []string) {
	for _, l := range lines {
		f := strings.Fields(l)
		out = append(out, strings.Join(f[:4], " "))
	}
	return out
}

// TestDiff_OfAPublishedSnapshotAndOneThatIsHere compares across the two kinds, also where the local snapshot of the published one is gone.
func TestDiff_OfAPublishedSnapshotAndOneThatIsHere(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a")
	x.create("v")
	path := x.mount("v", "id")
	shell(t, `cd "$1" && echo before > first`, path)
	x.flush("v")
	shell(t, everyKind, path)
	x.flush("v")
	shell(t, `cd "$1" && echo more > between`, path)
	x.flush("v") // generation 2 is in the network alone now
	shell(t, changeKinds, path)
	nothing, _ := x.differences("v", "3", "3")
	if nothing != nil {
		t.Errorf("a snapshot differs from itself: %q", nothing)
	}
	w.down.Store(true)
	x.local("v")
	present := func(from string) []string {
		t.Helper()
		all, err := x.LocalSnapshots("v")
		must(t, err)
		lines, _ := x.differences("v", all[len(all)-1].Local, Present)
		if lines != nil {
			t.Errorf("nothing changed since: %q", lines)
		}
		lines, _ = x.differences("v", from, Present)
		return lines
	}
	three := present("3")
	w.down.Store(false)
	two, _ := x.differences("v", "2", Present)
	one, _ := x.differences("v", "1", Present)
	x.flush("v")
	for i, got := range [][]string{one, two, three} {
		want, _ := x.differences("v", fmt.Sprint(i+1), "4")
		x.wantSame(fmt.Sprintf("from generation %d", i+1), []int{10, 30, 30}[i], got, want)
	}
	x.wantNoDrafts()
}

// TestDiff_OfAHalfFetchedVolumeFetchesNothing compares on the machine that took the volume over: what is remote keeps its references.
func TestDiff_OfAHalfFetchedVolumeFetchesNothing(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	a.create("v")
	shell(t, everyKind, a.mount("v", "id"))
	a.unmount("v", "id")
	a.released("v")
	b := w.machine("b")
	b.create("v", "privkey="+a.key("v"), "prefetch=none")
	path := b.mount("v", "id")
	shell(t, `cd "$1"
cat a/append > /dev/null; chmod 600 a/kept; printf X | dd of=a/big bs=1 seek=1500000 conv=notrunc status=none; truncate -s 1000000 a/cut; mv a/rename a/renamed; rm many/n7; echo c > many/n9; chown 1:2 a/over`, path)
	remote := b.info("v").BytesRemote
	w.down.Store(true)
	here, res := b.differences("v", b.local("v"), "1")
	lines, _ := b.differences("v", "1", Present)
	if res.From.Remote || remote == 0 || b.info("v").BytesRemote != remote {
		t.Errorf("compared %+v; %d bytes were remote, and %d are", res.From, remote, b.info("v").BytesRemote)
	}
	w.down.Store(false)
	b.flush("v")
	want, _ := b.differences("v", "1", "2")
	b.wantSame("forwards", 9, lines, want)
	want, _ = b.differences("v", "2", "1")
	b.wantSame("backwards", 9, here, want)
}

// TestDiff_WithoutTheStore compares what is here although the tree that it grew out of is not to be had, and says so of what cannot be compared.
func TestDiff_WithoutTheStore(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a")
	x.create("v")
	path := x.mount("v", "id")
	shell(t, everyKind, path)
	x.flush("v")
	w.down.Store(true)
	shell(t, `cd "$1" && echo between > between`, path)
	one := x.local("v")
	shell(t, changeKinds, path)
	two := x.local("v")
	with, _ := x.differences("v", one, two)
	must(t, os.RemoveAll(filepath.Join(x.root, "nodes")))
	for _, c := range w.store.CIDs() {
		w.store.Remove(c)
	}
	without, _ := x.differences("v", one, two)
	if !slices.Equal(without, with) || len(with) < 30 {
		t.Errorf("with the store:\n%s\nwithout:\n%s", strings.Join(with, "\n"), strings.Join(without, "\n"))
	}
	_, err := x.Diff(ctx(t), "v", "1", two, func(Change) error { return nil })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("compared with a tree that is gone: %v", err)
	}
	if _, err = x.Diff(ctx(t), "v", "77", two, func(Change) error { return nil }); err == nil {
		t.Error("compared with a snapshot that is unknown")
	}
	x.wantNoDrafts()
}

// TestDiff_KnowsAChangeThatKeptSizeAndTime: the trees in the network cannot tell it from a neighbour's in the same pack; the kernel can.
func TestDiff_KnowsAChangeThatKeptSizeAndTime(t *testing.T) {
	w := newWorld(t)
	x := w.machine("a")
	x.create("v")
	path := x.mount("v", "id")
	w.down.Store(true)
	shell(t, `cd "$1" && echo one > f && echo two > beside && touch -d 2001-02-03 f beside`, path)
	one := x.local("v")
	shell(t, `cd "$1" && echo 1ne > f && touch -d 2001-02-03 f && chmod 600 beside`, path)
	got, _ := x.differences("v", one, Present)
	want := []string{"attributes file /beside 4>4 0 files 0 dirs 0", "changed file /f 4>4 4 files 0 dirs 0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
