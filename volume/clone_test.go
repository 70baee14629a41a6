package volume

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"fractal-lazy/backing"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
)

func (x *machine) clone(name, text, as string) RestoreResult {
	x.t.Helper()
	r, err := x.Clone(ctx(x.t), name, text, as)
	must(x.t, err)
	return r
}

// elsewhere mounts the volume of x on a machine that has nothing but its key, and returns where.
func (x *machine) elsewhere(name string) string {
	x.t.Helper()
	b := x.w.machine("elsewhere-of-" + name)
	b.create(name, "privkey="+x.key(name), "takeover=always")
	return b.mount(name, "1")
}

func TestClone_OfAVolumeInUseIsAVolumeOfItsOwn(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	dir := a.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "in use")
	a.clone("db", "", "copy")
	write(t, filepath.Join(dir, "f"), "later")
	if a.key("copy") == a.key("db") {
		t.Fatal("one key for both")
	}
	a.released("copy") // published though it was never mounted
	if i := a.info("copy"); i.Generation != 1 || i.CloneOf != "" {
		t.Fatalf("%+v", i)
	}
	wantFile(t, filepath.Join(a.elsewhere("copy"), "f"), "in use")
	wantFile(t, filepath.Join(dir, "f"), "later")
	// The manifest has no parent in which the other volume's secret could stand.
	v, err := a.lookup("copy")
	must(t, err)
	m, err := w.hive.Latest(ctx(t), v.pub)
	must(t, err)
	if m.Parent != nil {
		t.Fatalf("%+v", m.Parent)
	}
	for _, bad := range []string{"", "../x", "db", "copy"} {
		if _, err := a.Clone(ctx(t), "db", "", bad); !errors.Is(err, ErrName) && !errors.Is(err, ErrExists) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := a.Clone(ctx(t), "db", "77", "other"); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("%v", err)
	}
	if _, err := a.Get("other"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
}

// A clone of a volume that came from the network carries marks that refer to blocks of the other key, also when it is complete.
func TestClone_OfAFetchedVolumeIsSealedAnew(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"))
	dir := b.mount("db", "1")
	must(t, b.Hydrate(ctx(t), "db", true, nil))
	b.eventually("complete", func() bool { return b.info("db").State == StateComplete })
	wantFile(t, filepath.Join(dir, "f"), "3")
	b.clone("db", "", "copy")
	b.released("copy")
	b.clone("copy", "", "copy-of-copy")
	b.released("copy-of-copy")
	for _, name := range []string{"copy", "copy-of-copy"} {
		dir = b.elsewhere(name)
		wantFile(t, filepath.Join(dir, "f"), "3")
		shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
	}
}

func TestClone_OfAHalfFetchedVolumeWorksAtOnceAndIsPublishedWhenItIsComplete(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "prefetch=none")
	wantFile(t, filepath.Join(b.mount("db", "1"), "f"), "3") // sub is remote
	r := b.clone("db", "", "copy")
	if r.Note == "" || b.info("copy").CloneOf != b.info("db").Pubkey {
		t.Fatalf("%+v, %+v", r, b.info("copy"))
	}
	if _, err := b.Snapshot(ctx(t), "copy", false, nil); !errors.Is(err, ErrNotReady) {
		t.Fatalf("%v", err)
	}
	b.unmount("db", "1")
	b.released("db")
	if err := b.Remove(ctx(t), "db", true); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	// A restart finds it as it was; mounting and unmounting publishes nothing yet.
	b.vanish()
	st := faulty.New(w.store)
	b = w.machine("b", func(_ *Options, d *Deps) { d.Store = st })
	down := st.Inject(faulty.Rule{Op: faulty.Get, Fault: faulty.Fail(store.ErrUnavailable)})
	dir := b.mount("copy", "1")
	wantFile(t, filepath.Join(dir, "f"), "3")
	b.unmount("copy", "1")
	b.released("copy")
	if i := b.info("copy"); i.CloneOf == "" || i.Generation != 0 || b.writer("copy") != nil {
		t.Fatalf("%+v", i)
	}
	down.Lift()
	dir = b.mount("copy", "1")
	write(t, filepath.Join(dir, "g"), "of the clone")
	shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
	must(t, b.Hydrate(ctx(t), "copy", true, nil))
	b.eventually("complete", func() bool { return b.info("copy").State == StateComplete })
	b.flush("copy")
	b.unmount("copy", "1")
	b.released("copy")
	if i := b.info("copy"); i.CloneOf != "" {
		t.Fatalf("%+v", i)
	}
	must(t, b.Remove(ctx(t), "db", false))
	dir = b.elsewhere("copy")
	wantFile(t, filepath.Join(dir, "g"), "of the clone")
	shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
}

// overtakenClone returns a machine b whose clone "copy" of "db" was not all here when another machine published under its key: it holds that machine's state, and what it was
// before in the snapshot divergent.
func overtakenClone(t *testing.T) (b *machine, divergent string) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	b = w.machine("b")
	b.create("db", "privkey="+a.key("db"), "prefetch=none")
	b.mount("db", "1") // sub is remote
	b.clone("db", "", "copy")
	b.unmount("db", "1")
	b.released("db")
	c := w.machine("c")
	c.create("copy", "privkey="+b.key("copy"))
	write(t, filepath.Join(c.mount("copy", "1"), "f"), "of c")
	c.unmount("copy", "1")
	c.released("copy")
	wantFile(t, filepath.Join(b.mount("copy", "1"), "f"), "of c")
	b.unmount("copy", "1")
	b.released("copy")
	i := b.info("copy")
	if i.CloneOf != "" || len(i.Divergent) != 1 {
		t.Fatalf("%+v", i)
	}
	return b, filepath.Base(i.Divergent[0])
}

