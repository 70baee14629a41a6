package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
)

var (
	update = flag.Bool("update", false, "write golden files that are missing")
	force  = flag.Bool("update-released", false, "write golden files anew, also released ones: breaks every snapshot in use")
)

const goldenDir = "testdata/golden/v1"

// goldens are the values of the golden files: nodes as blocks with the payload
// in place of the sealed bytes, references as they stand in marks.
func goldens(t testing.TB) map[string][]byte {
	out := make(map[string][]byte)
	node := func(name string, links []cid.Cid, payload []byte, err error) {
		t.Helper()
		if err == nil {
			out[name], err = EncodeNode(links, payload)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string) func(links []cid.Cid, payload []byte, err error) {
		return func(links []cid.Cid, payload []byte, err error) { t.Helper(); node(name, links, payload, err) }
	}
	add("root.node")(EncodeRoot(sampleRoot()))
	add("dir.node")(EncodeDir(sampleEntries()))
	add("dir-empty.node")(EncodeDir(nil))
	add("dirindex.node")(EncodeDirIndex(3, sampleChildren()[:20]))
	add("fileindex-leaf.node")(EncodeFileIndex(leafPos, &FileIndex{Windows: sampleLeaf().Windows[:20]}))
	add("fileindex-inner.node")(EncodeFileIndex(innerPos, &FileIndex{Children: sampleInner().Children[:20]}))
	patched := sampleRoot()
	patched.Features = FeaturePatches
	add("root-patched.node")(EncodeRoot(patched))
	add("dir-patched.node")(EncodeDir(patchedEntries()))
	add("fileindex-leaf-patched.node")(EncodeFileIndex(leafPos, &FileIndex{Windows: patchedLeaf().Windows[:20]}))
	out["content-patched.ref"] = EncodeContent(samplePatched())
	add("trace.node")(EncodeTrace(&Trace{Blocks: sampleTrace().Blocks[:20]}))
	for _, e := range sampleEntries() {
		name := hex.EncodeToString([]byte(e.Name[:min(6, len(e.Name))]))
		if e.Content != nil {
			out["content-"+name+".ref"] = EncodeContent(e.Content)
		}
		if e.Dir != nil {
			out["dirref-"+name+".ref"] = EncodeDirRef(e.Dir)
		}
	}
	return out
}

func TestGolden_BytesStayTheSame(t *testing.T) {
	made := goldens(t)
	if *update || *force {
		if err := os.MkdirAll(goldenDir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range made {
		path := filepath.Join(goldenDir, name)
		stored, err := os.ReadFile(path)
		if *force || (*update && errors.Is(err, os.ErrNotExist)) {
			err = os.WriteFile(path, b, 0o644)
			stored = b
		}
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(stored, b) {
			t.Errorf("%s differs from what is made now:\n%s", path, hex.Dump(b))
		}
	}
	files, err := filepath.Glob(filepath.Join(goldenDir, "*"))
	if err != nil || len(files) != len(made) {
		t.Errorf("%d golden files for %d values, %v", len(files), len(made), err)
	}
}

// golden returns a golden file's bytes; a node is split into links and payload.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenNode(t testing.TB, name string) (links, payload []byte) {
	t.Helper()
	n, err := DecodeNode(golden(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return AD(n.Links), n.Sealed
}
