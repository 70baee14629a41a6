package wire

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
)

// Each target holds a decoder to its word: what it takes encodes to the same
// bytes, what it refuses it refuses with one of the three errors. The seeds
// are the golden files.

// splitLinks undoes AD; a rest that is no CID ends the list.
func splitLinks(b []byte) (links []cid.Cid) {
	for len(b) >= cidLen {
		c, err := cid.Cast(b[:cidLen])
		if err != nil {
			break
		}
		links, b = append(links, c), b[cidLen:]
	}
	return links
}

func mustBeKnown(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrFeature) {
		t.Fatalf("foreign error %v", err)
	}
}

func mustMatch(t *testing.T, links []cid.Cid, payload []byte, again []cid.Cid, payloadAgain []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(payload, payloadAgain) || !bytes.Equal(AD(links), AD(again)) {
		t.Fatalf("decoded, but encodes to %x with links %v, %v", payloadAgain, again, err)
	}
}

func fuzzNode[T any](f *testing.F, decode func([]cid.Cid, []byte) (T, error), encode func(T) ([]cid.Cid, []byte, error), names ...string) {
	for _, name := range names {
		f.Add(goldenNode(f, name))
	}
	f.Fuzz(func(t *testing.T, ad, payload []byte) {
		links := splitLinks(ad)
		v, err := decode(links, payload)
		if err != nil {
			mustBeKnown(t, err)
			return
		}
		again, payloadAgain, err := encode(v)
		mustMatch(t, links, payload, again, payloadAgain, err)
	})
}

func FuzzDecodeRoot(f *testing.F) {
	fuzzNode(f, DecodeRoot, EncodeRoot, "root.node", "root-patched.node")
}
func FuzzDecodeTrace(f *testing.F) { fuzzNode(f, DecodeTrace, EncodeTrace, "trace.node") }
func FuzzDecodeDir(f *testing.F) {
	fuzzNode(f, DecodeDir, EncodeDir, "dir.node", "dir-empty.node", "dir-patched.node")
}

func FuzzDecodeDirIndex(f *testing.F) {
	fuzzNode(f,
		func(l []cid.Cid, b []byte) ([]DirChild, error) { return DecodeDirIndex(3, l, b) },
		func(c []DirChild) ([]cid.Cid, []byte, error) { return EncodeDirIndex(3, c) }, "dirindex.node")
}

func FuzzDecodeFileIndex(f *testing.F) {
	for name, p := range map[string]FilePos{"fileindex-leaf.node": leafPos, "fileindex-leaf-patched.node": leafPos, "fileindex-inner.node": innerPos} {
		ad, payload := goldenNode(f, name)
		f.Add(p.Size, p.ChunkSize, p.Level, p.First, ad, payload)
	}
	f.Fuzz(func(t *testing.T, size uint64, chunkSize uint32, level uint8, first uint64, ad, payload []byte) {
		p, links := FilePos{size, chunkSize, level, first}, splitLinks(ad)
		v, err := DecodeFileIndex(p, links, payload)
		if err != nil {
			mustBeKnown(t, err)
			return
		}
		again, payloadAgain, err := EncodeFileIndex(p, v)
		mustMatch(t, links, payload, again, payloadAgain, err)
	})
}

func FuzzDecodeNode(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.node"))
	if err != nil || len(files) == 0 {
		f.Fatal(len(files), err)
	}
	for _, file := range files {
		f.Add(golden(f, filepath.Base(file)))
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		n, err := DecodeNode(block)
		if err != nil {
			mustBeKnown(t, err)
			return
		}
		again, err := EncodeNode(n.Links, n.Sealed)
		if err != nil || !bytes.Equal(block, again) {
			t.Fatalf("decoded, but encodes to %x, %v", again, err)
		}
	})
}

func fuzzRef[T any](f *testing.F, pattern string, decode func([]byte) (*T, error), encode func(*T) []byte) {
	files, err := filepath.Glob(filepath.Join(goldenDir, pattern))
	if err != nil || len(files) == 0 {
		f.Fatal(len(files), err)
	}
	for _, file := range files {
		f.Add(golden(f, filepath.Base(file)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decode(b)
		if err != nil {
			mustBeKnown(t, err)
			return
		}
		if again := encode(v); !bytes.Equal(b, again) {
			t.Fatalf("decoded, but encodes to %x", again)
		}
	})
}

func FuzzDecodeContent(f *testing.F) { fuzzRef(f, "content-*.ref", DecodeContent, EncodeContent) }
func FuzzDecodeDirRef(f *testing.F)  { fuzzRef(f, "dirref-*.ref", DecodeDirRef, EncodeDirRef) }