// A snapshot from before all of a clone was here takes content from the other volume when it is restored, whatever became of the clone meanwhile.
func TestClone_RestoredToWhatWasNotAllHere(t *testing.T) {
	b, divergent := overtakenClone(t)
	_, err := b.Restore(ctx(t), "copy", divergent)
	must(t, err)
	i := b.info("copy")
	if i.CloneOf != b.info("db").Pubkey {
		t.Fatalf("%+v", i)
	}
	if err := b.Remove(ctx(t), "db", true); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	dir := b.mount("copy", "1")
	wantFile(t, filepath.Join(dir, "f"), "3")
	must(t, b.Hydrate(ctx(t), "copy", true, nil))
	b.unmount("copy", "1")
	b.released("copy")
	if i = b.info("copy"); i.CloneOf != "" || i.Generation < 2 {
		t.Fatalf("%+v", i)
	}
	must(t, b.Remove(ctx(t), "db", false))
	dir = b.elsewhere("copy")
	wantFile(t, filepath.Join(dir, "f"), "3")
	shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
}

// To look into such a snapshot makes no clone of the view.
func TestBrowse_OfWhatWasNotAllHereIsNoClone(t *testing.T) {
	b, divergent := overtakenClone(t)
	view, _, err := b.Browse(ctx(t), "copy", divergent)
	must(t, err)
	wantFile(t, filepath.Join(b.mount(view, "1"), "f"), "3")
	if i := b.info(view); i.CloneOf != "" {
		t.Fatalf("%+v", i)
	}
	b.unmount(view, "1")
	must(t, b.Remove(ctx(t), view, false))
}

// Where that other volume is gone, the restore is refused, and the clone stays what it is.
func TestClone_IsNotRestoredToWhatCannotBeFetched(t *testing.T) {
	b, divergent := overtakenClone(t)
	must(t, b.Remove(ctx(t), "db", false))
	if _, err := b.Restore(ctx(t), "copy", divergent); !errors.Is(err, ErrNotReady) {
		t.Fatalf("%v", err)
	}
	if v, err := b.lookup("copy"); err != nil || v.has(v.next()) {
		t.Fatalf("what was made for the restore stays: %v", err)
	}
	wantFile(t, filepath.Join(b.mount("copy", "1"), "f"), "of c")
	b.unmount("copy", "1")
	b.released("copy")
}

func TestClone_OfAnOldSnapshot(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	a.mount("db", "1")
	a.clone("db", "1", "first") // from the network
	a.clone("db", "3", "third") // from the local snapshot
	b := w.machine("b")
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	b.clone("db", "", "never-mounted") // db itself has no data on b
	for _, c := range []struct {
		x          *machine
		name, want string
	}{{a, "first", "1"}, {a, "third", "3"}, {b, "never-mounted", "3"}} {
		dir := c.x.mount(c.name, "1")
		wantFile(t, filepath.Join(dir, "f"), c.want)
		shell(t, `seq 1 100000 | cmp - "$1/sub/same"`, dir)
		must(t, c.x.Hydrate(ctx(t), c.name, true, nil))
		c.x.unmount(c.name, "1")
		c.x.released(c.name)
		wantFile(t, filepath.Join(c.x.elsewhere(c.name), "f"), c.want)
	}
}

// What a volume holds now may be newer than what this machine has of it.
func TestClone_OfAVolumeThatAnotherMachineWentOnWith(t *testing.T) {
	w := newWorld(t)
	a := twoGenerations(t, w)
	w.down.Store(true)
	if r := a.clone("db", "", "offline"); !strings.Contains(r.From.Note, "cannot be asked") {
		t.Errorf("%+v", r)
	}
	wantFile(t, filepath.Join(a.mount("offline", "1"), "f"), "one")
	w.down.Store(false)
	if changed, err := a.differs(a.vol("db")); changed || err != nil {
		t.Errorf("a clone is a change of its origin: %v, %v", changed, err)
	}
	if r := a.clone("db", "", "copy"); r.From.Generation != 2 {
		t.Errorf("%+v", r)
	}
	wantFile(t, filepath.Join(a.mount("copy", "1"), "f"), "two")
	// What is mounted, or has changes that nobody else has, is the newest there is.
	write(t, filepath.Join(a.mount("db", "1"), "f"), "three")
	a.clone("db", "", "third")
	wantFile(t, filepath.Join(a.mount("third", "1"), "f"), "three")
	w.down.Store(true)
	a.unmount("db", "1")
	a.clone("db", "", "unpublished")
	wantFile(t, filepath.Join(a.mount("unpublished", "1"), "f"), "three")
}

// What a crash leaves of a clone is thrown away, or finished, at the next Open.
func TestOpen_FinishesACloneThatWasInterrupted(t *testing.T) {
	for _, stop := range []string{"before the record", "before the rename"} {
		t.Run(stop, func(t *testing.T) {
			w := newWorld(t)
			a := w.machine("a")
			three(t, a)
			v, err := a.lookup("db")
			must(t, err)
			n, _, err := a.cloneData(ctx(t), v, "", "copy")
			must(t, err)
			if stop == "before the rename" {
				a.loadMu.Lock()
				must(t, a.keepKey(&n.rec, n.key))
				must(t, a.enrol(n))
				a.loadMu.Unlock()
			}
			a.made(n)
			must(t, backing.SyncFS(a.root))
			a.vanish()
			a = w.machine("a")
			if stop == "before the record" {
				if _, err := a.Get("copy"); !errors.Is(err, ErrUnknown) || n.has(n.next()) {
					t.Fatalf("%v, %v", err, n.has(n.next()))
				}
				a.clone("db", "", "copy")
			}
			wantFile(t, filepath.Join(a.mount("copy", "1"), "f"), "3")
		})
	}
}
