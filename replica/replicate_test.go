package replica

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"fractal-lazy/hive"
	"fractal-lazy/store"
	"fractal-lazy/store/faulty"
	"fractal-lazy/store/memory"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// twoPlaces is a world whose volume was published some times, and a second place.
type twoPlaces struct {
	*world
	second *world
	v      *volume
	base   Base
	files  map[string][]byte
}

// newTwoPlaces publishes n snapshots of a volume in which more changes each time.
func newTwoPlaces(t *testing.T, n int) *twoPlaces {
	p := &twoPlaces{world: newWorld(t), second: newWorld(t), v: newVolume(t), files: map[string][]byte{}}
	for range n {
		p.change()
	}
	return p
}

func (p *twoPlaces) change() {
	i := uint64(p.base.Generation)
	write := func(name string, data []byte) {
		p.files["/"+name] = data
		p.v.write(name, data)
	}
	write("big", noise(i, 900<<10))
	names(40, func(k int, name string) {
		if uint64(k)%5 == i%5 || i == 0 {
			write(name, noise(i<<8+uint64(k), 3000))
		}
	})
	p.base = p.publish(p.v.snapshot(), p.base).Base
}

func (p *twoPlaces) replicate(from, to store.Store) (Replicated, error) {
	p.t.Helper()
	all, err := p.hive.All(context.Background(), p.key.Public())
	check(p.t, err)
	return Replicate(context.Background(), Place{from, p.hive}, Place{to, p.second.hive}, p.key, all, all[len(all)-1], ReplicateOptions{})
}

// wantAll reads the newest snapshot back from the second place, where nothing unreachable is left over.
func (p *twoPlaces) wantAll() {
	p.t.Helper()
	latest, err := p.second.hive.Latest(context.Background(), p.key.Public())
	check(p.t, err)
	if latest.Generation != p.base.Generation || latest.Hash() != p.base.Hash {
		p.t.Fatalf("generation %d there, %d here", latest.Generation, p.base.Generation)
	}
	p.second.blocks.GC()
	there := &world{t: p.t, store: p.second.blocks, key: p.key}
	for name, data := range p.files {
		there.wantFile(p.base.Root, name, data)
	}
	v, err := p.second.hive.Volume(context.Background(), p.key.Public())
	check(p.t, err)
	if v.Writer != nil {
		p.t.Errorf("the second Hive says that %s uses the volume", v.Writer)
	}
}

func TestReplicate_BringsAllSnapshotsAndThenOnlyWhatIsNew(t *testing.T) {
	p := newTwoPlaces(t, 3)
	r, err := p.replicate(p.blocks, p.second.blocks)
	check(t, err)
	if r.Manifests != 3 || r.Snapshots != 3 || r.Generation != 3 {
		t.Errorf("%+v", r)
	}
	p.wantAll()
	first := r.Stats.Bytes
	p.v.write("small", []byte("new"))
	p.files["/small"] = []byte("new")
	p.base = p.publish(p.v.snapshot(), p.base).Base
	r, err = p.replicate(p.blocks, p.second.blocks)
	check(t, err)
	if r.Manifests != 1 || r.Stats.Bytes > first/10 || r.Stats.Whole {
		t.Errorf("after a small change %+v, %d bytes at first", r, first)
	}
	p.wantAll()
	r, err = p.replicate(p.blocks, p.second.blocks)
	check(t, err)
	if r.Manifests != 0 || r.Stats != (CopyStats{}) {
		t.Errorf("nothing is new, but %+v", r)
	}
}

func TestReplicate_WhereTheFirstPlaceGaveOldSnapshotsUp(t *testing.T) {
	p := newTwoPlaces(t, 3)
	all, err := p.hive.All(context.Background(), p.key.Public())
	check(t, err)
	old, err := ParseRoot(all[0].Data)
	check(t, err)
	check(t, p.blocks.Unpin(context.Background(), old))
	p.blocks.GC()
	r, err := p.replicate(p.blocks, p.second.blocks)
	check(t, err)
	if r.Manifests != 3 || r.Snapshots != 2 {
		t.Errorf("%+v", r)
	}
	p.wantAll()
}

