package mark

import (
	"crypto/sha256"
	"testing"

	"fractal-lazy/snapshot/wire"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// link is a CID of the given codec, the same for the same seed.
func link(codec uint64, seed byte) cid.Cid {
	sum := sha256.Sum256([]byte{seed})
	h, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, h)
}

// small is the content of a file of 5,000 bytes.
func small() wire.Content {
	return wire.Content{Size: 5000, ChunkSize: wire.DefChunk, Data: 5000,
		Windows: []wire.Window{{Index: 0, Block: link(cid.Raw, 1), Off: 12_345}}}
}

// large is the content of a file of 1 TiB.
func large() wire.Content {
	return wire.Content{Size: 1 << 40, ChunkSize: wire.DefChunk, Data: 1<<40 - 8192, Index: link(cid.DagCBOR, 2), Depth: 3}
}

// widest is the content that takes the most bytes in a mark.
func widest(t testing.TB) wire.Content {
	t.Helper()
	c := wire.Content{Size: 1 << 60, ChunkSize: wire.MaxChunk}
	for i := range uint64(wire.MaxInline) {
		w := wire.Window{Index: 1<<40 + i, Block: link(cid.Raw, byte(10+i)), Off: 1 << 16}
		for s := uint64(0); s < wire.MaxChunk/wire.Sector; s += 2 {
			w.Data = append(w.Data, wire.Range{Off: s * wire.Sector, Len: wire.Sector})
			c.Data += wire.Sector
		}
		c.Windows = append(c.Windows, w)
	}
	check(t, c.Check())
	return c
}

// patched is a content of which every window has a patch, and the most bytes.
func patched(t testing.TB) wire.Content {
	t.Helper()
	c := widest(t)
	for i := range c.Windows {
		w := &c.Windows[i]
		last := len(w.Data) - 1
		w.Patch = &wire.Patch{Block: link(cid.Raw, byte(20+i)), Off: 1 << 18, Data: w.Data[last-15:], Base: w.Data[:last], Sum: [16]byte{byte(i), 15: 255}}
	}
	check(t, c.Check())
	return c
}

var (
	then  = wire.Time{Sec: 1_700_000_000, Nsec: 123_456_789}
	early = wire.Time{Sec: -5, Nsec: 999_999_999}
)

// marks are the values of the golden files.
func marks(t testing.TB) map[string]interface{ Encode() ([]byte, error) } {
	caps := make([]byte, 24)
	caps[0], caps[3], caps[5] = 1, 3, 0x20
	var zero []wire.Range
	for i := range uint64(MaxZero) {
		zero = append(zero, wire.Range{Off: 1<<35 + i*3*wire.Sector, Len: wire.Sector})
	}
	ref := wire.DirRef{Node: link(cid.DagCBOR, 3), Depth: 2, Files: 1_000_000, Dirs: 77, Bytes: 1 << 40}
	return map[string]interface{ Encode() ([]byte, error) }{
		"file-pending": &File{State: Pending, Content: small(), Valid: 5000, Kept: true, Mtime: then, Ctime: wire.Time{Sec: 1_800_000_000}},
		"file-pending-protected": &File{State: Pending, Content: large(), Valid: 1 << 40, Kept: true, Mtime: early, Caps: caps,
			Flags: wire.FlagImmutable | wire.FlagAppend, Ctime: then},
		"file-pending-changed": &File{State: Pending, Content: large(), Valid: 1<<39 + 1,
			Zero: []wire.Range{{Off: 0, Len: wire.Sector}, {Off: 4 * wire.Sector, Len: 1 << 30}}},
		"file-held": &File{State: Pending, Content: small(), Valid: 4096, Zero: []wire.Range{{Off: 0, Len: wire.Sector}}, Held: true, Mtime: then, Caps: caps,
			Flags: wire.FlagAppend},
		"file-pending-full":  &File{State: Pending, Content: large(), Valid: 1 << 40, Zero: zero},
		"file-clean":         &File{State: Clean, Content: small(), Ctime: then, Done: wire.Time{Sec: 1_800_000_000, Nsec: 1}},
		"file-clean-sparse":  &File{State: Clean, Content: widest(t), Done: then},
		"file-clean-patched": &File{State: Clean, Content: patched(t), Ctime: then, Done: then},
		"file-held-patched":  &File{State: Pending, Content: patched(t), Valid: 4096, Zero: zero[:100], Held: true, Mtime: then, Caps: caps},
		"dir":                &Dir{Ref: ref, Mtime: then},
		"dir-protected":      &Dir{Ref: wire.DirRef{Node: link(cid.DagCBOR, 4)}, Mtime: early, Flags: wire.FlagAppend},
		"link":               &Link{ID: 1<<64 - 1, Pending: 3, Hidden: true},
		"link-filled":        &Link{ID: 1},
		"lifted":             &Lifted{Ino: 1<<40 + 257, Flags: wire.FlagImmutable | wire.FlagAppend},
		"source":             &Source{Pubkey: [32]byte{0: 1, 31: 32}},
		"tree":               &Tree{Root: link(cid.DagCBOR, 5), Files: 10_000_000, Dirs: 23, Bytes: 1 << 50},
	}
}
