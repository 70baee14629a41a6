package store

import (
	"encoding/binary"
	"io"

	"github.com/ipfs/go-cid"
)

// A CARv1 is a header and any number of sections, each with its length in
// front (unsigned varint). The header is dag-cbor {"roots": [CID...],
// "version": 1}; a section is a binary CID followed by the block's bytes.
// https://ipld.io/specs/transport/car/carv1/

// WriteCARHeader writes the header of a CAR with the given roots, 23 at most. They are CIDs that Check lets pass, so that their length is known: 36 bytes, 37 with the
// multibase prefix of a CBOR link (tag 42).
func WriteCARHeader(w io.Writer, roots ...cid.Cid) error {
	h := append([]byte{0xa2, 0x65}, "roots"...)
	h = append(h, 0x80|byte(len(roots)))
	for _, c := range roots {
		id := c.Bytes()
		h = append(h, 0xd8, 0x2a, 0x58, byte(len(id)+1), 0)
		h = append(h, id...)
	}
	h = append(append(h, 0x67), "version"...)
	h = append(h, 1)
	_, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(h))), h...))
	return err
}

// WriteCARBlock writes a section.
func WriteCARBlock(w io.Writer, b Block) error {
	id := b.CID.Bytes()
	head := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64+len(id)), uint64(len(id)+len(b.Data)))
	if _, err := w.Write(append(head, id...)); err != nil {
		return err
	}
	_, err := w.Write(b.Data)
	return err
}
