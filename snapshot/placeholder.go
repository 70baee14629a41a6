package snapshot

import (
	"bytes"
	"crypto/sha256"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// Digests of placeholders begin so. No block's does: one would have to be looked for 2^64 times.
var (
	placeUnread  = [8]byte{'u', 'n', 'r', 'e', 'a', 'd', 0, 1}
	placeChanged = [8]byte{'c', 'h', 'a', 'n', 'g', 'e', 'd', 1}
)

// Placeholder is the CID of no block. In a tree that is made for Diff alone it stands in a window whose content was not read, so that it equals only the window that
// was made with the same about. changed: it is known that the content is another one than in the tree that it will be compared with.
func Placeholder(changed bool, about []byte) cid.Cid {
	d := sha256.Sum256(about)
	begin := placeUnread
	if changed {
		begin = placeChanged
	}
	copy(d[:], begin[:])
	h, err := multihash.Encode(d[:], multihash.SHA2_256)
	if err != nil { // the length is that of SHA-256
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, h)
}

// IsPlaceholder tells whether c is one.
func IsPlaceholder(c cid.Cid) bool { return begins(c, placeUnread) || begins(c, placeChanged) }

func begins(c cid.Cid, with [8]byte) bool {
	h := c.Hash()
	return len(h) >= sha256.Size && bytes.HasPrefix(h[len(h)-sha256.Size:], with[:])
}
