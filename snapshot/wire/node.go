package wire

import (
	"bytes"

	"github.com/ipfs/go-cid"
)

// Version of the block form and of all payloads.
const Version = 1

// Node is a block of the tree: links in the clear, and the sealed payload.
type Node struct {
	Links  []cid.Cid
	Sealed []byte
}

type nodeWire struct {
	Links   []linkWire `cbor:"l"`
	Sealed  []byte     `cbor:"s"`
	Version uint64     `cbor:"v"`
}

// linkWire is a CID as a dag-cbor link: tag 42 around a byte string of a zero
// byte and the binary CID.
type linkWire struct{ cid.Cid }

var linkHead = []byte{0xd8, 0x2a, 0x58, 1 + cidLen, 0}

func (l linkWire) MarshalCBOR() ([]byte, error) {
	b := make([]byte, 0, len(linkHead)+cidLen)
	return append(append(b, linkHead...), l.KeyString()...), nil
}

func (l *linkWire) UnmarshalCBOR(b []byte) (err error) {
	if len(b) != len(linkHead)+cidLen || !bytes.HasPrefix(b, linkHead) {
		return malformed("link of a foreign form")
	}
	l.Cid, err = cid.Cast(b[len(linkHead):])
	return err
}

// EncodeNode makes the block: canonical dag-cbor of {"l": links, "s": sealed, "v": Version}.
func EncodeNode(links []cid.Cid, sealed []byte) ([]byte, error) {
	n := nodeWire{Links: make([]linkWire, len(links)), Sealed: sealed, Version: Version}
	if len(links) > MaxLinks {
		return nil, malformed("%d links, at most %d are allowed", len(links), MaxLinks)
	}
	for i, c := range links {
		if err := checkAnyLink(c); err != nil {
			return nil, err
		}
		n.Links[i] = linkWire{c}
	}
	b, err := enc.Marshal(n)
	if err != nil {
		return nil, malformed("%v", err)
	}
	if len(b) > MaxBlock {
		return nil, malformed("node of %d bytes, at most %d are allowed", len(b), MaxBlock)
	}
	return b, nil
}

// DecodeNode reads a block. It needs no key: what a stranger could have made
// passes here and fails when it is opened.
func DecodeNode(block []byte) (Node, error) {
	if len(block) > MaxBlock {
		return Node{}, malformed("node of %d bytes, at most %d are allowed", len(block), MaxBlock)
	}
	// The version first: a later one may have other fields.
	var v struct {
		Version uint64 `cbor:"v"`
	}
	if err := decPartN.Unmarshal(block, &v); err != nil {
		return Node{}, malformed("%v", err)
	}
	if v.Version != Version {
		return Node{}, badVersion(v.Version)
	}
	var w nodeWire
	if err := decNode.Unmarshal(block, &w); err != nil {
		return Node{}, malformed("%v", err)
	}
	n := Node{Links: make([]cid.Cid, len(w.Links)), Sealed: w.Sealed}
	for i, l := range w.Links {
		n.Links[i] = l.Cid
	}
	again, err := EncodeNode(n.Links, n.Sealed)
	if err != nil {
		return Node{}, err
	}
	if !bytes.Equal(block, again) {
		return Node{}, malformed("not in canonical form")
	}
	return n, nil
}

// AD is what a node's payload is sealed with as associated data: its links,
// as binary CIDs one behind the other.
func AD(links []cid.Cid) []byte {
	b := make([]byte, 0, len(links)*cidLen)
	for _, c := range links {
		b = append(b, c.KeyString()...)
	}
	return b
}

func checkAnyLink(c cid.Cid) error {
	if checkLink(c, codecData) == nil {
		return nil
	}
	return checkLink(c, codecNode)
}
