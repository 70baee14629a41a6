package storetest

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"math/rand/v2"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// Block returns a raw block of size bytes that nothing compresses; the same
// seed gives the same one.
func Block(seed string, size int) store.Block {
	rng := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	data := make([]byte, size)
	_, _ = rng.Read(data) // it never fails
	return store.Block{CID: store.Sum(store.Raw, data), Data: data}
}

// Node returns a dag-cbor block of the shape that snapshots are made of:
// {"l": [links], "s": sealed bytes, "v": 1}.
func Node(seed string, links ...cid.Cid) store.Block {
	b := []byte{0xa3, 0x61, 'l'}
	b = cborHead(b, 4, len(links))
	for _, l := range links {
		b = append(b, 0xd8, 42) // tag 42
		b = cborHead(b, 2, len(l.Bytes())+1)
		b = append(b, 0) // multibase: binary
		b = append(b, l.Bytes()...)
	}
	sealed := Block(seed, 100).Data
	b = append(b, 0x61, 's')
	b = cborHead(b, 2, len(sealed))
	b = append(b, sealed...)
	b = append(b, 0x61, 'v', 1)
	return store.Block{CID: store.Sum(store.DagCBOR, b), Data: b}
}

func cborHead(b []byte, major byte, n int) []byte {
	switch {
	case n < 24:
		return append(b, major<<5|byte(n))
	case n < 1<<8:
		return append(b, major<<5|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major<<5|25), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, major<<5|26), uint32(n))
}

// Seq makes a sequence for PutMany of blocks that are at hand.
func Seq(blocks ...store.Block) iter.Seq2[store.Block, error] {
	return func(yield func(store.Block, error) bool) {
		for _, b := range blocks {
			if !yield(b, nil) {
				return
			}
		}
	}
}
