package mark

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var (
	update = flag.Bool("update", false, "write golden files that are missing")
	force  = flag.Bool("update-released", false, "write golden files anew, also released ones: breaks every volume that is not complete")
)

const goldenDir = "testdata/golden/v1"

func TestGolden_BytesStayTheSame(t *testing.T) {
	made := marks(t)
	if *update || *force {
		check(t, os.MkdirAll(goldenDir, 0o755))
	}
	for name, m := range made {
		b, err := m.Encode()
		check(t, err)
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
		t.Errorf("%d golden files for %d marks, %v", len(files), len(made), err)
	}
}

func TestGolden_DecodesToWhatWasMade(t *testing.T) {
	for name, want := range marks(t) {
		got, err := decodeAny(name, golden(t, name))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s decodes to something else, or not: %v", name, err)
		}
	}
}

// decodeAny decodes by the kind that a golden file's name begins with.
func decodeAny(name string, b []byte) (any, error) {
	kind, _, _ := strings.Cut(name, "-")
	switch kind {
	case "file":
		return DecodeFile(b)
	case "dir":
		return DecodeDir(b)
	case "link":
		return DecodeLink(b)
	case "lifted":
		return DecodeLifted(b)
	case "source":
		return DecodeSource(b)
	}
	return DecodeTree(b)
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, name))
	check(t, err)
	return b
}
