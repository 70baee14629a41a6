package snapshot

import (
	"context"
	"fmt"

	"fractal-lazy/seal"
	"fractal-lazy/snapshot/wire"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
)

// Getter fetches one block, verified against its CID. store.Store is one.
type Getter interface {
	Get(ctx context.Context, c cid.Cid) ([]byte, error)
}

// indexCache is how many opened index nodes of files a Reader keeps: enough
// for random access to 16 GiB at 256 KiB a chunk, in at most 15 MiB or so.
const indexCache = 64

// Reader reads snapshots. Safe for concurrent use.
type Reader struct {
	get     Getter
	sealer  *seal.Sealer
	indexes *lru.Cache[indexKey, *wire.FileIndex]

	// Observe is told whether an index node that was wanted was in memory; nil: nobody. Set it before the first use.
	Observe func(hit bool)
}

// indexKey: the same node means other windows in another place.
type indexKey struct {
	node cid.Cid
	pos  wire.FilePos
}

// NewReader reads the blocks that g gets, with the keys of s.
func NewReader(g Getter, s *seal.Sealer) *Reader {
	indexes, err := lru.New[indexKey, *wire.FileIndex](indexCache)
	if err != nil { // the size is a constant above 0
		panic(err)
	}
	return &Reader{get: g, sealer: s, indexes: indexes}
}

// node fetches and opens a node.
func (r *Reader) node(ctx context.Context, kind seal.Kind, c cid.Cid) (links []cid.Cid, payload []byte, err error) {
	if !c.Defined() || c.Prefix().Codec != cid.DagCBOR {
		return nil, nil, fmt.Errorf("%w: %s is not a node", ErrDamaged, c)
	}
	block, err := r.get.Get(ctx, c)
	if err == nil {
		links, payload, err = openNode(r.sealer, kind, block)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", c, err)
	}
	return links, payload, nil
}

// decodeNode fetches, opens and decodes a node.
func decodeNode[T any](ctx context.Context, r *Reader, kind seal.Kind, c cid.Cid, decode func([]cid.Cid, []byte) (T, error)) (v T, err error) {
	links, payload, err := r.node(ctx, kind, c)
	if err != nil {
		return v, err
	}
	if v, err = decode(links, payload); err != nil {
		var none T
		return none, fmt.Errorf("node %s: %w", c, damaged(err))
	}
	return v, nil
}

// Root reads the node that a snapshot's root CID names. It returns
// wire.ErrVersion or wire.ErrFeature for a snapshot of a later version.
func (r *Reader) Root(ctx context.Context, c cid.Cid) (wire.Root, error) {
	root, err := decodeNode(ctx, r, seal.KindRoot, c, wire.DecodeRoot)
	if err != nil {
		return wire.Root{}, err
	}
	return *root, nil
}

// Trace reads a recorded working set.
func (r *Reader) Trace(ctx context.Context, c cid.Cid) (*wire.Trace, error) {
	return decodeNode(ctx, r, seal.KindTrace, c, wire.DecodeTrace)
}

// Data fetches and opens a KindData block: unsealed and decompressed. A
// window's bytes start at its Off; Piece cuts them out.
func (r *Reader) Data(ctx context.Context, c cid.Cid) ([]byte, error) {
	if !c.Defined() || c.Prefix().Codec != cid.Raw {
		return nil, fmt.Errorf("%w: %s is not file content", ErrDamaged, c)
	}
	block, err := r.get.Get(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", c, err)
	}
	b, err := OpenData(r.sealer, block)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", c, err)
	}
	return b, nil
}
