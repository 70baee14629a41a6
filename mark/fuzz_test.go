package mark

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

// Each target holds a decoder to its word: what it takes encodes to the same
// bytes, and what it refuses it refuses with ErrFormat. The seeds are the
// golden files.
func fuzz[T any, P interface {
	*T
	Encode() ([]byte, error)
}](f *testing.F, pattern string, decode func([]byte) (P, error)) {
	files, err := filepath.Glob(filepath.Join(goldenDir, pattern))
	if err != nil || len(files) == 0 {
		f.Fatal(len(files), err)
	}
	for _, file := range files {
		f.Add(golden(f, filepath.Base(file)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) || m != nil {
				t.Fatalf("refused with %v and %v", m, err)
			}
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(b, again) {
			t.Fatalf("decoded, but encodes to %x, %v", again, err)
		}
	})
}

func FuzzDecodeFile(f *testing.F)   { fuzz(f, "file*", DecodeFile) }
func FuzzDecodeDir(f *testing.F)    { fuzz(f, "dir*", DecodeDir) }
func FuzzDecodeLink(f *testing.F)   { fuzz(f, "link*", DecodeLink) }
func FuzzDecodeSource(f *testing.F) { fuzz(f, "source*", DecodeSource) }
func FuzzDecodeTree(f *testing.F)   { fuzz(f, "tree*", DecodeTree) }
func FuzzDecodeLifted(f *testing.F) { fuzz(f, "lifted*", DecodeLifted) }