// TestReplicate_GoesOnWhereItWasInterrupted at each call to the second store, with a collection there in between.
func TestReplicate_GoesOnWhereItWasInterrupted(t *testing.T) {
	for _, op := range []faulty.Op{faulty.PutMany, faulty.Pin, faulty.PinUpdate, faulty.Has} {
		for after := range 4 {
			t.Run(fmt.Sprint(op, after), func(t *testing.T) {
				p := newTwoPlaces(t, 2)
				there := faulty.New(p.second.blocks)
				rule := there.Inject(faulty.Rule{Op: op, After: after, Fault: faulty.Fail(store.ErrUnavailable)})
				_, err := p.replicate(p.blocks, there)
				if rule.Hits() > 0 {
					wantError(t, err, store.ErrUnavailable)
				}
				rule.Lift()
				if after%2 == 0 {
					p.second.blocks.GC()
				}
				_, err = p.replicate(p.blocks, there)
				check(t, err)
				p.wantAll()
			})
		}
	}
}

// TestCopy_FindsGapsBelowWhatIsThere as a collection leaves them that ran in the middle of a copy.
func TestCopy_FindsGapsBelowWhatIsThere(t *testing.T) {
	p := newTwoPlaces(t, 1)
	ctx := context.Background()
	for _, id := range p.blocks.CIDs() { // all but one block of content, and nothing pinned
		data, err := p.blocks.Get(ctx, id)
		check(t, err)
		if id.Prefix().Codec == store.DagCBOR {
			check(t, p.second.blocks.PutMany(ctx, func(yield func(store.Block, error) bool) { yield(store.Block{CID: id, Data: data}, nil) }))
		}
	}
	s, err := Copy(ctx, p.blocks, p.second.blocks, cid.Undef, p.base.Root, nil, nil)
	check(t, err)
	if !s.Whole || s.Blocks == 0 {
		t.Errorf("%+v", s)
	}
	if ok, err := p.second.blocks.Pinned(ctx, p.base.Root); err != nil || !ok {
		t.Errorf("pinned: %v, %v", ok, err)
	}
}

func TestCopy_ABlockThatTheSourceLacksIsAnError(t *testing.T) {
	p := newTwoPlaces(t, 1)
	for _, id := range p.blocks.CIDs() {
		if id.Prefix().Codec == store.Raw {
			p.blocks.Remove(id)
			break
		}
	}
	there := memory.New()
	_, err := Copy(context.Background(), p.blocks, there, cid.Undef, p.base.Root, nil, nil)
	wantError(t, err, store.ErrNotFound)
	if ok, err := there.Pinned(context.Background(), p.base.Root); err != nil || ok {
		t.Errorf("half of it is pinned: %v", err)
	}
}

func TestReplicate_LeavesAPlaceAloneWhereTheVolumeLives(t *testing.T) {
	p := newTwoPlaces(t, 2)
	_, err := p.replicate(p.blocks, p.second.blocks)
	check(t, err)
	other := uuid.New()
	check(t, p.second.hive.SetWriter(context.Background(), p.key.Public(), &other))
	p.change()
	_, err = p.replicate(p.blocks, p.second.blocks)
	wantError(t, err, ErrFenced)

	// And it went on there.
	m := &hive.Manifest{Creation: 1, Machine: other, Path: "/x", Size: 100, SizeTotal: 100 + sizeOf(t, p), Generation: 3, Data: dataScheme + p.base.Root.String(),
		Parent: &hive.Parent{Hash: second(t, p)}}
	_, err = p.second.hive.Post(context.Background(), p.key.Public(), m.Sign(p.key))
	check(t, err)
	check(t, p.second.hive.SetWriter(context.Background(), p.key.Public(), nil))
	_, err = p.replicate(p.blocks, p.second.blocks)
	wantError(t, err, ErrBehind)
}

func second(t *testing.T, p *twoPlaces) hive.Hash { return latestThere(t, p).Hash() }
func sizeOf(t *testing.T, p *twoPlaces) uint64    { return latestThere(t, p).SizeTotal }

func latestThere(t *testing.T, p *twoPlaces) *hive.Manifest {
	m, err := p.second.hive.Latest(context.Background(), p.key.Public())
	check(t, err)
	return m
}

