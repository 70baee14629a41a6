package store

import (
	"bytes"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/ipld/go-ipld-prime/traversal"
)

// Links returns the CIDs that a block links to, in the order of the block,
// repeated ones included: those of a dag-cbor block, none for a raw one. It
// is what a store follows when it pins or collects, so it reads the block as
// any IPFS node would and knows nothing of what this project puts into it.
// A dag-cbor block that cannot be decoded is an error (ErrCorrupt).
func Links(c cid.Cid, data []byte) ([]cid.Cid, error) {
	switch c.Prefix().Codec {
	case Raw:
		return nil, nil
	case DagCBOR:
	default:
		return nil, fmt.Errorf("%w: %s is neither raw nor dag-cbor", ErrCorrupt, c)
	}
	nb := basicnode.Prototype.Any.NewBuilder()
	if err := dagcbor.Decode(nb, bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("%w: decode %s: %w", ErrCorrupt, c, err)
	}
	found, err := traversal.SelectLinks(nb.Build())
	if err != nil {
		return nil, fmt.Errorf("%w: links of %s: %w", ErrCorrupt, c, err)
	}
	links := make([]cid.Cid, 0, len(found))
	for _, l := range found {
		cl, ok := l.(cidlink.Link)
		if !ok {
			return nil, fmt.Errorf("%w: %s has a link that is no CID", ErrCorrupt, c)
		}
		links = append(links, cl.Cid)
	}
	return links, nil
}
