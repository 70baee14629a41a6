package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"fractal-lazy/hive"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

// line is a block store behind a line that counts, and that may be cut or hold everything up.
type line struct {
	store.Store
	bytes atomic.Uint64 // that came
	cut   atomic.Bool
	slow  atomic.Pointer[chan struct{}] // blocks of content come when it is closed
	waits atomic.Int64                  // for slow
}

func (l *line) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if l.cut.Load() {
		return nil, fmt.Errorf("%w: cut", store.ErrUnavailable)
	}
	if ch := l.slow.Load(); ch != nil && c.Prefix().Codec != store.DagCBOR {
		l.waits.Add(1)
		select {
		case <-*ch:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b, err := l.Store.Get(ctx, c)
	l.bytes.Add(uint64(len(b)))
	return b, err
}

// since returns the bytes that came since the last call.
func (l *line) since() uint64 { return l.bytes.Swap(0) }

// standby is a machine with the volume's key, that has never mounted it, behind a line.
func (w *world) standby(a *machine) (*machine, *line) {
	w.t.Helper()
	l := &line{Store: w.store}
	b := w.machine("b", func(_ *Options, d *Deps) { d.Store = l })
	b.create("db", "privkey="+a.key("db"), "takeover=always")
	return b, l
}

func (x *machine) synchronize(budget string) Synchronization {
	x.t.Helper()
	s, err := x.Synchronize(ctx(x.t), "db", budget, nil)
	must(x.t, err)
	return s
}

// change makes the next generation, of which little is new: a small file and a bit of a large one. It returns its content.
func (x *machine) change(dir string, n int) {
	x.t.Helper()
	write(x.t, filepath.Join(dir, "small"), fmt.Sprint("generation ", n))
	shell(x.t, `printf %s "$2" | dd of="$1/large" bs=1 seek=$((3000000 + $2)) conv=notrunc status=none; mkdir -p "$1/d$2"; echo "$2" > "$1/d$2/f"`, dir, fmt.Sprint(n))
	x.flush("db")
}

// followed is a volume that machine a has mounted, of one generation of 8 MiB that do not compress, and what they sum up to.
func followed(t *testing.T, w *world) (a *machine, dir string) {
	t.Helper()
	a = w.machine("a")
	a.create("db")
	dir = a.mount("db", "1")
	shell(t, `head -c 6291456 /dev/urandom > "$1/large"; mkdir "$1/many"; for i in $(seq 64); do head -c 32768 /dev/urandom > "$1/many/$i"; done`, dir)
	a.change(dir, 1)
	return a, dir
}

func sums(t *testing.T, dir string) string {
	t.Helper()
	return shell(t, `cd "$1" && find . -type f | sort | xargs -d '\n' sha256sum`, dir)
}

func TestSynchronize_AFailoverStartsWarm(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	b, l := w.standby(a)
	must(t, b.SetJob("db", "synchronize:all", "60"))
	b.eventually("the first pull", func() bool { i := b.info("db"); return i.Synchronized != nil && i.Generation == 1 })
	if n := l.since(); n < 8*mib || n > 12*mib {
		t.Errorf("the first pull took %d bytes", n)
	}
	if i := b.info("db"); i.State != StateFollowing || i.BytesRemote != 0 || i.BytesTotal < 8*mib || len(i.Mounts) > 0 {
		t.Errorf("%+v", i)
	}
	for n := 2; n <= 4; n++ {
		a.change(dir, n)
		s := b.synchronize("")
		if s.Generation != uint64(n) || s.Before != uint64(n-1) || !s.Complete || s.BytesWarm != s.BytesTotal {
			t.Errorf("%+v", s)
		}
		if n := l.since(); n > 2*mib { // a chunk of 256 KiB, and some nodes
			t.Errorf("generation %d took %d bytes", s.Generation, n)
		}
		if w := b.writer("db"); w == nil || *w != a.id() {
			t.Fatalf("the writer is %v", w)
		}
	}
	if s := b.synchronize("all"); s.Fetched != 0 || s.Generation != 4 || l.since() != 0 {
		t.Errorf("nothing is new, and %+v", s)
	}
	a.change(dir, 5)
	want := sums(t, dir)
	a.vanish()

	dir = b.mount("db", "1")
	must(t, b.Hydrate(ctx(t), "db", true, nil))
	if got := sums(t, dir); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if n := l.since(); n > 2*mib {
		t.Errorf("the failover took %d bytes", n)
	}
	if i := b.info("db"); i.Generation != 5 || i.Synchronized != nil || len(i.Divergent) > 0 || i.Fenced {
		t.Errorf("%+v", i)
	}
	write(t, filepath.Join(dir, "small"), "from b")
	if s := b.flush("db"); s.Generation != 6 {
		t.Errorf("%+v", s)
	}
	b.unmount("db", "1")
	b.released("db")
}

func TestSynchronize_WarmDataNeedsNoBlockStore(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	b, l := w.standby(a)
	b.synchronize("all")
	a.change(dir, 2)
	b.synchronize("all")
	want := sums(t, dir)
	a.vanish()
	b.vanish()
	l.cut.Store(true)
	b = w.machine("b", func(_ *Options, d *Deps) { d.Store = l })
	if got := sums(t, b.mount("db", "1")); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if i := b.info("db"); i.State != StateComplete || i.Generation != 2 {
		t.Errorf("%+v", i)
	}
}

func TestSynchronize_KeepsToItsBudget(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	b, l := w.standby(a)
	meta := b.synchronize("metadata")
	if n := l.since(); meta.BytesWarm > 4096 || n > mib/4 || meta.Complete {
		t.Errorf("metadata: %+v, %d bytes came", meta, n)
	}
	s := b.synchronize("3MiB")
	if n := l.since(); s.BytesWarm > 3*mib || s.BytesWarm < 2*mib || n > 5*mib || n < 2*mib {
		t.Errorf("3 MiB: %+v, %d bytes came", s, n)
	}
	s = b.synchronize("3MiB")
	if n := l.since(); s.BytesWarm > 3*mib+4096 || n > mib {
		t.Errorf("again: %+v, %d bytes came", s, n)
	}
	a.change(dir, 2)
	s = b.synchronize("3MiB") // taken from the old state, all but little
	if n := l.since(); s.BytesWarm > 3*mib+4096 || s.BytesWarm < 2*mib || n > 5*mib/2 || s.Generation != 2 {
		t.Errorf("the next generation: %+v, %d bytes came", s, n)
	}
	if err := func() error { _, err := b.Synchronize(ctx(t), "db", "none", nil); return err }(); !errors.Is(err, ErrOption) {
		t.Errorf("no budget: %v", err)
	}
	if err := b.SetJob("db", "synchronize:nas,attic", "60"); err == nil || !strings.Contains(err.Error(), "hosts are not named") {
		t.Errorf("hosts: %v", err)
	}
}

func TestSynchronize_AMountEndsItAndGoesOn(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	want := sums(t, dir)
	b, l := w.standby(a)
	hold := make(chan struct{})
	l.slow.Store(&hold)
	done := make(chan error, 1)
	go func() { _, err := b.Synchronize(context.Background(), "db", "all", nil); done <- err }()
	b.eventually("content is on its way", func() bool { return l.waits.Load() > 0 })
	a.vanish()
	dir = b.mount("db", "1")
	if err := <-done; !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "mount") {
		t.Errorf("%v", err)
	}
	l.slow.Store(nil)
	close(hold)
	if got := sums(t, dir); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if _, err := b.Synchronize(ctx(t), "db", "", nil); !errors.Is(err, ErrInUse) {
		t.Errorf("mounted: %v", err)
	}
	must(t, b.SetJob("db", "synchronize", "60"))
	b.eventually("the job runs", func() bool { return !b.job("synchronize").Ran.IsZero() })
	if j := b.job("synchronize"); j.Failed > 0 {
		t.Errorf("%+v", j)
	}
}

