package wire

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

var (
	// ErrFormat: bytes that are no node, payload or reference of this format,
	// or not the one encoding of it.
	ErrFormat = errors.New("not in the snapshot format")
	// ErrVersion: made by a version of the format that is not known here.
	ErrVersion = errors.New("snapshot format version is not supported")
	// ErrFeature: the snapshot uses a feature that is not known here.
	ErrFeature = errors.New("snapshot uses a feature that is not supported")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

var (
	enc = must(cbor.EncOptions{
		Sort:          cbor.SortCanonical,
		IndefLength:   cbor.IndefLengthForbidden,
		NilContainers: cbor.NilContainerAsEmpty,
	}.EncMode())
	// dec is strict; what it still lets pass (integers longer than needed,
	// map keys out of order) is caught by encoding again and comparing.
	dec      = must(strict(cbor.TagsForbidden, cbor.ExtraDecErrorUnknownField).DecMode())
	decNode  = must(strict(cbor.TagsAllowed, cbor.ExtraDecErrorUnknownField).DecMode())
	decPart  = must(strict(cbor.TagsForbidden, cbor.ExtraDecErrorNone).DecMode())
	decPartN = must(strict(cbor.TagsAllowed, cbor.ExtraDecErrorNone).DecMode())
)

// strict bounds what the decoder allocates: an array of MaxLinks elements is
// the longest in the format.
func strict(tags cbor.TagsMode, extra cbor.ExtraDecErrorCond) cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            tags,
		MaxArrayElements:  MaxLinks,
		MaxMapPairs:       32,
		MaxNestedLevels:   8,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		ExtraReturnErrors: extra,
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// unmarshal decodes a payload of at most max bytes.
func unmarshal(payload []byte, max int, v any) error {
	if len(payload) > max {
		return malformed("%d bytes, at most %d are allowed", len(payload), max)
	}
	if err := dec.Unmarshal(payload, v); err != nil {
		return malformed("%v", err)
	}
	return nil
}

// same returns an error where a decoded value encodes to other bytes or other
// links than it was decoded from.
func same(links, again []cid.Cid, payload, payloadAgain []byte) error {
	if !bytes.Equal(payload, payloadAgain) {
		return malformed("not in canonical form")
	}
	if len(links) != len(again) {
		return malformed("%d links, the payload uses %d", len(links), len(again))
	}
	for i := range links {
		if !links[i].Equals(again[i]) {
			return malformed("links are not in the order of their first use")
		}
	}
	return nil
}

// Codecs of links, as in the multicodec table.
const (
	codecData = cid.Raw
	codecNode = cid.DagCBOR
)

// cidLen is the length of a binary CID of the one form that is used here:
// version 1, codec, SHA-256, 32 bytes.
const cidLen = 36

// checkLink returns an error where c is not of that form with the given codec.
func checkLink(c cid.Cid, codec byte) error {
	s := c.KeyString()
	if len(s) != cidLen || s[0] != 1 || s[1] != codec || s[2] != 0x12 || s[3] != 0x20 {
		return malformed("link of a foreign form")
	}
	return nil
}

// table numbers the links of a node by their first use.
type table struct {
	links []cid.Cid
	index map[cid.Cid]uint64
}

func (t *table) add(c cid.Cid) uint64 {
	if i, ok := t.index[c]; ok {
		return i
	}
	if t.index == nil {
		t.index = make(map[cid.Cid]uint64)
	}
	i := uint64(len(t.links))
	t.index[c] = i
	t.links = append(t.links, c)
	return i
}

// linkAt looks a link's number up.
func linkAt(links []cid.Cid, i uint64) (cid.Cid, error) {
	if i >= uint64(len(links)) {
		return cid.Undef, malformed("link %d of %d", i, len(links))
	}
	return links[i], nil
}
