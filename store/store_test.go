package store_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"fractal-lazy/store"
	"fractal-lazy/store/storetest"
)

func TestLinks_InOrderAndRepeated(t *testing.T) {
	a, b := storetest.Block("a", 10), storetest.Block("b", 10)
	n := storetest.Node("n", b.CID, a.CID, b.CID)
	links, err := store.Links(n.CID, n.Data)
	if err != nil || !slices.Equal(links, []cid.Cid{b.CID, a.CID, b.CID}) {
		t.Fatalf("%v, %v", links, err)
	}
	if links, err := store.Links(a.CID, n.Data); err != nil || len(links) > 0 {
		t.Errorf("a raw block links to %v, %v", links, err)
	}
}

func TestLinks_RefusesWhatIsNoDagCBOR(t *testing.T) {
	n := storetest.Node("n", storetest.Block("a", 10).CID)
	for name, data := range map[string][]byte{
		"empty":         nil,
		"truncated":     n.Data[:len(n.Data)-1],
		"trailing":      append(bytes.Clone(n.Data), 0),
		"huge array":    {0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"huge bytes":    {0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"deep":          bytes.Repeat([]byte{0x81}, 1<<20),
		"link no CID":   {0xd8, 42, 0x42, 0, 1},
		"other tag":     {0xd8, 43, 0x41, 0},
		"break outside": {0xff},
	} {
		if links, err := store.Links(store.Sum(store.DagCBOR, data), data); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v, %v", name, links, err)
		}
	}
}

func TestVerify_TakesOneFormOnly(t *testing.T) {
	b := storetest.Block("b", 10)
	if err := store.Verify(b.CID, b.Data); err != nil {
		t.Fatal(err)
	}
	mh := b.CID.Hash()
	identity, _ := multihash.Sum(b.Data, multihash.IDENTITY, -1)
	for name, c := range map[string]cid.Cid{
		"undefined": cid.Undef,
		"version 0": cid.NewCidV0(mh),
		"dag-pb":    cid.NewCidV1(cid.DagProtobuf, mh),
		"identity":  cid.NewCidV1(cid.Raw, identity),
		"another":   storetest.Block("c", 10).CID,
	} {
		if err := store.Verify(c, b.Data); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Blocks come from other machines: decoding one must neither panic nor take
// memory out of proportion.
func FuzzLinks(f *testing.F) {
	f.Add(storetest.Node("n").Data)
	f.Add(storetest.Node("n", storetest.Block("a", 10).CID, storetest.Block("b", 10).CID).Data)
	f.Add([]byte{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		links, err := store.Links(store.Sum(store.DagCBOR, data), data)
		if err == nil && len(links) > len(data) {
			t.Fatalf("%d links of %d bytes", len(links), len(data))
		}
	})
}