// TestSynchronize_PutsNoChangeAside that only this machine has.
func TestSynchronize_PutsNoChangeAside(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	three(t, a)
	if s := a.synchronize(""); s.Generation != 3 || s.Fetched != 0 {
		t.Errorf("what was published here: %+v", s)
	}
	b, _ := w.standby(a)
	dir := b.mount("db", "1")
	write(t, filepath.Join(dir, "f"), "of b")
	w.down.Store(true)
	b.unmount("db", "1")
	if _, err := b.Synchronize(ctx(t), "db", "", nil); !errors.Is(err, ErrInUse) {
		t.Errorf("unpublished, and the writer: %v", err)
	}
	b.vanish()
	w.down.Store(false)
	a.vanish()
	a = w.machine("a")
	if v, err := a.lookup("db"); err != nil {
		t.Fatal(err)
	} else if err := v.update(func(r *record) { r.SavedGen = 1 }); err != nil { // as if something were changed, and never published
		t.Fatal(err)
	} else if err := v.unfollow(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Synchronize(ctx(t), "db", "", nil); !errors.Is(err, ErrNotSaved) {
		t.Errorf("changed: %v", err)
	}
}

// TestSynchronize_NothingOlderNothingForged with a Hive that was set back, and with one that hands out manifests that the key did not sign. What was warm stays.
func TestSynchronize_NothingOlderNothingForged(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	b, _ := w.standby(a)
	a.change(dir, 2)
	b.synchronize("all")
	a.change(dir, 3)

	c := w.machine("c", func(_ *Options, d *Deps) {
		var err error
		d.Hive, err = hive.NewClient(w.url, w.token, &http.Client{Transport: forger{}})
		must(t, err)
	})
	c.create("db", "privkey="+a.key("db"))
	if _, err := c.Synchronize(ctx(t), "db", "", nil); !errors.Is(err, hive.ErrSignature) {
		t.Errorf("forged: %v", err)
	}
	if i := c.info("db"); i.Generation != 0 || i.Newest != 0 || i.State != StateNew {
		t.Errorf("forged: %+v", i)
	}

	v, err := b.lookup("db")
	must(t, err)
	all, err := w.hive.All(ctx(t), v.pub)
	must(t, err)
	a.vanish()
	must(t, w.hive.Delete(ctx(t), v.pub))
	check := func(what string) {
		t.Helper()
		if _, err := b.Synchronize(ctx(t), "db", "", nil); !errors.Is(err, ErrRollback) {
			t.Errorf("%s: %v", what, err)
		}
		if i := b.info("db"); i.Generation != 2 || i.BytesRemote != 0 {
			t.Errorf("%s: %+v", what, i)
		}
	}
	check("unknown")
	must(t, w.hive.Create(ctx(t), v.pub))
	check("none")
	_, err = w.hive.Post(ctx(t), v.pub, all[0].Sign(v.key))
	must(t, err)
	check("older")
	fork := *all[1]
	fork.Creation++
	_, err = w.hive.Post(ctx(t), v.pub, fork.Sign(v.key))
	must(t, err)
	check("another of the same generation")
}

// forger changes a bit of each manifest on its way.
type forger struct{}

func (forger) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if _, err := hive.ParseHash(path.Base(r.URL.Path)); err == nil && strings.Count(r.URL.Path, "/") == 5 { // /api/v1/volume/KEY/HASH
		b[len(b)/2] ^= 1
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, err
}

// TestSynchronize_StoreGone ends with why, and goes on when it is back.
func TestSynchronize_StoreGone(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	b, l := w.standby(a)
	b.synchronize("metadata")
	l.cut.Store(true)
	if _, err := b.Synchronize(ctx(t), "db", "all", nil); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("%v", err)
	}
	a.change(dir, 2)
	if _, err := b.Synchronize(ctx(t), "db", "all", nil); err == nil {
		t.Error("a new generation without its root")
	}
	if i := b.info("db"); i.Generation != 1 {
		t.Errorf("%+v", i)
	}
	l.cut.Store(false)
	if s := b.synchronize("all"); !s.Complete || s.Generation != 2 {
		t.Errorf("%+v", s)
	}
}