// A purge removes manifests from the first place, also those that others name as the one before them.
func TestReplicate_AfterAPurge(t *testing.T) {
	ctx := context.Background()
	for _, begun := range []bool{false, true} {
		p := newTwoPlaces(t, 2)
		if begun {
			_, err := p.replicate(p.blocks, p.second.blocks)
			check(t, err)
		}
		p.change()
		p.change()
		all, err := p.hive.All(ctx, p.key.Public())
		check(t, err)
		for _, m := range all[:3] { // the newest that the second place has among them, and the one after that
			check(t, p.hive.Forget(ctx, p.key.Public(), m.Hash()))
			root, err := ParseRoot(m.Data)
			check(t, err)
			check(t, p.blocks.Unpin(ctx, root))
		}
		p.blocks.GC()
		for range 2 {
			_, err = p.replicate(p.blocks, p.second.blocks)
			check(t, err)
			there := latestThere(t, p)
			if !sameState(there, all[3]) {
				t.Fatalf("begun %v: generation %d of %s there", begun, there.Generation, there.Data)
			}
			p.second.blocks.GC()
			read := &world{t: t, store: p.second.blocks, key: p.key}
			for name, data := range p.files {
				read.wantFile(p.base.Root, name, data)
			}
		}
		p.change() // and it goes on, though the manifests before are not the same
		_, err = p.replicate(p.blocks, p.second.blocks)
		check(t, err)
		if n, err := p.second.hive.Snapshots(ctx, p.key.Public(), nil, false); err != nil || len(n) != map[bool]int{false: 2, true: 4}[begun] {
			t.Fatalf("begun %v: %d manifests there, %v", begun, len(n), err)
		}
		if there := latestThere(t, p); there.Generation != 5 {
			t.Fatalf("generation %d", there.Generation)
		}
	}
}

func TestNextFor_KnowsItsOwnHistory(t *testing.T) {
	us, them := uuid.New(), uuid.New()
	at := func(generation uint64, machine uuid.UUID, parent *hive.Manifest) *hive.Manifest {
		m := &hive.Manifest{Creation: generation, Machine: machine, Path: "/x", Size: 100, Generation: generation, Data: fmt.Sprintf("ipfs://%d-%s", generation, machine)}
		if parent != nil {
			m.Parent = &hive.Parent{Hash: parent.Hash()}
		}
		return m
	}
	one := at(1, us, nil)
	two := at(2, us, one)
	three := at(3, us, two)
	four := at(4, us, three)
	made := *three // as a purge made it necessary there
	made.Parent = nil
	for _, c := range []struct {
		name  string
		chain []*hive.Manifest
		there *hive.Manifest
		want  int
	}{
		{"nothing there", []*hive.Manifest{one, two}, nil, 0},
		{"all there", []*hive.Manifest{one, two}, two, 2},
		{"one is new", []*hive.Manifest{one, two}, one, 1},
		{"the newest there was purged, the next was not", []*hive.Manifest{one, three, four}, two, 1},
		{"more was purged", []*hive.Manifest{one, four}, two, 1},
		{"a new manifest of the same", []*hive.Manifest{one, three, four}, &made, 2},
		{"that one was purged since", []*hive.Manifest{one, four}, &made, 1},
		{"another of the same generation", []*hive.Manifest{one, two, three}, at(2, them, one), -1},
		{"another whose like was purged", []*hive.Manifest{one, three}, at(2, them, one), -1},
		{"newer there", []*hive.Manifest{one, two}, three, -1},
	} {
		if got := nextFor(c.chain, c.there); got != c.want {
			t.Errorf("%s: %d", c.name, got)
		}
	}
}

// beforePost does something before each manifest.
type beforePost struct{ do func() }

func (b beforePost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		b.do()
	}
	return http.DefaultTransport.RoundTrip(r)
}

// Another machine, which was interrupted with the same snapshot, gives its pin up just before this one posts the manifest; and a collection follows.
func TestReplicate_ThePinIsLostBeforeTheManifest(t *testing.T) {
	p := newTwoPlaces(t, 2)
	hits := 0
	var err error
	p.second.hive, err = hive.NewClient(p.second.server.URL, p.second.token, &http.Client{Transport: beforePost{func() {
		for _, c := range p.second.blocks.CIDs() {
			if is, err := p.second.blocks.Pinned(context.Background(), c); err == nil && is {
				hits++
				check(t, p.second.blocks.Unpin(context.Background(), c))
			}
		}
		p.second.blocks.GC()
	}}})
	check(t, err)
	_, err = p.replicate(p.blocks, p.second.blocks)
	check(t, err)
	if hits < 2 {
		t.Errorf("%d pins were given up", hits)
	}
	p.wantAll()
}
