package store

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// MaxBlock is the largest block that every path between two IPFS nodes
// carries: 1 MiB. PutMany refuses larger ones, Get refuses to read more.
const MaxBlock = 1 << 20

// Codecs of the blocks that this project makes (multicodec table).
const (
	Raw     = cid.Raw     // sealed file content
	DagCBOR = cid.DagCBOR // nodes with links
)

// Errors that a Store returns, wrapped, to be matched with errors.Is.
var (
	// ErrNotFound: the store answered, and it does not hold the block.
	ErrNotFound = errors.New("block not found")
	// ErrCorrupt: what came back does not hash to the CID that was asked
	// for. The bytes are dropped; asking again may help.
	ErrCorrupt = errors.New("block does not match its CID")
	// ErrUnavailable: the store could not be asked or answered with a
	// failure of its own (refused connection, time-out, 5xx).
	ErrUnavailable = errors.New("block store is unavailable")
	// ErrDenied: the store refused the token (401, 403).
	ErrDenied = errors.New("block store refused the token")
	// ErrNotPinned: PinUpdate from a root that is not pinned. Pin is the way
	// out, at the cost of the whole.
	ErrNotPinned = errors.New("root is not pinned")
	// ErrTooLarge: a block over MaxBlock.
	ErrTooLarge = errors.New("block is over 1 MiB")
)

// Block is a CID and the bytes that hash to it.
type Block struct {
	CID  cid.Cid
	Data []byte
}

// Store keeps content-addressed blocks. Every method may be called from many
// goroutines at once. No method retries: waiting and trying again is policy,
// and belongs to the caller.
type Store interface {
	// Get returns the bytes of c, verified against it. The caller owns them.
	Get(ctx context.Context, c cid.Cid) ([]byte, error)

	// Has tells for each of cids whether the store holds it, in their order.
	// It never makes the store look for a block elsewhere.
	Has(ctx context.Context, cids []cid.Cid) ([]bool, error)

	// PutMany stores the blocks in one stream. When it returns nil all of
	// them are durable in the store; after an error any part of them may be.
	// The sequence is read from one goroutine; a block's Data is not kept
	// after the next one was asked for. An error that the sequence yields
	// ends the call and is returned. A dag-cbor block that cannot be decoded
	// may be refused (ErrCorrupt), one over MaxBlock always is (ErrTooLarge).
	PutMany(ctx context.Context, blocks iter.Seq2[Block, error]) error

	// Pin protects everything that root reaches from collection. It fails
	// (ErrNotFound) where root or a block below it is missing. Pinning what
	// is pinned is no error.
	Pin(ctx context.Context, root cid.Cid) error

	// PinUpdate pins next like Pin, at the cost of its difference from prev,
	// which is pinned (else ErrNotPinned) and stays so.
	PinUpdate(ctx context.Context, prev, next cid.Cid) error

	// Unpin gives up the protection of root. Unpinning what is not pinned
	// is no error.
	Unpin(ctx context.Context, root cid.Cid) error

	// Pinned tells whether root itself is pinned recursively.
	Pinned(ctx context.Context, root cid.Cid) (bool, error)
}

// Sum returns the CIDv1 (SHA-256) of data under the given codec.
func Sum(codec uint64, data []byte) cid.Cid {
	mh, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil { // SHA-256 is always registered
		panic(err)
	}
	return cid.NewCidV1(codec, mh)
}

// Verify returns ErrCorrupt where data does not hash to c, or where c is not
// of the one form that this project makes (CIDv1, SHA-256, 32 bytes).
func Verify(c cid.Cid, data []byte) error {
	if err := Check(c); err != nil {
		return err
	}
	if !Sum(c.Prefix().Codec, data).Equals(c) {
		return fmt.Errorf("%w: %s", ErrCorrupt, c)
	}
	return nil
}

// Check returns an error where c is not a CIDv1 with a 32-byte SHA-256, raw
// or dag-cbor: identity and weak hashes must never pass as verified.
func Check(c cid.Cid) error {
	if !c.Defined() {
		return fmt.Errorf("%w: undefined CID", ErrCorrupt)
	}
	p := c.Prefix()
	if p.Version != 1 || p.MhType != multihash.SHA2_256 || p.MhLength != 32 || (p.Codec != Raw && p.Codec != DagCBOR) {
		return fmt.Errorf("%w: %s is not a CIDv1 of SHA-256", ErrCorrupt, c)
	}
	return nil
}