func TestDecideFollow(t *testing.T) {
	base := &baseRecord{Generation: 2, Hash: hive.Hash{}.String()}
	for name, c := range map[string]struct {
		r    record
		has  bool
		diff bool
		a    answer
		pull bool
		err  error
	}{
		"never here":         {record{}, false, false, answer{latest: &hive.Manifest{Generation: 2}}, true, nil},
		"newer":              {record{Base: base}, true, false, answer{latest: &hive.Manifest{Generation: 3}}, true, nil},
		"newer, and changes": {record{Base: base}, true, true, answer{latest: &hive.Manifest{Generation: 3}}, false, ErrNotSaved},
		"pending":            {record{Base: base, Snapshots: []snapRecord{{Kind: kindPending}}}, true, false, answer{latest: &hive.Manifest{Generation: 3}}, false, ErrNotSaved},
		"restored":           {record{Base: base, From: &originRecord{}}, true, false, answer{latest: &hive.Manifest{Generation: 3}}, false, ErrNotSaved},
		"a clone":            {record{Source: "x"}, true, false, answer{unknown: true}, false, ErrNotSaved},
		"never published":    {record{}, true, false, answer{unknown: true}, false, ErrNotSaved},
		"nothing there":      {record{}, false, false, answer{unknown: true}, false, ErrNoSnapshot},
		"forgotten":          {record{Seen: &mark{2, base.Hash}}, false, false, answer{unknown: true}, false, ErrRollback},
		"writer":             {record{Base: base, Writer: true}, true, false, answer{latest: &hive.Manifest{Generation: 3}}, false, ErrInUse},
		"fenced":             {record{Base: base, Fence: &fenceRecord{}}, true, false, answer{latest: &hive.Manifest{Generation: 3}}, false, ErrFenced},
		"no Hive":            {record{Base: base}, true, false, answer{err: errNoHive}, false, ErrNotReady},
	} {
		if d := decideFollow(&c.r, c.has, c.diff, c.a); d.pull != c.pull || !errors.Is(d.err, c.err) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestMount_OfAFollowedVolumeThatFails once, without the newest generation's root, takes what was fetched for no change later.
func TestMount_OfAFollowedVolumeThatFails(t *testing.T) {
	w := newWorld(t)
	a, dir := followed(t, w)
	b, l := w.standby(a)
	b.synchronize("2MiB")
	a.change(dir, 2)
	want := sums(t, dir)
	a.vanish()
	l.cut.Store(true)
	if _, err := b.Mount(ctx(t), "db", "1"); err == nil {
		t.Fatal("mounted without a root")
	}
	l.cut.Store(false)
	if got := sums(t, b.mount("db", "1")); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if i := b.info("db"); i.Generation != 2 || len(i.Divergent) > 0 {
		t.Errorf("%+v", i)
	}
}
