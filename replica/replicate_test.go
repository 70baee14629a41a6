package replica

import (
	"context"
	"errors"
	"fmt"
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
	return Replicate(context.Background(), Place{from, p.hive}, Place{to, p.second.hive}, p.key, all, all[len(all)-1], nil, nil)
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

func TestReplicate_AHiveThatHidesManifestsIsAnError(t *testing.T) {
	p := newTwoPlaces(t, 3)
	all, err := p.hive.All(context.Background(), p.key.Public())
	check(t, err)
	_, err = Replicate(context.Background(), Place{p.blocks, p.hive}, Place{p.second.blocks, p.second.hive}, p.key, all[1:], all[2], nil, nil)
	if !errors.Is(err, hive.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
