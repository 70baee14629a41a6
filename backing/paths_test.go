package backing

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPaths_NamesEveryLink(t *testing.T) {
	dir := subvolume(t, filepath.Join(pool(t), "v"))
	must(t, os.MkdirAll(filepath.Join(dir, "a/b c/\xff"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a/b c/\xff/one"), nil, 0o644))
	must(t, os.Link(filepath.Join(dir, "a/b c/\xff/one"), filepath.Join(dir, "two")))
	must(t, os.WriteFile(filepath.Join(dir, "three"), nil, 0o644))
	tree := openTree(t, dir)
	paths := func(path string) []string {
		t.Helper()
		list, err := tree.Paths(ino(t, filepath.Join(dir, path)))
		must(t, err)
		slices.Sort(list)
		return list
	}
	if got := paths("two"); !slices.Equal(got, []string{"a/b c/\xff/one", "two"}) {
		t.Errorf("names %q", got)
	}
	if got := paths("three"); !slices.Equal(got, []string{"three"}) {
		t.Errorf("names %q", got)
	}
	number := ino(t, filepath.Join(dir, "three"))
	must(t, os.Remove(filepath.Join(dir, "three")))
	if got, err := tree.Paths(number); err != nil || len(got) != 0 {
		t.Errorf("of a removed file: %q, %v", got, err)
	}
	// More names than there is room for: those that fit are whole.
	for i := range 40 {
		must(t, os.Link(filepath.Join(dir, "two"), filepath.Join(dir, strings.Repeat(string(rune('A'+i)), 200))))
	}
	got := paths("two")
	if len(got) < 10 || len(got) > 41 {
		t.Errorf("%d names", len(got))
	}
	for _, name := range got {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
