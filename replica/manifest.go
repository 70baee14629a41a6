package replica

import (
	"fmt"
	"strings"

	"fractal-lazy/hive"
	"fractal-lazy/seal"
	"fractal-lazy/store"

	"github.com/ipfs/go-cid"
)

const dataScheme = "ipfs://"

// ParseRoot returns the root CID that a manifest's Data names. Only the form that Publish writes is taken: ipfs://, then the CID in
// its canonical text, of a dag-cbor block with a SHA-256. Anything else is hive.ErrFormat.
func ParseRoot(data string) (cid.Cid, error) {
	text, ok := strings.CutPrefix(data, dataScheme)
	if !ok {
		return cid.Undef, fmt.Errorf("%w: its data is not at %s<CID>", hive.ErrFormat, dataScheme)
	}
	c, err := cid.Decode(text)
	if err != nil {
		return cid.Undef, fmt.Errorf("%w: %w", hive.ErrFormat, err)
	}
	if err := store.Check(c); err != nil {
		return cid.Undef, fmt.Errorf("%w: %w", hive.ErrFormat, err)
	}
	if c.Prefix().Codec != store.DagCBOR || c.String() != text {
		return cid.Undef, fmt.Errorf("%w: %q is no root of a snapshot", hive.ErrFormat, text)
	}
	return c, nil
}

// newManifest describes the snapshot of j with the given root, which added so many bytes of blocks. It is the same, byte
// for byte, for the same Job, so that a Post whose answer was lost can be repeated.
func newManifest(j *Job, root cid.Cid, added uint64) *hive.Manifest {
	m := &hive.Manifest{
		Creation: uint64(max(j.Created.Unix(), 0)), Machine: j.Machine, Path: j.Snapshot,
		Size: added, SizeTotal: added, Generation: 1, Data: dataScheme + root.String(),
	}
	if j.Base.Hash != (hive.Hash{}) {
		m.Parent = &hive.Parent{Hash: j.Base.Hash}
		m.Generation = j.Base.Generation + 1
		m.Size = max(added, hive.MinChildSize)
		m.SizeTotal = j.Base.SizeTotal + m.Size
	}
	return m
}

// sameSnapshot tells whether a, which the Hive holds, says what b does of the volume. Their sizes may differ: a Job
// that is published again can find more blocks that it need not put.
func sameSnapshot(a, b *hive.Manifest) bool {
	parent := func(m *hive.Manifest) hive.Hash {
		if m.Parent == nil {
			return hive.Hash{}
		}
		return m.Parent.Hash
	}
	return a.Data == b.Data && a.Generation == b.Generation && a.Machine == b.Machine && parent(a) == parent(b)
}

// baseOf is what the Job after j starts from, with j's snapshot posted as m.
func baseOf(j *Job, root cid.Cid, m *hive.Manifest, chunkSize uint32) Base {
	return Base{Local: j.Snapshot, Root: root, Hash: m.Hash(), Generation: m.Generation, SizeTotal: m.SizeTotal, ChunkSize: chunkSize}
}

// volumeName is what messages call the volume of j.
func (j *Job) volumeName(p seal.Pubkey) string {
	if j.Volume != "" {
		return j.Volume
	}
	return p.String()
}
