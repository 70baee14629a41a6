package ipfs

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"

	"fractal-lazy/store"
)

// A CARv1 is a header and any number of sections, each with its length in
// front (unsigned varint). The header is dag-cbor {"roots": [CID...],
// "version": 1}; a section is a binary CID followed by the block's bytes.
// https://ipld.io/specs/transport/car/carv1/

// writeCARHeader writes a header with one root. The root's CID is one that
// store.Check lets pass, so that its length is known: 36 bytes, 37 with the
// multibase prefix of a CBOR link (tag 42).
func writeCARHeader(w io.Writer, root cid.Cid) error {
	id := root.Bytes()
	h := []byte{0xa2, 0x65}
	h = append(h, "roots"...)
	h = append(h, 0x81, 0xd8, 0x2a, 0x58, byte(len(id)+1), 0)
	h = append(h, id...)
	h = append(h, 0x67)
	h = append(h, "version"...)
	h = append(h, 1)
	_, err := w.Write(append(binary.AppendUvarint(nil, uint64(len(h))), h...))
	return err
}

func writeCARBlock(w io.Writer, b store.Block) error {
	id := b.CID.Bytes()
	head := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64+len(id)), uint64(len(id)+len(b.Data)))
	if _, err := w.Write(append(head, id...)); err != nil {
		return err
	}
	_, err := w.Write(b.Data)
	return err
}

// readImportAnswer reads the answer of dag/import. It returns true where the
// line with the sums, which comes last, was there.
func readImportAnswer(r io.Reader) (stats bool, err error) {
	dec := json.NewDecoder(io.LimitReader(r, maxAnswer))
	for {
		var line struct {
			Root *struct {
				Cid         map[string]string
				PinErrorMsg string
			}
			Stats *struct{ BlockCount, BlockBytesCount uint64 }
		}
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			return stats, nil
		}
		if err != nil {
			return false, err
		}
		if line.Root != nil && line.Root.PinErrorMsg != "" {
			return false, fmt.Errorf("pin of a root: %s", shorten(line.Root.PinErrorMsg))
		}
		stats = stats || line.Stats != nil
	}
}
